"""Spans safety subspaces: decompositions, bases, random sources, the saved subspace. Knows no model and no trainer."""

from safety_lightning.subspaces.bases import (
    Basis,
    Source,
    check_fraction,
    draw_haar_basis,
    rank_from_fraction,
    seed_generator,
    span_subspace,
)
from safety_lightning.subspaces.decomposition import Decomposition, Side, decompose_delta
from safety_lightning.subspaces.storage import Subspace, load_subspace, save_subspace

__all__ = [
    "Basis",
    "Decomposition",
    "Side",
    "Source",
    "Subspace",
    "check_fraction",
    "decompose_delta",
    "draw_haar_basis",
    "load_subspace",
    "rank_from_fraction",
    "save_subspace",
    "seed_generator",
    "span_subspace",
]
