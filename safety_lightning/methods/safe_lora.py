r"""Safe LoRA, which projects the matrices whose update leaves the delta's directions.

It measures an update against :math:`C = \Delta\Delta^\top / \lVert\Delta\rVert_F`. This is no projector: it scales the
direction :math:`u_i` by :math:`\sigma_i^2 / \lVert\Delta\rVert_F`, which depends on the unit of the weights, and
applying it twice is not applying it once.

Shapes in this file: M = the dimension that the subspace lies in, N = the other, K = directions of the delta.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.methods.delta import MatrixDelta
from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.update import UNTREATED, Kept, MatrixUpdate, square_rows


@dataclass(frozen=True, kw_only=True)
class SafeLora(Method):
    """Safe LoRA (Hsu et al. 2024, arXiv 2405.16833) in its full-parameter form: replaces an update T by C T.

    Attributes:
        threshold: Matrices whose cosine between T and C T is below this are projected; 0.35 in the paper.
        num_worst: Instead of a threshold, how many matrices of the smallest cosine are projected.

    Raises:
        UserError: If the threshold is outside [-1, 1] or the number is below 1.
    """

    threshold: float = 0.35
    num_worst: int | None = None

    def __post_init__(self) -> None:
        check_threshold("safe_lora", self.threshold)
        if self.num_worst is not None and self.num_worst < 1:
            raise UserError(f"safe_lora.num_worst must be at least 1, got {self.num_worst}")

    @property
    def needs(self) -> Needs:
        """All directions, and by number the cosines of all matrices."""
        return Needs(source="top_k", num_worst=self.num_worst)

    def score(self, matrix: MatrixUpdate) -> float:
        """Returns the cosine between T and C T."""
        return measure_cosine(matrix)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps C T where the cosine is small; by number, of every matrix that has one."""
        if not is_treatable(matrix) or (self.num_worst is None and not measure_cosine(matrix) < self.threshold):
            return UNTREATED
        return Kept(extra=lambda: apply_c(matrix))

    def describe(self) -> Description:
        """Returns its names."""
        rule = f"the {self.num_worst} of smallest cosine" if self.num_worst else f"cosine below {self.threshold:g}"
        return Description(
            source="safe_lora", text=f"Safe LoRA (arXiv 2405.16833), full-parameter form: C T for {rule}"
        )


def is_treatable(matrix: MatrixUpdate) -> bool:
    """Whether a matrix has a cosine to choose by: no vector, and neither delta nor update is zero."""
    return not matrix.is_vector and matrix.delta.norm > 0 and matrix.total > 0


def measure_cosine(matrix: MatrixUpdate) -> float:
    """Returns the cosine between an update T and C T; NaN where one of them is zero."""
    gains_K = compute_gains(matrix.delta)
    if not len(gains_K):
        return float("nan")
    energies_K = square_rows(matrix.find_coordinates("top_k"))
    length = float((gains_K.square() * energies_K).sum()) * matrix.total
    return float((gains_K * energies_K).sum()) / length**0.5 if length > 0 else float("nan")


def apply_c(matrix: MatrixUpdate) -> Tensor:
    """Returns C T, float32, ``(M, N)``."""
    gains_K = compute_gains(matrix.delta).float()
    filtered_MN: Tensor = matrix.delta.bases["top_k"] @ (gains_K.unsqueeze(1) * matrix.find_coordinates("top_k"))
    return filtered_MN


def compute_gains(delta: MatrixDelta) -> Tensor:
    """Returns what C multiplies each direction by, σ² / ‖Δ‖_F; float64, shape ``(K,)``."""
    return delta.decomposition.singular_values.double().square() / delta.norm


def check_threshold(label: str, threshold: float) -> None:
    """Raises UserError unless a threshold of a cosine is in [-1, 1]."""
    if not -1 <= threshold <= 1:
        raise UserError(f"{label}.threshold must be in [-1, 1], got {threshold}")
