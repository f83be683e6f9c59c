"""A fit whose steps are taken in turns with and without projection; run in each process by `sections`.

    python -m benchmarks.processes.fit REQUEST.json          # in scripts/, alone or by torch.distributed.run

It writes what its process found beside the request.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoConfig
from transformers.models.llama import modeling_llama  # noqa: F401  # imported before memory is measured

from benchmarks.processes.counting import CollectiveCounter
from safety_lightning.projection import Component, SubspaceSpec
from safety_lightning.training import CausalLMModule
from safety_lightning.training.callbacks import ProjectUpdate
from safety_lightning.training.lora import LoraSettings


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is fitted, and how.

    Attributes:
        base: The checkpoint from before alignment.
        reference: The checkpoint that the fit starts from.
        subspace: File of the subspace.
        fraction: Of the subspace.
        component: Which part of the update is kept.
        strategy: As the command line names it.
        num_processes: How many processes were started.
        num_micro_batches: Of each process in a step.
        num_rows: Of a micro-batch.
        num_tokens: Of a row.
        num_pairs: Of steps that are timed.
        lora_rank: Rank of the adapters; None trains the weights.
    """

    base: str
    reference: str
    subspace: str
    fraction: float
    component: Component
    strategy: str
    num_processes: int
    num_micro_batches: int
    num_rows: int
    num_tokens: int
    num_pairs: int
    lora_rank: int | None = None

    def list_steps(self) -> list[bool]:
        """Says of each step whether it is projected: two that warm up, the pairs in turns, and the last one."""
        pairs = [[False, True] if pair % 2 == 0 else [True, False] for pair in range(self.num_pairs)]
        return [False, True, *(step for pair in pairs for step in pair), True]


@dataclass(kw_only=True)
class Found:
    """What a process found.

    Attributes:
        with_seconds: Seconds of each timed step with projection.
        without_seconds: Of each without.
        projection_seconds: Seconds of the projections alone.
        calls: Collective operations of the last step's projection.
        num_bytes: What they were given.
        peak_bytes: Largest resident memory above the idle process.
        wrong_energy: Energy of the update on the side that is taken away, as a share of all, by PEFT's own account in
            float64; None without adapters.
    """

    with_seconds: list[float]
    without_seconds: list[float]
    projection_seconds: list[float]
    calls: dict[str, int]
    num_bytes: dict[str, int]
    peak_bytes: int = 0
    wrong_energy: float | None = None


class Turns(L.Callback):
    """Projects after some of the steps, and times them all; the last one is counted in place of being timed."""

    def __init__(self, request: Request, projection: ProjectUpdate) -> None:
        self.request = request
        self.projection = projection
        self.is_projected = request.list_steps()
        self.step = 0
        self.counter = CollectiveCounter()
        self.found = Found(with_seconds=[], without_seconds=[], projection_seconds=[], calls={}, num_bytes={})
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts itself between the hook and the projector."""
        projector: Any = self.projection.projector
        self._project = projector.project
        projector.project = self._take_turn

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins a step."""
        if batch_idx % self.request.num_micro_batches == 0:
            trainer.strategy.barrier()
            self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ends a step."""
        if (batch_idx + 1) % self.request.num_micro_batches:
            return
        trainer.strategy.barrier()
        seconds = time.perf_counter() - self._started
        if 2 <= self.step < len(self.is_projected) - 1:
            kind = self.found.with_seconds if self.is_projected[self.step] else self.found.without_seconds
            kind.append(seconds)
        self.step += 1
        if self.step == len(self.is_projected) and self.request.lora_rank is not None:
            self.found.wrong_energy = measure_adapters(pl_module, self.projection, self.request.component)

    def _take_turn(self, among: Collection[int] | None = None) -> None:
        if not self.is_projected[self.step]:
            return
        if self.step == len(self.is_projected) - 1:
            with self.counter:
                self._project(among)
            self.found.calls, self.found.num_bytes = dict(self.counter.calls), dict(self.counter.num_bytes)
            return
        started = time.perf_counter()
        self._project(among)
        self.found.projection_seconds.append(time.perf_counter() - started)


def measure_adapters(module: Any, projection: ProjectUpdate, component: Component) -> float:
    """Returns the share of the adapters' energy that the projection should have taken away, float64."""
    assert projection.projector is not None
    bases = projection.projector.prepared.subspace.bases
    wrong = total = 0.0
    for name, one in module.model.named_modules():
        if not hasattr(one, "get_delta_weight"):
            continue
        update = one.get_delta_weight(one.active_adapters[0]).detach().double()
        basis = bases[f"{name}.weight"].columns.double()
        inside = basis @ (basis.mT @ update)
        wrong += float((update - inside if component == "parallel" else inside).square().sum())
        total += float(update.square().sum())
    return wrong / total


def fit(request: Request) -> Found:
    """Fits in this process."""
    module = CausalLMModule(
        request.reference,
        optimizer=make_optimizer,
        schedule="constant",
        warmup_share=0.0,
        lora=None if request.lora_rank is None else LoraSettings(r=request.lora_rank),
    )
    spec = SubspaceSpec(
        base=request.base, reference=request.reference, fraction=request.fraction, file=request.subspace
    )
    projection = ProjectUpdate(spec, component=request.component)
    turns = Turns(request, projection)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=request.num_processes,
        strategy=request.strategy,
        precision="32-true",
        max_epochs=1,
        accumulate_grad_batches=request.num_micro_batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # each process draws its own
        callbacks=[projection, turns],
    )
    idle_bytes = read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest memory so far
    batches = draw_batches(request, len(turns.is_projected))
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    turns.found.peak_bytes = read_status("VmHWM") - idle_bytes
    return turns.found


def draw_batches(request: Request, num_steps: int) -> list[dict[str, Tensor]]:
    """Draws this process's micro-batches of random tokens, all of them scored."""
    vocab_size = AutoConfig.from_pretrained(request.reference).vocab_size
    generator = torch.Generator().manual_seed(find_rank())
    batches = []
    for _ in range(num_steps * request.num_micro_batches):
        ids = torch.randint(vocab_size, (request.num_rows, request.num_tokens), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids})
    return batches


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Makes the optimizer."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)


def read_status(name: str) -> int:
    """Reads a number of bytes from the process's status."""
    match = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def find_rank() -> int:
    """Returns this process's number."""
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    path = Path(sys.argv[1])
    found = fit(Request(**json.loads(path.read_text())))
    path.with_suffix(f".{find_rank()}.json").write_text(json.dumps(asdict(found)))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
