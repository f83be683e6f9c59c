"""The rows of the result files: what two updates, or two sets of activations, share at one share of energy.

None stands for a value that is not defined (an update of zero has no subspace) or was not asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_lightning.tables import drop_nan

if TYPE_CHECKING:
    from safety_lightning.subspaces import Modes, Overlap


@dataclass(frozen=True, kw_only=True)
class OverlapMatrixRow:
    """Two updates of one matrix of weights.

    Attributes:
        profile: The profile whose settings made the row: ``paper``, ``sound`` or ``mixed``.
        pair: ``A vs B``.
        tensor: Tensor name, with the expert's number where it holds several matrices.
        kind: Kind of module, such as ``q_proj``.
        layer: Decoder layer from 0; None outside the layers.
        eta: Share of squared singular values that the bases hold.
        k_a: Rank of the first basis; 0 for an update of zero.
        k_b: Rank of the second basis.
        dimension: What both are subspaces of.
        mso: Mode Subspace Overlap.
        chance: The overlap of random subspaces of these ranks.
        excess: (mso − chance) / (1 − chance).
        is_forced: Whether k_a + k_b > dimension, so that some overlap cannot be avoided.
        forced_minimum: How much of it.
        ceiling_a: The overlap of the first update with the same from another seed.
        ceiling_b: The same of the second update.
    """

    profile: str
    pair: str
    tensor: str
    kind: str
    layer: int | None
    eta: float
    k_a: int
    k_b: int
    dimension: int
    mso: float | None
    chance: float | None
    excess: float | None
    is_forced: bool
    forced_minimum: float | None
    ceiling_a: float | None
    ceiling_b: float | None


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """Means over the matrices of one decoder layer; 1-D tensors have rows of their own but no part in means.

    Attributes:
        profile: As in `OverlapMatrixRow`.
        pair: As in `OverlapMatrixRow`.
        layer: Decoder layer from 0; None for the matrices outside the layers.
        depth: (layer + 1) / number of layers, in (0, 1].
        percentile: The percentiles of depth that the layer stands for in figures, such as ``80/85 %``.
        eta: As in `OverlapMatrixRow`.
        num_tensors: Matrices in the means.
        num_excluded: Matrices left out because an update of theirs is zero.
        num_forced: Matrices in the means of which some overlap is forced.
        mso: Mean overlap.
        chance: Mean chance.
        excess: Mean excess, over the matrices that have one.
        ceiling_a: Mean ceiling of the first update.
        ceiling_b: Mean ceiling of the second update.
    """

    profile: str
    pair: str
    layer: int | None
    depth: float | None
    percentile: str | None
    eta: float
    num_tensors: int
    num_excluded: int
    num_forced: int
    mso: float | None
    chance: float | None
    excess: float | None
    ceiling_a: float | None
    ceiling_b: float | None


@dataclass(frozen=True, kw_only=True)
class ActivationRow:
    """Two sets of activations at one layer.

    Attributes:
        profile: As in `OverlapMatrixRow`.
        pair: ``A vs B``.
        layer: 0 for the embedding output, l for the output of the l-th decoder layer.
        depth: layer / number of layers, in [0, 1].
        percentile: As in `LayerRow`.
        num_a: Prompts of the first set.
        num_b: Prompts of the second set.
        eta: As in `OverlapMatrixRow`.
        k_a: As in `OverlapMatrixRow`.
        k_b: As in `OverlapMatrixRow`.
        dimension: The hidden size.
        mso: Mode Subspace Overlap.
        chance: As in `OverlapMatrixRow`.
        excess: As in `OverlapMatrixRow`.
        is_forced: As in `OverlapMatrixRow`.
        forced_minimum: As in `OverlapMatrixRow`.
        mso_uncentred: The overlap when no mean is taken off.
        chance_uncentred: Its chance.
        null_low: Lower end of the 95 % band of the overlap when labels are shuffled between the sets.
        null_high: Upper end of the band.
        p_value: Share of shuffles, and the data themselves, whose overlap is as low as that of the sets.
        low: Lower end of the 95 % bootstrap interval over prompts.
        high: Upper end of the interval.
        resampled_mean: Mean over the resamples, whose distance from mso the interval has been shifted by.
    """

    profile: str
    pair: str
    layer: int
    depth: float
    percentile: str | None
    num_a: int
    num_b: int
    eta: float
    k_a: int
    k_b: int
    dimension: int
    mso: float | None
    chance: float | None
    excess: float | None
    is_forced: bool
    forced_minimum: float | None
    mso_uncentred: float | None
    chance_uncentred: float | None
    null_low: float | None
    null_high: float | None
    p_value: float | None
    low: float | None
    high: float | None
    resampled_mean: float | None


@dataclass(frozen=True, kw_only=True)
class AverageRow:
    """Two sets of activations, averaged over a range of depth.

    The null and the resamples are averaged over the layers draw by draw, as the same prompts are drawn in every layer.

    Attributes:
        profile: As in `OverlapMatrixRow`.
        pair: ``A vs B``.
        first_layer: First layer of the range.
        last_layer: Last layer of the range.
        num_layers: Layers in the mean.
        num_excluded: Layers of the range left out because a set has no variation there.
        eta: As in `OverlapMatrixRow`.
        mso: Mean overlap.
        chance: Mean chance.
        excess: Mean excess.
        mso_uncentred: Mean overlap when no mean is taken off.
        chance_uncentred: Its mean chance.
        null_low: As in `ActivationRow`.
        null_high: As in `ActivationRow`.
        p_value: As in `ActivationRow`.
        low: As in `ActivationRow`.
        high: As in `ActivationRow`.
        resampled_mean: As in `ActivationRow`.
    """

    profile: str
    pair: str
    first_layer: int
    last_layer: int
    num_layers: int
    num_excluded: int
    eta: float
    mso: float | None
    chance: float | None
    excess: float | None
    mso_uncentred: float | None
    chance_uncentred: float | None
    null_low: float | None
    null_high: float | None
    p_value: float | None
    low: float | None
    high: float | None
    resampled_mean: float | None


@dataclass(frozen=True, kw_only=True)
class AngleRow:
    """Principal angles in degrees, from exact decompositions, with the first profile's settings.

    Attributes:
        pair: ``A vs B``.
        where: The tensor, or the layer of activations.
        eta: Share of squared singular values that the bases hold.
        num_angles: min(k_a, k_b).
        smallest: The smallest angle: how near the nearest directions are.
        quarter: A quarter of the angles are smaller.
        median: Half of the angles are smaller.
        largest: The largest angle.
        mso: The mean of their squared cosines.
    """

    pair: str
    where: str
    eta: float
    num_angles: int
    smallest: float
    quarter: float
    median: float
    largest: float
    mso: float


def make_angle_row(pair: str, where: str, eta: float, modes_a: Modes, modes_b: Modes) -> AngleRow:
    """Measures the principal angles at one share of energy."""
    import torch

    from safety_lightning.subspaces import compute_principal_angles

    angles = compute_principal_angles(modes_a.read_basis(eta), modes_b.read_basis(eta))
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64, device=angles.device)
    smallest, quarter, median, largest = torch.quantile(angles.rad2deg(), levels).tolist()
    return AngleRow(
        pair=pair,
        where=where,
        eta=eta,
        num_angles=len(angles),
        smallest=smallest,
        quarter=quarter,
        median=median,
        largest=largest,
        mso=float(angles.cos().square().mean()),
    )


def name_pair(first: str, second: str) -> str:
    """Returns what a pair is called.

    Example:
        >>> name_pair("useful", "harmful")
        'useful vs harmful'
    """
    return f"{first} vs {second}"


def name_layers(row: AverageRow) -> str:
    """Returns what a range of layers is called."""
    return f"layer {row.first_layer}" if row.num_layers < 2 else f"layers {row.first_layer} to {row.last_layer}"


def list_values(overlap: Overlap, *, zero_is_one: bool = False) -> dict[str, Any]:
    """Returns the columns that an overlap gives a row.

    Args:
        overlap: The overlap.
        zero_is_one: Count the overlap with an update of zero as 1.

    Example:
        >>> from safety_lightning.subspaces import Overlap
        >>> list_values(Overlap(eta=0.5, k_a=0, k_b=2, dimension=4, mso=float("nan")), zero_is_one=True)["mso"]
        1.0
    """
    mso = 1.0 if zero_is_one and not overlap.is_defined else overlap.mso
    return {
        "eta": overlap.eta,
        "k_a": overlap.k_a,
        "k_b": overlap.k_b,
        "dimension": overlap.dimension,
        "mso": drop_nan(mso),
        "chance": drop_nan(overlap.chance),
        "excess": drop_nan(overlap.excess),
        "is_forced": overlap.is_forced,
        "forced_minimum": drop_nan(overlap.forced_minimum),
    }
