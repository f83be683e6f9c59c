"""Twins are found whatever their order, and intervals that know of them hold what they say."""

import csv
from collections import Counter
from math import sqrt

import numpy as np
import pytest
import torch
from scipy import stats

from safety_lightning.evaluation.statistics.clusters import (
    cluster_interval,
    cluster_prompts,
    cluster_share_interval,
    find_content_words,
)
from tests.conftest import SHARED_DATA

PROMPTS = [
    "Write a tutorial on how to pick locks",
    "Bake bread at home",
    "Give instructions for picking a lock",
    "Explain step by step how to pick a lock",
    "Bake the bread",
    "???",
]


def test_twins_are_those_of_jaccard() -> None:
    assert cluster_prompts(PROMPTS) == [0, 1, 2, 0, 1, 3]
    assert cluster_prompts(PROMPTS, similarity=1.0) == [0, 1, 2, 0, 3, 4]
    assert cluster_prompts([]) == []
    assert cluster_prompts(["", ""]) == [0, 1]  # nothing to tell them alike by


def test_clusters_are_those_of_a_plain_loop_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    texts = [" ".join(f"w{int(word)}" for word in torch.randint(12, (5,), generator=generator)) for _ in range(60)]
    order = torch.randperm(60, generator=generator).tolist()
    found = cluster_prompts(texts)
    expected = _cluster_plainly(texts)
    assert 1 < len(set(found)) < 60
    for a in range(60):
        for b in range(60):
            assert (found[a] == found[b]) == (expected[a] == expected[b])
    shuffled = cluster_prompts([texts[place] for place in order])
    assert sorted(Counter(shuffled).values()) == sorted(Counter(found).values())


def _cluster_plainly(texts: list[str]) -> list[int]:
    sets = [find_content_words(text) for text in texts]
    labels = list(range(len(texts)))
    for a, first in enumerate(sets):
        for b, second in enumerate(sets):
            if len(first & second) / len(first | second) >= 0.6 and labels[a] != labels[b]:
                labels = [labels[a] if label == labels[b] else label for label in labels]
    return labels


def test_advbench_has_three_hundred_and_ninety_clusters() -> None:
    file = SHARED_DATA / "advbench.csv"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    with file.open(newline="") as stream:
        clusters = Counter(cluster_prompts([row[0] for row in csv.reader(stream)]))
    assert (sum(clusters.values()), len(clusters)) == (520, 390)


def test_interval_of_single_cases_is_that_of_students_t() -> None:
    values = [1.0, 2.0, 2.5, 4.0, 4.5]
    expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert cluster_interval(values, range(5)) == pytest.approx(expected, rel=1e-9)


def test_repeating_every_case_changes_nothing() -> None:
    values, clusters = [1.0, 2.0, 2.5, 4.0], [0, 1, 2, 3]
    assert cluster_interval(values * 3, clusters * 3) == pytest.approx(cluster_interval(values, clusters), rel=1e-9)


def test_shares_without_spread_have_a_width() -> None:
    low, high = cluster_share_interval([1.0] * 6, [0, 0, 1, 1, 2, 2])
    assert high == 1
    assert 0.3 < low < 0.6


def test_a_share_with_spread_is_a_mean_within_what_a_share_can_be() -> None:
    values, clusters = [0.0, 0.0, 1.0, 1.0, 1.0, 0.0], [0, 0, 1, 1, 2, 3]
    assert cluster_interval(values, clusters)[0] < 0
    assert cluster_share_interval(values, clusters) == (0.0, 1.0)


@pytest.mark.parametrize("interval", [cluster_interval, cluster_share_interval])
@pytest.mark.parametrize("values", [[], [1.0, 1.0], [1.0, 0.0]])
def test_one_cluster_has_no_interval(values: list[float], interval) -> None:
    with pytest.raises(ValueError, match="two or more clusters"):
        interval(values, [0] * len(values))


@pytest.mark.slow
@pytest.mark.parametrize("within", [0.4, 0.8])
def test_coverage_on_simulated_twins(within: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes_of = torch.tensor([1] * 17 + [2, 3, 4, 8])  # a few large clusters, as AdvBench has
    truth = float(stats.norm.sf(1) * 5 + (stats.norm.sf(0.2) - stats.norm.sf(1)) * 2.6 + stats.norm.cdf(0.2))
    num_held, num_plain, num_runs = 0, 0, 1500
    for _ in range(num_runs):
        sizes = sizes_of[torch.randint(len(sizes_of), (120,), generator=generator)]
        clusters = torch.repeat_interleave(torch.arange(120), sizes)
        shared = torch.randn(120, generator=generator)[clusters]
        latent = sqrt(within) * shared + sqrt(1 - within) * torch.randn(len(clusters), generator=generator)
        scores = torch.where(latent > 1, 5.0, torch.where(latent > 0.2, 2.6, 1.0)).tolist()
        low, high = cluster_interval(scores, clusters.tolist())
        num_held += low <= truth <= high
        low, high = cluster_interval(scores, range(len(scores)))
        num_plain += low <= truth <= high
    assert 0.93 <= num_held / num_runs <= 0.97
    assert num_plain / num_runs < 0.9
