"""The frontier against a slow one made of all chords, and its properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety_lightning.study.statistics.frontier import evaluate_frontier, measure_room
from safety_lightning.study.statistics.values import Floats

SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8)
GRID = np.linspace(0, 1, 41)


def place(shares: list[tuple[float, float]]) -> tuple[Floats, Floats]:
    learning, harm = np.array(shares, dtype=np.float64).reshape(-1, 2).T
    return ((learning + harm) / 2)[:, None], (learning - harm)[:, None]


def evaluate(shares: list[tuple[float, float]], asked: Floats) -> Floats:
    return evaluate_frontier(*place(shares), asked[:, None])[:, 0]


def evaluate_slowly(shares: list[tuple[float, float]], asked: float) -> float:
    """The highest chord between any two points, or point, above what was asked for."""
    points = [(0.0, 0.0), (1.0, 0.0), *(((u + h) / 2, u - h) for u, h in shares)]
    heights = []
    for x, y in points:
        for other_x, other_y in points:
            if x <= asked <= other_x:
                share = 0.0 if other_x == x else (asked - x) / (other_x - x)
                heights.append(max(y, other_y) if other_x == x else y + share * (other_y - y))
    return max(heights)


@given(SHARES)
@settings(max_examples=60, deadline=None)
def test_frontier_is_the_highest_chord(shares: list[tuple[float, float]]) -> None:
    slow = [evaluate_slowly(shares, asked) for asked in GRID]
    np.testing.assert_allclose(evaluate(shares, GRID), slow, atol=1e-9)


@given(SHARES)
@settings(max_examples=60, deadline=None)
def test_frontier_is_concave_and_above_its_points(shares: list[tuple[float, float]]) -> None:
    heights = evaluate(shares, GRID)
    assert (np.diff(heights, 2) <= 1e-9).all()
    retention, advantage = place(shares)
    assert (evaluate(shares, retention[:, 0]) >= advantage[:, 0] - 1e-9).all()
    assert heights[0] == pytest.approx(0)
    assert heights[-1] == pytest.approx(0)


@given(SHARES)
@settings(max_examples=60, deadline=None)
def test_room_is_the_largest_gap_below_the_bound(shares: list[tuple[float, float]]) -> None:
    gaps = [2 * min(asked, 1 - asked) - evaluate_slowly(shares, asked) for asked in GRID]
    assert measure_room(*place(shares))[0] == pytest.approx(max(gaps), abs=1e-9)


def test_resamples_have_frontiers_of_their_own() -> None:
    generator = np.random.default_rng(0)
    shares_A2B = generator.random((7, 2, 20))
    retention, advantage = shares_A2B.mean(1), shares_A2B[:, 0] - shares_A2B[:, 1]
    asked = generator.random((5, 20))
    together = evaluate_frontier(retention, advantage, asked)
    for column in range(20):
        alone = [evaluate_slowly(shares_A2B[..., column].tolist(), one) for one in asked[:, column]]
        np.testing.assert_allclose(together[:, column], alone, atol=1e-12)


def test_treatment_without_a_value_is_left_out() -> None:
    known = evaluate([(0.7, 0.3)], GRID)
    with_gap = evaluate_frontier(np.array([[0.5], [np.nan]]), np.array([[0.4], [np.nan]]), GRID[:, None])
    np.testing.assert_allclose(with_gap[:, 0], known, atol=1e-15)
