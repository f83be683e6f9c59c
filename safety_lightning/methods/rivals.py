r"""Other ways to treat an update after training, each as its paper gives it, so that tables can compare them.

Safe LoRA and SafeMERGE measure an update against :math:`C = \Delta\Delta^\top / \lVert\Delta\rVert_F`. This is no
projector: it scales the direction :math:`u_i` by :math:`\sigma_i^2 / \lVert\Delta\rVert_F`, which depends on the unit
of the weights, and applying it twice is not applying it once.

Shapes in this file: K = directions of the delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from safety_lightning.errors import UserError

Method = Literal["safe_lora", "safe_merge", "resta", "energy"]


@dataclass(frozen=True, kw_only=True)
class SafeLora:
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
        _check_threshold("safe_lora", self.threshold)
        if self.num_worst is not None and self.num_worst < 1:
            raise UserError(f"safe_lora.num_worst must be at least 1, got {self.num_worst}")


@dataclass(frozen=True, kw_only=True)
class SafeMerge:
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
        _check_threshold("safe_merge", self.threshold)
        if not 0 <= self.weight <= 1:
            raise UserError(f"safe_merge.weight must be in [0, 1], got {self.weight}")


@dataclass(frozen=True, kw_only=True)
class Resta:
    """RESTA (Bhardwaj et al. 2024, arXiv 2402.11746): adds a scaled safety vector to the finetuned weights.

    Attributes:
        scale: What the safety vector is multiplied by.
        unaligned: The checkpoint that the safety vector points away from: reference − unaligned; None for base,
            which makes the delta the safety vector. The paper makes it by fine-tuning on harmful data.
    """

    scale: float = 0.5
    unaligned: str | None = None


@dataclass(frozen=True, kw_only=True)
class EnergyRemoval:
    """Removes the leading directions of the delta that hold a share of its energy, whatever their number.

    Attributes:
        shares: Shares of the squared singular values, each in (0, 1].

    Raises:
        UserError: If a share is outside (0, 1], or comes twice.
    """

    shares: list[float] = field(default_factory=lambda: [0.5, 0.9])

    def __post_init__(self) -> None:
        for share in self.shares:
            if not 0 < share <= 1:
                raise UserError(f"energy.shares must be in (0, 1], got {share}")
        if len(set(self.shares)) < len(self.shares):
            raise UserError(f"energy.shares must be different, got {self.shares}")


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Which rival methods take part, and their settings.

    Raises:
        UserError: If a method comes twice.
    """

    methods: tuple[Method, ...] = ()
    safe_lora: SafeLora = field(default_factory=SafeLora)
    safe_merge: SafeMerge = field(default_factory=SafeMerge)
    resta: Resta = field(default_factory=Resta)
    energy: EnergyRemoval = field(default_factory=EnergyRemoval)

    def __post_init__(self) -> None:
        if len(set(self.methods)) < len(self.methods):
            raise UserError(f"rivals must be different, got {', '.join(self.methods)}")

    @property
    def need_scores(self) -> bool:
        """Whether the cosines of all matrices must be known before one is treated."""
        return "safe_lora" in self.methods and self.safe_lora.num_worst is not None


def compute_gains(singular_values_K: Tensor, delta_norm: float) -> Tensor:
    """Returns what C multiplies each direction by, σ² / ‖Δ‖_F; float64, shape ``(K,)``."""
    return singular_values_K.double().square() / delta_norm


def compute_score(energies_K: Tensor, gains_K: Tensor, total: float) -> float:
    """Returns the cosine between an update T and C T; NaN where one of them is zero.

    Args:
        energies_K: Squared norms of T's coordinates, float64, a direction each.
        gains_K: What C multiplies each direction by, float64.
        total: Squared norm of T.
    """
    length = float((gains_K.square() * energies_K).sum()) * total
    return float((gains_K * energies_K).sum()) / length**0.5 if length > 0 else float("nan")


def _check_threshold(label: str, threshold: float) -> None:
    if not -1 <= threshold <= 1:
        raise UserError(f"{label}.threshold must be in [-1, 1], got {threshold}")
