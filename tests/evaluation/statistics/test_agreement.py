"""Krippendorff's alpha against published examples and a slow version of its definition."""

import itertools
import random

import pytest

from safety_lightning.evaluation.statistics.agreement import measure_agreement

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example of four observers with missing values
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]


def compute_alpha_slowly(scores, level):
    """Mean distance of pairs within answers, and of pairs of all scores, pair by pair."""
    units = [[score for score in unit if score is not None] for unit in zip(*scores, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    pool = [score for unit in units for score in unit]

    def distance(a, b):
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= score <= high for score in pool)
        return (between - (pool.count(a) + pool.count(b)) / 2) ** 2 if a != b else 0.0

    within = sum(
        sum(distance(a, b) for a, b in itertools.permutations(unit, 2)) / (len(unit) - 1) for unit in units
    ) / len(pool)
    overall = sum(distance(a, b) for a, b in itertools.permutations(pool, 2)) / (len(pool) * (len(pool) - 1))
    return 1 - within / overall


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_published_example(level, alpha):
    agreement = measure_agreement(PUBLISHED, level=level)
    assert agreement.alpha == pytest.approx(alpha, abs=0.0005)
    assert (agreement.num_pairable, agreement.num_total, agreement.level) == (11, 12, level)


def test_published_example_of_two_observers_with_two_values():
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]  # the same paper, its first example
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert measure_agreement([first, second], level="nominal").alpha == pytest.approx(0.095, abs=0.0005)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(6))
def test_it_equals_the_definition(level, seed):
    draw = random.Random(seed)
    num_judges = draw.choice([2, 2, 3, 5])
    values = [1, 2, 3, 4, 5] if seed % 2 else [draw.uniform(1, 5) for _ in range(40)]
    scores = [[draw.choice(values) if draw.random() < 0.8 else None for _ in range(30)] for _ in range(num_judges)]
    assert measure_agreement(scores, level=level).alpha == pytest.approx(compute_alpha_slowly(scores, level), abs=1e-12)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_whole_agreement_is_one(level):
    assert measure_agreement([[1, 5, 3, None], [1, 5, 3, 2]], level=level).alpha == 1.0


def test_systematic_disagreement_is_below_zero():
    assert measure_agreement([[1, 5, 1, 5], [5, 1, 5, 1]]).alpha < -0.5


def test_chance_is_about_zero():
    draw = random.Random(0)
    scores = [[draw.randint(1, 5) for _ in range(3000)] for _ in range(2)]
    assert abs(measure_agreement(scores, level="ordinal").alpha) < 0.05


def test_what_one_judge_left_out_counts_for_nothing():
    alone = measure_agreement([[1, 2, 5], [1, 3, 5]])
    beside = measure_agreement([[1, 2, 5, 4, None, None], [1, 3, 5, None, 2, None]])
    assert alone.alpha == beside.alpha
    assert (alone.num_pairable, beside.num_pairable, beside.num_total) == (3, 3, 6)


def test_scores_that_are_all_the_same_have_no_alpha():
    assert measure_agreement([[5, 5, 5], [5, 5, None]]).alpha is None


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1, 2]], r"two or more judges over the same answers, got lengths \[2\]"),
        ([[1, 2], [1]], r"two or more judges over the same answers, got lengths \[2, 1\]"),
        ([[1, None], [None, 2]], "an answer that two judges scored, got none of 2"),
        ([[], []], "an answer that two judges scored, got none of 0"),
        ([[1, float("nan")], [1, 2]], "finite or None, got NaN or infinity"),
    ],
)
def test_bad_scores(scores, message):
    with pytest.raises(ValueError, match=message):
        measure_agreement(scores)


def test_unknown_level():
    with pytest.raises(ValueError, match="level must be nominal, ordinal or interval, got 'ratio'"):
        measure_agreement([[1, 2], [1, 2]], level="ratio")
