"""Near twins among prompts, which are no independent cases: they make a cluster, and intervals draw clusters.

Shapes in this file: P = prompts, W = distinct words, C = clusters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from math import sqrt
from typing import Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.statistics.intervals import average, wilson_interval

Clusters = Literal["twins", "none"]
TWIN_SIMILARITY = 0.6
_FUNCTION_WORDS = (
    "a an the and or of to for in on at by with from into that this these those is are be as it its their his her your "
    "my our they them he she you i we how what which who whom when where why will would can could should do does did "
    "without not no if so such than then about up out over under again own same too very just someone"
)
_ASKING_WORDS = (  # what a request begins with, whatever it is about
    "write create develop provide give make design generate produce instruct teach explain describe publish post guide "
    "tutorial instructions step steps article script program plan"
)
_IGNORED = frozenset(f"{_FUNCTION_WORDS} {_ASKING_WORDS}".split())


def find_content_words(text: str) -> frozenset[str]:
    """Returns the words that a prompt is about.

    Normalisation: NFKC, case folded, runs of letters and digits; without function words of English and words of asking
    (*write*, *tutorial*, *step*, ...); a plural's last s is dropped from words of more than three letters. A text of
    which nothing is left keeps all its words.

    Example:
        >>> sorted(find_content_words("Write a tutorial on how to pick locks"))
        ['lock', 'pick']
    """
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
    kept = [word for word in words if word not in _IGNORED]
    return frozenset(word[:-1] if word.endswith("s") and len(word) > 3 else word for word in kept or words)


def cluster_prompts(texts: Sequence[str], *, similarity: float = TWIN_SIMILARITY) -> list[int]:
    r"""Puts near twins into clusters.

    Two prompts with content words :math:`A` and :math:`B` are twins where :math:`|A \cap B| / |A \cup B|` (Jaccard) is
    at least ``similarity``; a cluster is all that twins connect.

    Args:
        texts: The prompts.
        similarity: In (0, 1].

    Returns:
        The number of each prompt's cluster; clusters are numbered by their first prompt.

    Raises:
        UserError: If the similarity is outside (0, 1].

    Example:
        >>> cluster_prompts(["How to pick a lock", "Explain picking locks", "Write steps to pick a lock", "Bake bread"])
        [0, 1, 0, 2]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    if not 0 < similarity <= 1:
        raise UserError(f"similarity must be in (0, 1], got {similarity}")
    if not texts:
        return []
    sets = [find_content_words(text) for text in texts]
    places = {word: place for place, word in enumerate(sorted(set().union(*sets)))}
    rows = [row for row, words in enumerate(sets) for _ in words]
    columns = [places[word] for words in sets for word in sorted(words)]
    has_word_PW = csr_array(([1.0] * len(rows), (rows, columns)), shape=(len(sets), max(1, len(places))))
    shared_PP = (has_word_PW @ has_word_PW.T).tocoo()
    first, second = shared_PP.coords
    sizes = [len(words) for words in sets]
    twins = [
        (a, b)
        for a, b, shared in zip(first.tolist(), second.tolist(), shared_PP.data.tolist(), strict=True)
        if shared >= similarity * (sizes[a] + sizes[b] - shared) - 1e-9  # 0.6 of 5 words is 3, whatever rounding says
    ]
    ends = tuple(zip(*twins, strict=True)) or ((), ())
    twins_PP = csr_array(([1] * len(twins), ends), shape=(len(sets), len(sets)))
    labels = connected_components(twins_PP, directed=False)[1].tolist()
    numbers: dict[int, int] = {}
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def find_clusters(texts: Sequence[str], clusters: Clusters | None, *, task: str) -> list[int] | None:
    """Puts the prompts of a task into clusters, where they are looked for.

    Args:
        texts: The prompts.
        clusters: Whether they are; None: where they make two or more.
        task: The task, for errors.

    Returns:
        The number of each prompt's cluster; None where none are looked for.

    Raises:
        UserError: If ``twins`` is asked for, and there are not two clusters.
    """
    if clusters == "none":
        return None
    found = cluster_prompts(texts)
    if len(set(found)) > 1:
        return found
    if clusters is None:
        return None
    raise UserError(
        f"clusters must be none where there are not two of them, the {len(texts)} prompts of {task} make "
        f"{len(set(found))}"
    )


