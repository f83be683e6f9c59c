"""Projects the update of live weights, in the order in which data goes.

operators    the maths on one matrix, pure torch: parts, energy, chance, leak
spec         which subspace is wanted: spanned from two checkpoints, or taken from where it is saved
projector    binds live parameters to reference and basis, projects them in place, and measures them
sharding     what the projector needs for weights that are shared out over processes
rows         the rows of ``projection.csv``
"""

from safety_lightning.projection.operators import (
    Component,
    compute_chance,
    compute_energy_by_rank,
    compute_energy_kept,
    compute_leak,
    project_update,
    sum_squares,
)
from safety_lightning.projection.projector import UpdateMeasure, UpdateProjector, match_parameters
from safety_lightning.projection.rows import (
    ProjectionRow,
    Tied,
    compute_stored_leak,
    make_rows,
    sum_chance,
    sum_energy,
)
from safety_lightning.projection.spec import PreparedSubspace, SubspaceSpec, prepare_subspace, save_prepared

__all__ = [
    "Component",
    "PreparedSubspace",
    "ProjectionRow",
    "SubspaceSpec",
    "Tied",
    "UpdateMeasure",
    "UpdateProjector",
    "compute_chance",
    "compute_energy_by_rank",
    "compute_energy_kept",
    "compute_leak",
    "compute_stored_leak",
    "make_rows",
    "match_parameters",
    "prepare_subspace",
    "project_update",
    "save_prepared",
    "sum_chance",
    "sum_energy",
    "sum_squares",
]
