"""Spans and compares subspaces: decompositions, bases, random sources, overlap. Knows no model and no trainer."""

from safety_lightning.subspaces.angles import compute_principal_angles
from safety_lightning.subspaces.bases import (
    Basis,
    Source,
    check_fraction,
    draw_haar_basis,
    draw_order,
    rank_from_fraction,
    span_subspace,
)
from safety_lightning.subspaces.decomposition import Decomposition, Side, decompose_delta, find_energy_ranks
from safety_lightning.subspaces.library import DecompositionLibrary
from safety_lightning.subspaces.modes import (
    DEFAULT_ETAS,
    Modes,
    check_etas,
    sketch_modes,
    span_covariance_modes,
    span_modes,
)
from safety_lightning.subspaces.overlap import Overlap, compare_all, compare_modes, compute_overlap
from safety_lightning.subspaces.storage import Subspace, load_subspace, save_subspace

__all__ = [
    "DEFAULT_ETAS",
    "Basis",
    "Decomposition",
    "DecompositionLibrary",
    "Modes",
    "Overlap",
    "Side",
    "Source",
    "Subspace",
    "check_etas",
    "check_fraction",
    "compare_all",
    "compare_modes",
    "compute_overlap",
    "compute_principal_angles",
    "decompose_delta",
    "draw_haar_basis",
    "draw_order",
    "find_energy_ranks",
    "load_subspace",
    "rank_from_fraction",
    "save_subspace",
    "sketch_modes",
    "span_covariance_modes",
    "span_modes",
    "span_subspace",
]
