"""Slow, independent float64 numpy versions of the maths."""

import numpy as np


def leading_vectors(delta: np.ndarray, rank: int, side: str = "left") -> np.ndarray:
    left, _, right = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    return left[:, :rank] if side == "left" else right[:rank].T


def projector(basis: np.ndarray) -> np.ndarray:
    return basis.astype(np.float64) @ basis.astype(np.float64).T


def project(update: np.ndarray, basis: np.ndarray, component: str, side: str = "left") -> np.ndarray:
    whole = projector(basis)
    update = update.astype(np.float64)
    inside = whole @ update if side == "left" else update @ whole
    return inside if component == "parallel" else update - inside


def energy(update: np.ndarray, basis: np.ndarray, component: str, side: str = "left") -> float:
    part = project(update, basis, component, side)
    return float((part**2).sum() / (update.astype(np.float64) ** 2).sum())
