"""Puts the plan of a fit together: parameters, memory, steps, tokens, work and disk."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from safety_lightning.checkpoints import MatrixSlot, select_named_slots
from safety_lightning.errors import UserError
from safety_lightning.subspaces import rank_from_fraction
from safety_lightning.training.planning.data import DataCounts
from safety_lightning.training.planning.memory import DeviceMemory, ProjectionSize, size_device, size_projection
from safety_lightning.training.planning.passes import PassCost, count_pass
from safety_lightning.training.planning.settings import FitSettings, LargestBatch, Sharing, measure_state

_OTHERS: tuple[Sharing, ...] = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
_SHOWN_DEVICES = 8  # where one device is asked for, the others are told for as many
_COPIES = 2  # a checkpoint, once more while it is replaced


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """What a fit will take.

    Attributes:
        settings: The fit.
        data: Its data.
        num_weights: Weights of the model.
        num_trained: Weights that are trained.
        num_matrices: Matrices of the subspace; 0 without a projection.
        devices: What a device holds, by strategy; that of the fit first.
        num_steps: Optimizer steps; None where neither data nor options bound them.
        num_tokens: Tokens that are trained on, all passes over the data together.
        pass_work: Floating-point operations of all passes.
        projection_work: Those of all projections.
        disk_bytes: Checkpoints, saved models and the subspace.
    """

    settings: FitSettings
    data: DataCounts
    num_weights: int
    num_trained: int
    num_matrices: int
    devices: Sequence[DeviceMemory]
    num_steps: int | None
    num_tokens: int | None
    pass_work: float | None
    projection_work: float
    disk_bytes: float


def plan_fit(config: PreTrainedConfig, data: DataCounts, settings: FitSettings) -> FitPlan:
    """Plans a fit from its model's configuration and the counts of its data; no weight is read.

    Args:
        config: The model's configuration.
        data: The counts.
        settings: The fit.
    """
    costs = {is_zero: _count(config, data.largest, settings, is_zero=is_zero) for is_zero in (False, True)}
    cost = costs[False][0]
    slots = list_slots(config, cost.shapes, settings, trained=cost.trained)
    stored = (getattr(config, "dtype", None) or torch.float32).itemsize
    projection = size_projection(settings, slots, stored_bytes=stored)
    devices = [
        _size(sharing, number, costs[sharing.startswith("zero")], projection, settings)
        for sharing, number in _list_strategies(settings)
    ]
    num_steps = count_steps(data, settings)
    num_tokens = None if num_steps is None else _count_tokens(data, settings, num_steps)
    per_token = cost.work / (data.largest.num_rows * data.largest.num_tokens)
    num_projections = 0 if not slots else (1 if settings.when == "end" else num_steps or 0)
    num_weights = sum(math.prod(shape) for shape in cost.shapes.values())
    num_trained = sum(math.prod(shape) for shape in cost.trained.values())
    weight = 2 if settings.is_true_half else 4
    state = measure_state(settings.make_optimizer, _find_dtypes(settings, is_zero=False)[0])
    return FitPlan(
        settings=settings,
        data=data,
        num_weights=num_weights,
        num_trained=num_trained,
        num_matrices=len(slots),
        devices=devices,
        num_steps=num_steps,
        num_tokens=num_tokens,
        pass_work=None if num_tokens is None else per_token * num_tokens,
        projection_work=num_projections * count_projection_work(slots, settings),
        disk_bytes=_COPIES * (num_weights * weight + num_trained * state[0])
        + settings.num_saved * 4 * (num_weights if settings.lora is None else num_trained)
        + projection.spanned,
    )


def list_slots(
    config: PreTrainedConfig,
    shapes: Mapping[str, tuple[int, ...]],
    settings: FitSettings,
    *,
    trained: Collection[str] = (),
) -> list[MatrixSlot]:
    """Lists the matrices that are projected: of the subspace, and under LoRA with an adapter (names in ``trained``)."""
    spec = settings.subspace
    if spec is None:
        return []
    slots = select_named_slots(
        shapes,
        include=spec.include,
        exclude=spec.exclude,
        vectors=spec.vectors,
        model_type=str(config.model_type),
    )
    if settings.lora is None:
        return slots
    adapted = tuple(name.partition(".lora_")[0] for name in trained)
    return [one for one in slots if any(name.endswith(one.tensor.removesuffix(".weight")) for name in adapted)]


def count_steps(data: DataCounts, settings: FitSettings) -> int | None:
    """Counts optimizer steps; None where neither the data nor the options bound them."""
    bound = math.inf if settings.max_steps == -1 else settings.max_steps
    if data.num_examples is not None:
        per_batch = data.largest.num_examples * settings.num_devices
        batches, limit = math.ceil(data.num_examples / per_batch), settings.share_of_epoch
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epoch = math.ceil(batches / settings.accumulate)
        bound = min(bound, epoch * settings.num_epochs)
    return None if math.isinf(bound) else int(bound)


def _count_tokens(data: DataCounts, settings: FitSettings, num_steps: int) -> int:
    num_batches = settings.num_devices * settings.accumulate
    if data.num_examples is None:
        return num_steps * num_batches * data.largest.num_rows * data.largest.num_tokens
    per_step = num_batches * data.largest.num_examples
    epochs = min(settings.num_epochs, num_steps * per_step / data.num_examples)
    return round(epochs * data.num_tokens)


def _list_strategies(settings: FitSettings) -> list[tuple[Sharing, int]]:
    number = settings.num_devices if settings.num_devices > 1 else _SHOWN_DEVICES
    chosen = (settings.sharing, settings.num_devices)
    rows: list[tuple[Sharing, int]] = [("single", 1), *((one, number) for one in _OTHERS)]
    return [chosen, *(one for one in rows if one != chosen)]


def count_projection_work(slots: Sequence[MatrixSlot], settings: FitSettings) -> float:
    """Counts floating-point operations of a projection: two products, 4 k operations a number that is projected."""
    work, spec = 0.0, settings.subspace
    for slot in slots if spec is not None else []:
        assert spec is not None
        rank = rank_from_fraction(spec.fraction, slot.rows, slot.columns)
        height, width = (slot.rows, slot.columns) if spec.side == "left" else (slot.columns, slot.rows)
        work += 4.0 * rank * height * (width if settings.lora is None else settings.lora.r)  # of LoRA, one factor
    return work


def _find_dtypes(settings: FitSettings, *, is_zero: bool) -> tuple[torch.dtype, torch.dtype | None]:
    """Returns the dtype of the module's weights and that of products under autocast: ZeRO rounds weights instead."""
    half = torch.float16 if settings.precision.startswith("16") else torch.bfloat16
    if settings.is_true_half or (is_zero and settings.is_mixed):
        return half, None
    return torch.float32, half if settings.is_mixed else None


