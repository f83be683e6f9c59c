"""What of a fit's options decides what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from safety_lightning.projection import Keep, SubspaceSpec
from safety_lightning.training.hook import When
from safety_lightning.training.lora import LoraSettings
from safety_lightning.training.optimization import choose_fused

Sharing = Literal["single", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
"""The strategies that memory is told for; ``single`` is one process."""
_TRIAL_SIZE = 256  # rows and columns of the matrix on which an optimizer shows what it keeps


@dataclass(frozen=True, kw_only=True)
class LargestBatch:
    """The micro-batch that needs the most memory.

    Attributes:
        num_examples: Examples in it.
        num_tokens: Tokens of a row of it: of its longest example, or of all where they lie end to end.
        num_scored: Positions of a row at which some example is scored.
        is_flat: Whether the examples lie end to end in one row.
    """

    num_examples: int
    num_tokens: int
    num_scored: int
    is_flat: bool = False

    @property
    def num_rows(self) -> int:
        """How many rows it has."""
        return 1 if self.is_flat else self.num_examples


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What of a fit's options decides what it costs.

    Attributes:
        model: The checkpoint, of which the configuration alone is read.
        make_optimizer: Makes the optimizer from parameters.
        lora: The adapter; None trains all weights.
        gradient_checkpointing: Whether activations are computed anew in the backward pass.
        precision: The Trainer's.
        sharing: The strategy.
        num_devices: All processes, of all nodes.
        on_cpu: Whether devices are processes on CPUs.
        accumulate: Micro-batches of an optimizer step.
        max_steps: Bound of the optimizer steps; -1 is none.
        max_epochs: Bound of the epochs; None is what the Trainer takes then.
        subspace: The subspace; None projects nothing.
        when: When it is projected.
        keep: Where reference and bases are between projections.
        is_monitored: Whether increments are measured.
        num_saved: How many models are saved.
        share_of_epoch: The share of an epoch's batches that is trained on, or how many of them.
        uncounted: What these options ask for that the plan does not count.
    """

    model: str
    make_optimizer: Callable[[Any], torch.optim.Optimizer]
    lora: LoraSettings | None = None
    gradient_checkpointing: bool = False
    precision: str = "bf16-mixed"
    sharing: Sharing = "single"
    num_devices: int = 1
    on_cpu: bool = False
    accumulate: int = 1
    max_steps: int = -1
    max_epochs: int | None = None
    subspace: SubspaceSpec | None = None
    when: When = "every_n_steps"
    keep: Keep = "device"
    is_monitored: bool = False
    num_saved: int = 1
    share_of_epoch: float | int = 1.0
    uncounted: tuple[str, ...] = ()

    @property
    def is_true_half(self) -> bool:
        """Whether weights themselves are in 16 bits."""
        return self.precision in ("bf16-true", "16-true")

    @property
    def is_mixed(self) -> bool:
        """Whether products are in 16 bits and weights are not."""
        return "16" in self.precision and not self.is_true_half

    @property
    def num_epochs(self) -> float:
        """How many epochs there are at most: the Trainer takes 1000 where no bound is given."""
        if self.max_epochs is None:
            return 1000 if self.max_steps == -1 else float("inf")
        return float("inf") if self.max_epochs == -1 else self.max_epochs


def measure_state(make_optimizer: Callable[[Any], torch.optim.Optimizer], dtype: torch.dtype) -> tuple[float, float]:
    """Measures what an optimizer keeps, by a step on a trial matrix.

    Args:
        make_optimizer: Makes the optimizer.
        dtype: The dtype of the weights.

    Returns:
        Bytes of its state a weight, and bytes of passing memory a weight of all of them: what torch's ``foreach``
        form of a step on GPUs takes.
    """
    trial = torch.nn.Parameter(torch.zeros(_TRIAL_SIZE, _TRIAL_SIZE, dtype=dtype))
    optimizer = make_optimizer(iter([trial]))
    trial.grad = torch.ones_like(trial)
    optimizer.step()
    num_bytes = sum(_count_bytes(one) for state in optimizer.state.values() for one in state.values())
    choose_fused(optimizer, device_type="cpu")  # as the fit does on a GPU
    is_foreach = optimizer.defaults.get("foreach") is not False and not optimizer.param_groups[0].get("fused")
    passing = trial.element_size() if is_foreach and "foreach" in optimizer.defaults else 0
    return num_bytes / trial.numel(), float(passing)


def _count_bytes(value: object) -> int:
    """Counts the bytes of a tensor, or of the tensors that a subclass is made of; numbers count as nothing."""
    if not isinstance(value, Tensor) or value.numel() < _TRIAL_SIZE:
        return 0
    if hasattr(value, "__tensor_flatten__"):
        return sum(getattr(value, name).nbytes for name in value.__tensor_flatten__()[0])
    return value.nbytes
