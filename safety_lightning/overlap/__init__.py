"""Compares what updates of weights, and sets of activations, have in common: Mode Subspace Overlap.

settings      what a run is told: the schema and help of each command, and what the profiles choose
weights       opens named updates and measures them matrix by matrix; its command and rows
activations   opens named sets and measures them layer by layer, with null and intervals; its command and rows
run           what both commands do: check, measure in `parts`, write a `folder`, draw `figures`, print a `report`
rows, depth   the rows of all tables; which layers are marked and averaged
metrics       ModeSubspaceOverlap for torchmetrics

The names below are imported when they are first used: help pages need the settings alone.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "ActivationRow": "rows",
    "ActivationRun": "settings",
    "ActivationSettings": "settings",
    "AngleRow": "rows",
    "AverageRow": "rows",
    "LayerRow": "rows",
    "ModeSubspaceOverlap": "metrics",
    "OverlapMatrixRow": "rows",
    "WeightRun": "settings",
    "WeightSettings": "settings",
    "compare_activations": "activations.command",
    "compare_weights": "weights.command",
    "run_activations": "activations.command",
    "run_weights": "weights.command",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
