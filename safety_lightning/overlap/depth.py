"""Places layers by their depth: which are marked as in the paper's figures, and which are averaged.

Layer l of activations, the output of the l-th decoder layer of L, has depth l / L; the weights that made it are those
of decoder layer l − 1, which has the same depth.
"""

from __future__ import annotations

from collections.abc import Sequence

PERCENTILES = (70, 80, 85)


def mark_layers(num_layers: int) -> dict[int, list[int]]:
    """Finds the layers at the percentiles of depth that the paper's figures show.

    Args:
        num_layers: L, at least 1.

    Returns:
        Percentiles by their layer of activations, 1 to L, the deeper where two are as near; several percentiles can
        share a layer of a shallow model.

    Example:
        >>> mark_layers(28)
        {20: [70], 22: [80], 24: [85]}
        >>> mark_layers(2)
        {1: [70], 2: [80, 85]}
    """
    marked: dict[int, list[int]] = {}
    for percentile in PERCENTILES:
        layer = max(range(1, num_layers + 1), key=lambda one: (-abs(100 * one - percentile * num_layers), one))
        marked.setdefault(layer, []).append(percentile)
    return marked


def find_averaged_layers(num_layers: int, depth: Sequence[float]) -> list[int]:
    """Lists the layers of activations whose depth lies in a range; the one nearest its middle when none does.

    Args:
        num_layers: L, at least 1.
        depth: From which to which depth, both included, in [0, 1].

    Example:
        >>> find_averaged_layers(28, (0.65, 0.9))
        [19, 20, 21, 22, 23, 24, 25]
        >>> find_averaged_layers(2, (0.65, 0.9))
        [2]
    """
    low, high = depth
    inside = [layer for layer in range(num_layers + 1) if low - 1e-9 <= layer / num_layers <= high + 1e-9]
    return inside or [min(range(num_layers + 1), key=lambda one: abs(one / num_layers - (low + high) / 2))]


def name_marked_layers(num_layers: int) -> dict[int, str]:
    """Returns what figures call the marked layers, by their layer of activations.

    Example:
        >>> name_marked_layers(2)
        {1: '70 %', 2: '80/85 %'}
    """
    return {layer: "/".join(map(str, found)) + " %" for layer, found in mark_layers(num_layers).items()}
