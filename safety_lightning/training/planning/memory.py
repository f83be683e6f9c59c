"""What a device holds under each strategy, and at which moment it holds most.

A step has three moments: the last pass over a micro-batch, the optimizer's step and the projection. Weights, gradients,
moments, reference and bases are there in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.checkpoints import MatrixSlot
from safety_lightning.subspaces import rank_from_fraction
from safety_lightning.training.planning.passes import PassCost
from safety_lightning.training.planning.settings import FitSettings, Sharing

_BUCKET_NUMBERS = 200_000_000  # Lightning's for ZeRO
_FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """What one device holds, in bytes.

    Attributes:
        sharing: The strategy.
        num_devices: How many devices there are.
        weights: Weights, under ZeRO with their float32 masters.
        gathered: Weights and gradients of other devices for the layers that are at work.
        gradients: Gradients, with what is sent of them.
        moments: What the optimizer keeps.
        activations: What a pass over the largest micro-batch holds beside all that.
        reference: Reference weights, and where the host is the device the copy that increments are measured from.
        bases: Bases.
        passing: What the optimizer's step or the projection holds for a moment, the larger of the two.
        ending: What a projection at the end holds instead of gradients: 16-bit weights grow to 32 bits for it.
        host: What the host's memory holds for the device, where it is another.
    """

    sharing: Sharing
    num_devices: int
    weights: float
    gathered: float
    gradients: float
    moments: float
    activations: float
    reference: float
    bases: float
    passing: float
    ending: float
    host: float

    @property
    def peak(self) -> float:
        """The largest sum of a moment."""
        held = self.weights + self.gradients + self.moments + self.reference + self.bases
        return max(held + max(self.gathered + self.activations, self.passing), held - self.gradients + self.ending)


@dataclass(frozen=True, kw_only=True)
class ProjectionSize:
    """What a projection needs, of all matrices together.

    Attributes:
        reference: Bytes of the reference where it is kept on the device, whole.
        host_reference: Bytes of the reference where it is kept in the host's memory, whole.
        bases: Bytes of all bases that are kept on the device.
        host_bases: Bytes of all bases: where they were spanned, they stay in the host's memory; twice where they are
            kept there, in memory of their own.
        spanned: Bytes of all bases.
        largest: Float32 bytes for the largest matrix: twice its size while it is measured, and its coordinates.
        watched: Float32 bytes of the weights that are copied where increments are measured.
    """

    reference: float = 0.0
    host_reference: float = 0.0
    bases: float = 0.0
    host_bases: float = 0.0
    spanned: float = 0.0
    largest: float = 0.0
    watched: float = 0.0


def size_projection(settings: FitSettings, slots: Sequence[MatrixSlot], *, stored_bytes: int) -> ProjectionSize:
    """Adds up what a projection needs.

    Args:
        settings: The fit.
        slots: The matrices of the subspace.
        stored_bytes: Bytes of a number of the reference's files.
    """
    spec = settings.subspace
    if spec is None:
        return ProjectionSize()
    ranks = [rank_from_fraction(spec.fraction, slot.rows, slot.columns) for slot in slots]
    dims = [(one.rows, one.columns) if spec.side == "left" else (one.columns, one.rows) for one in slots]
    largest = [_FLOAT * (2 * m * n + rank * n) for (m, n), rank in zip(dims, ranks, strict=True)]
    numbers = sum(slot.rows * slot.columns for slot in slots)
    width = min(stored_bytes, 2) if settings.is_true_half else stored_bytes
    is_watched = settings.is_monitored and settings.when == "every_n_steps"
    bases = float(sum(_FLOAT * m * rank for (m, _), rank in zip(dims, ranks, strict=True)))
    if settings.lora is not None:  # a factor is projected, whose reference is zero
        return ProjectionSize(bases=bases, host_bases=bases, spanned=bases, largest=max(largest))
    return ProjectionSize(
        reference=numbers * width if settings.keep == "device" else 0.0,
        host_reference=numbers * width if settings.keep == "host" else 0.0,
        bases=bases if settings.keep == "device" or settings.on_cpu else 0.0,
        spanned=bases,
        host_bases=bases if settings.keep == "device" or settings.on_cpu else 2 * bases,
        largest=max(largest),
        watched=numbers * (2 if settings.is_true_half else _FLOAT) if is_watched else 0.0,
    )


def size_device(
    sharing: Sharing,
    num_devices: int,
    cost: PassCost,
    projection: ProjectionSize,
    settings: FitSettings,
    *,
    state: tuple[float, float],
    weight_bytes: int,
) -> DeviceMemory:
    """Says what a device holds under a strategy.

    Args:
        sharing: The strategy.
        num_devices: How many devices there are.
        cost: A pass over the largest micro-batch, in the dtypes of this strategy.
        projection: What the projection needs.
        settings: The fit.
        state: Bytes a weight of the optimizer's state and of its step's passing memory; see `measure_state`.
        weight_bytes: Bytes of a weight in the module.
    """
    is_zero, part = sharing.startswith("zero"), 1 if sharing in ("single", "ddp") else num_devices
    num_trained = cost.gradient_bytes / weight_bytes
    masters = _FLOAT * num_trained / part if is_zero else 0.0
    shares_weights = sharing in ("fsdp2", "zero3")
    unit = (cost.rest_numbers + 2 * cost.block_numbers) * weight_bytes  # the next layer comes while one is at work
    is_left = settings.subspace is None or settings.subspace.side == "left"
    reference, bases = projection.reference / part, projection.bases / (part if is_left else 1)
    step = state[1] * num_trained / part
    is_last = settings.subspace is not None and settings.when == "end"
    largest = projection.largest / part if is_left and part > 1 else projection.largest
    growth = cost.weight_bytes / part if settings.is_true_half and not is_zero else 0.0
    on_host = projection.watched / part + projection.host_reference / part
    return DeviceMemory(
        sharing=sharing,
        num_devices=num_devices,
        weights=cost.weight_bytes / (num_devices if shares_weights else 1) + masters,
        gathered=unit * (1 + num_trained * weight_bytes / cost.weight_bytes) if shares_weights else 0.0,
        gradients=_size_gradients(sharing, cost.gradient_bytes, masters, num_devices, weight_bytes),
        moments=state[0] * num_trained / part,
        activations=cost.activation_bytes,
        reference=reference + (on_host if settings.on_cpu else 0.0),
        bases=bases,
        passing=step if is_last else max(step, largest),
        ending=growth + largest if is_last else 0.0,
        host=0.0 if settings.on_cpu else on_host + projection.host_bases,
    )


def _size_gradients(sharing: Sharing, whole: float, masters: float, num_devices: int, weight_bytes: int) -> float:
    """Adds up gradients: DDP's buckets are a second copy, ZeRO's masters have gradients of their own."""
    bucket = min(whole, _BUCKET_NUMBERS * weight_bytes)
    sizes = {
        "single": whole,
        "ddp": 2 * whole,
        "fsdp2": whole / num_devices,
        "zero1": whole + masters,
        "zero2": whole / num_devices + bucket + masters,
        "zero3": whole / num_devices + bucket + masters,
    }
    return sizes[sharing]