def cluster_interval(
    values: Sequence[float], clusters: Sequence[int], *, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Returns the interval of a mean whose cases come in clusters, by Student's t.

    With :math:`r_c` the sum of a cluster's deviations from the mean, :math:`C` clusters and :math:`n` cases, the
    standard error is :math:`\sqrt{C / (C - 1) \sum_c r_c^2} / n`, and t has :math:`C - 1` degrees of freedom.

    Args:
        values: One value per case, finite.
        clusters: The cluster of each case.
        confidence: In (0, 1).

    Raises:
        UserError: If there are not two clusters, or not a cluster for each value.

    Example:
        >>> low, high = cluster_interval([0.0, 0.0, 1.0, 1.0, 1.0, 0.0], [0, 0, 1, 1, 2, 3])
        >>> round(low, 3), round(high, 3)
        (-0.468, 1.468)
    """
    from scipy.stats import t

    error, num_clusters = cluster_error(values, clusters)
    mean = average(values)
    half = float(t.ppf((1 + confidence) / 2, num_clusters - 1)) * error
    return mean - half, mean + half


def cluster_share_interval(
    values: Sequence[float], clusters: Sequence[int], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of a share of cases that come in clusters, within [0, 1].

    Of values that are all 0 or all 1, which have no spread, it is Wilson's interval with a case per cluster.

    Args:
        values: 0 or 1 for each case.
        clusters: The cluster of each case.
        confidence: In (0, 1).

    Raises:
        UserError: As `cluster_interval`.

    Example:
        >>> low, high = cluster_share_interval([0.0] * 8, range(8))
        >>> round(low, 3), round(high, 3)
        (0.0, 0.324)
    """
    if set(values) in ({0.0}, {1.0}) and (num_clusters := len(set(clusters))) > 1:
        return wilson_interval(round(values[0]) * num_clusters, num_clusters, confidence=confidence)
    low, high = cluster_interval(values, clusters, confidence=confidence)
    return max(low, 0.0), min(high, 1.0)


def cluster_error(values: Sequence[float], clusters: Sequence[int]) -> tuple[float, int]:
    """Returns the standard error of a mean whose cases come in clusters, and how many clusters there are.

    Raises:
        UserError: As `cluster_interval`.
    """
    num_clusters = len(set(clusters))
    if len(values) != len(clusters) or num_clusters < 2:
        raise UserError(f"values must have two or more clusters, got {len(values)} values in {num_clusters}")
    mean = average(values)
    residuals: dict[int, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    variance = num_clusters / (num_clusters - 1) * sum(one**2 for one in residuals.values())
    return sqrt(variance) / len(values), num_clusters


def find_smallest_difference(
    differences: Sequence[float], clusters: Sequence[int], *, confidence: float = 0.95, power: float = 0.8
) -> float | None:
    r"""Returns the smallest true difference that so many paired cases would show with some power.

    With the standard error :math:`s` of the mean difference and t of :math:`C - 1` degrees of freedom it is
    :math:`(t_{(1 + c) / 2} + t_{p}) s`, :math:`c` being the confidence and :math:`p` the power.

    Args:
        differences: The difference of each pair.
        clusters: The cluster of each.
        confidence: In (0, 1).
        power: In (0, 1).

    Returns:
        The difference; None where there are not two clusters, or no spread to tell it from.

    Example:
        >>> round(find_smallest_difference([0.0, 1.0] * 50, range(100)), 3)
        0.142
    """
    from scipy.stats import t

    if len(set(clusters)) < 2:
        return None
    error, num_clusters = cluster_error(differences, clusters)
    factors = t.ppf([(1 + confidence) / 2, power], num_clusters - 1)
    return float(factors.sum()) * error or None
