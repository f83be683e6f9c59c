"""SafeMERGE, which merges with a safety-tuned model where Safe LoRA would project."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.methods.protocol import Description, Method, Needs
from safety_lightning.methods.safe_lora import check_threshold, is_treatable, measure_cosine
from safety_lightning.methods.update import UNTREATED, Kept, MatrixUpdate


@dataclass(frozen=True, kw_only=True)
class SafeMerge(Method):
    """SafeMERGE (Djuhera et al. 2025, arXiv 2503.17239): merges where Safe LoRA would project.

    Attributes:
        threshold: Matrices whose cosine between T and C T is below this are merged; 0.35 in the paper.
        weight: Weight of the finetuned update in the merge, in [0, 1]; the rest is that of the safety-tuned one.

    Raises:
        UserError: If the threshold is outside [-1, 1] or the weight outside [0, 1].
    """

    threshold: float = 0.35
    weight: float = 0.8

    def __post_init__(self) -> None:
        check_threshold("safe_merge", self.threshold)
        if not 0 <= self.weight <= 1:
            raise UserError(f"safe_merge.weight must be in [0, 1], got {self.weight}")

    @property
    def needs(self) -> Needs:
        """All directions, and a safety-tuned model."""
        return Needs(source="top_k", safety_tuned=True)

    def score(self, matrix: MatrixUpdate) -> float:
        """Returns the cosine between T and C T."""
        return measure_cosine(matrix)

    def keep(self, matrix: MatrixUpdate) -> Kept:
        """Keeps weight · T + (1 − weight) · the safety-tuned update where the cosine is small."""
        if not is_treatable(matrix) or not measure_cosine(matrix) < self.threshold:
            return UNTREATED
        return Kept(extra=lambda: self._merge(matrix))

    def describe(self) -> Description:
        """Returns its names."""
        text = f"SafeMERGE (arXiv 2503.17239): {self.weight:g} of the update where the cosine is below"
        return Description(source="safe_merge", text=f"{text} {self.threshold:g}")

    def _merge(self, matrix: MatrixUpdate) -> Tensor:
        merged_MN = self.weight * matrix.update_MN
        return merged_MN if matrix.safety_MN is None else merged_MN.add_(matrix.safety_MN, alpha=1 - self.weight)