def _count(
    config: PreTrainedConfig, largest: LargestBatch, settings: FitSettings, *, is_zero: bool
) -> tuple[PassCost, torch.dtype, tuple[float, float]]:
    dtype, autocast = _find_dtypes(settings, is_zero=is_zero)
    kept = torch.float32 if is_zero else dtype  # moments are those of the masters
    state = measure_state(settings.make_optimizer, kept)
    if settings.on_cpu:
        state = (state[0], 0.0)  # torch steps tensor by tensor there
    try:
        return count_pass(config, largest, settings, dtype=dtype, autocast=autocast), dtype, state
    except RuntimeError as error:  # of an operation that fake tensors do not know: grouped experts under autocast
        raise UserError(
            f"dry_run must have a model whose pass can be counted, {config.model_type} under {settings.precision} is "
            f"none ({str(error).splitlines()[0]}); a mixture of experts is counted under bf16-true"
        ) from error


def _size(
    sharing: Sharing,
    num_devices: int,
    counted: tuple[PassCost, torch.dtype, tuple[float, float]],
    projection: ProjectionSize,
    settings: FitSettings,
) -> DeviceMemory:
    cost, dtype, state = counted
    return size_device(sharing, num_devices, cost, projection, settings, state=state, weight_bytes=dtype.itemsize)
