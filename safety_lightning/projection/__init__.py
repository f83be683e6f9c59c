"""Projects the update of live weights, in the order in which data goes.

spec         which subspace is wanted: spanned from two checkpoints, or taken from where it is saved
projector    binds live parameters to reference and basis, projects them in place, and measures them
names        which live name a tensor of a checkpoint has
parts        what this process holds of a matrix, whole or shared out over processes
adapters     the same of LoRA adapters, whose update is a product of two factors
sharding     the projection of many matrices, a few sums for all; the plain form stands above it
rows         what was measured: a record per matrix, sums over matrices, the rows of ``projection.csv``
operators    the maths on one matrix, pure torch, for live weights and whole checkpoints alike
"""

from safety_lightning.projection.adapters import has_adapters
from safety_lightning.projection.operators import Component, compute_chance, project_update, sum_squares
from safety_lightning.projection.parts import HeldNumbers, Keep, Locate, locate
from safety_lightning.projection.projector import UpdateProjector, match_parameters
from safety_lightning.projection.rows import (
    ProjectionRow,
    Tied,
    UpdateMeasure,
    make_rows,
    sum_chance,
    sum_energy,
    sum_leak,
)
from safety_lightning.projection.sharding import gather, gather_numbers, is_sharded
from safety_lightning.projection.spec import PreparedSubspace, SubspaceSpec, prepare_subspace, save_prepared

__all__ = [
    "Component",
    "HeldNumbers",
    "Keep",
    "Locate",
    "PreparedSubspace",
    "ProjectionRow",
    "SubspaceSpec",
    "Tied",
    "UpdateMeasure",
    "UpdateProjector",
    "compute_chance",
    "gather",
    "gather_numbers",
    "has_adapters",
    "is_sharded",
    "locate",
    "make_rows",
    "match_parameters",
    "prepare_subspace",
    "project_update",
    "save_prepared",
    "sum_chance",
    "sum_energy",
    "sum_leak",
    "sum_squares",
]
