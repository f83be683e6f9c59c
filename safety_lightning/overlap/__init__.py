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

from safety_lightning.lazy import import_lazily, list_names

_PLACES = {
    "activations.command": "compare_activations run_activations",
    "metrics": "ModeSubspaceOverlap",
    "rows": "ActivationRow AngleRow AverageRow LayerRow OverlapMatrixRow",
    "settings": "ActivationRun ActivationSettings WeightRun WeightSettings",
    "weights.command": "compare_weights run_weights",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
