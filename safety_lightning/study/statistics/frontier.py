r"""The frontier: how far blunt treatments, which know nothing of safety, bring learning and harm apart.

A variant keeps a share U of the fine-tune's learning and a share H of its harm, both in [0, 1]. It is placed by its
retention r = (U + H) / 2 and its advantage J = U − H, so that \|J\| ≤ 2 min(r, 1 − r).

Shapes in this file: A = blunt treatments, Q = points asked for, B = resamples.
"""

from __future__ import annotations

import numpy as np

from safety_lightning.study.statistics.values import Floats


def evaluate_frontier(retention_AB: Floats, advantage_AB: Floats, asked_QB: Floats) -> Floats:
    """Returns the upper concave envelope of blunt treatments, with the reference (0, 0) and the finetuned model (1, 0).

    A chord is attainable: a coin flip between two treatments has the mean of their expectations. The envelope is
    walked from (0, 0) to (1, 0), in all resamples at once: the next vertex is the treatment on the right that is seen
    at the steepest angle.

    Args:
        retention_AB: r of the treatments, in [0, 1], shape ``(A, B)``; NaN leaves a treatment out.
        advantage_AB: J of the treatments, shape ``(A, B)``.
        asked_QB: Where to evaluate, in [0, 1], shape ``(Q, B)``.

    Returns:
        The envelope at what was asked for, at least 0, shape ``(Q, B)``.

    Example:
        >>> evaluate_frontier(np.array([[0.5]]), np.array([[0.4]]), np.array([[0.25], [0.5], [0.75]])).ravel().tolist()
        [0.2, 0.4, 0.2]
    """
    is_known_AB = ~np.isnan(retention_AB + advantage_AB)
    ends_2B = np.array([[0.0], [1.0]]).repeat(asked_QB.shape[1], axis=1)
    x_AB = np.vstack([ends_2B, np.where(is_known_AB, retention_AB, 0.0)])
    y_AB = np.vstack([np.zeros_like(ends_2B), np.where(is_known_AB, advantage_AB, 0.0)])
    envelope_QB, columns = np.zeros_like(asked_QB), np.arange(asked_QB.shape[1])
    x_B, y_B = np.zeros(len(columns)), np.zeros(len(columns))
    while (x_B < 1).any():
        run_AB = x_AB - x_B
        slopes_AB = np.full_like(run_AB, -np.inf)
        np.divide(y_AB - y_B, run_AB, out=slopes_AB, where=run_AB > 0)
        next_B = slopes_AB.argmax(0)
        slope_B = np.where(x_B < 1, slopes_AB[next_B, columns], 0.0)
        is_done_B = x_B >= 1
        end_B = np.where(is_done_B, 1.0, x_AB[next_B, columns])
        inside_QB = (asked_QB >= x_B) & (asked_QB <= end_B) & ~is_done_B
        envelope_QB = np.where(inside_QB, y_B + slope_B * (asked_QB - x_B), envelope_QB)
        y_B = np.where(is_done_B, 0.0, y_AB[next_B, columns])
        x_B = end_B
    return np.asarray(envelope_QB, dtype=np.float64)


def measure_room(retention_AB: Floats, advantage_AB: Floats) -> Floats:
    """Returns how much further apart than on the frontier anything could be: the maximum of 2 min(r, 1 − r) − J⁺(r).

    J⁺ is concave and the bound is straight on either side of 1/2, so that the maximum lies at r = 1/2.

    Returns:
        The room in [0, 1], shape ``(B,)``.
    """
    middle_1B = np.full((1, retention_AB.shape[1]), 0.5)
    return np.asarray(1 - evaluate_frontier(retention_AB, advantage_AB, middle_1B)[0], dtype=np.float64)
