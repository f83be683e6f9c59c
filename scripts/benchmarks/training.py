"""Fine-tuning with projection: bases, steps and throughput, on random weights in the shape of SmolLM2-135M.

Lengths are those of GSM8K's training problems.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM, PreTrainedModel, Trainer, TrainingArguments

from benchmarks.common import Result, Setup, take_turns, time_call
from benchmarks.shapes import SMOLLM2, Shape, list_shapes, make_model
from safety_lightning.data import EncodedExample, LengthGroupedBatchSampler, collate_examples
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.subspaces import decompose_delta, rank_from_fraction
from safety_lightning.training import CausalLMModule, ProjectionHook, sum_token_losses

FRACTION = 0.25


def measure_bases(setup: Setup) -> list[Result]:
    """Times all bases of the model's shape against float32 singular value decompositions, matrix by matrix."""
    shapes = [shape for shape in list_shapes(setup.shrink(SMOLLM2)).values() if len(shape) == 2]
    ratios, errors = [], {"ours": 0.0, "svd": 0.0}
    for repeat in range(setup.num_pairs):
        ours_seconds = svd_seconds = 0.0
        for number, (num_rows, num_columns) in enumerate(shapes):
            delta = draw_delta(num_rows, num_columns, seed=number)
            rank = rank_from_fraction(FRACTION, num_rows, num_columns)
            sides = {
                "ours": partial(_span_ours, delta, rank),
                "svd": partial(_span_by_svd, delta, rank),
            }
            timed = {name: time_call(side) for name, side in take_turns(sides, number + repeat)}
            ours_seconds += timed["ours"][0]
            svd_seconds += timed["svd"][0]
            if repeat == 0 and number in (1, 2, 5, 7):  # one of each shape of a layer
                for name in errors:
                    errors[name] = max(errors[name], find_projector_error(delta, timed[name][1], rank))
        ratios.append(svd_seconds / ours_seconds)
    note = f"projector error {errors['ours']:.1e}, of the float32 decomposition {errors['svd']:.1e}"
    return [Result("all bases: `torch.linalg.svd` ÷ ours", "≥ 2", ratios, note)]


def measure_step(setup: Setup) -> list[Result]:
    """Times an optimizer step of 32 micro-batches of 512 tokens with projection after it against one without."""
    with tempfile.TemporaryDirectory() as folder:
        base, reference = save_pair(Path(folder), setup.shrink(SMOLLM2))
        model = LlamaForCausalLM.from_pretrained(reference, dtype=torch.float32).train()
        spec = SubspaceSpec(base=str(base), reference=str(reference), fraction=FRACTION)
        projector = UpdateProjector(prepare_subspace(spec), component="orthogonal")
        projector.bind(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    take_step(model, optimizer, num_micro_batches=1)  # makes the optimizer's state
    num_micro_batches = setup.choose(32, 2)
    ratios, shares = [], []
    for repeat in range(setup.num_pairs):
        sides: dict[str, Callable[[], Any]] = {
            "without": partial(take_step, model, optimizer, num_micro_batches=num_micro_batches),
            "with": partial(take_projected_step, model, optimizer, projector, num_micro_batches=num_micro_batches),
        }
        timed = {name: time_call(side)[0] for name, side in take_turns(sides, repeat)}
        ratios.append(timed["with"] / timed["without"])
        shares.append(time_call(projector.project)[0] / timed["without"])
    note = f"the projection alone takes {statistics.median(shares):.3f} of a step without it"
    return [Result("optimizer step of 32 × 512 tokens: with projection ÷ without", "≤ 1.05", ratios, note)]


def measure_trainer(setup: Setup) -> list[Result]:
    """Compares real tokens per second with the Hugging Face Trainer: same model, data, order, precision, optimizer."""
    examples = draw_examples(setup.choose(64, 16), setup.shrink(SMOLLM2))
    model = make_model(setup.shrink(SMOLLM2))
    batches = [examples[at : at + 4] for at in range(0, len(examples), 4)]
    ratios = []
    for repeat in range(setup.num_pairs):
        sides: dict[str, Callable[[], Any]] = {
            "ours": partial(train_ours, model, batches, accumulate=4),
            "transformers": partial(train_transformers, model, examples, batch_size=4, accumulate=4),
        }
        timed = {name: side()[0] for name, side in take_turns(sides, repeat)}
        ratios.append(timed["transformers"] / timed["ours"])
    note = "64 problems, batches of 4 in one order, accumulation 4, bf16 autocast"
    return [Result("tokens per second: ours ÷ Hugging Face Trainer", "≥ 1.0", ratios, note)]


def measure_grouping(setup: Setup) -> list[Result]:
    """Compares batches of similar length with the paper's batch of one, on the same examples per step."""
    examples = draw_examples(setup.choose(96, 32), setup.shrink(SMOLLM2))
    model = make_model(setup.shrink(SMOLLM2))
    sampler = LengthGroupedBatchSampler([len(e.input_ids) for e in examples], 16, seed=0, grouped=True)
    grouped = [[examples[index] for index in batch] for batch in sampler]
    single = [[example] for example in examples]
    ratios = []
    for repeat in range(setup.num_pairs):
        sides: dict[str, Callable[[], Any]] = {
            "grouped": partial(train_ours, model, grouped, accumulate=2),
            "single": partial(train_ours, model, single, accumulate=32),
        }
        timed = {name: side()[0] for name, side in take_turns(sides, repeat)}
        ratios.append(timed["single"] / timed["grouped"])
    note = "96 problems, 32 a step: 2 batches of 16 by length, or 32 of one"
    return [Result("tokens per second: grouped batches ÷ batch of one", "≥ 1.2", ratios, note)]


def train_ours(
    model: PreTrainedModel, batches: Sequence[Sequence[EncodedExample]], *, accumulate: int, device: str = "cpu"
) -> tuple[float, None]:
    """Fine-tunes with CausalLMModule under Lightning; returns the seconds between its first and last batch."""
    module = CausalLMModule("-", optimizer=make_optimizer, schedule="constant", warmup_share=0.0)
    module.model = model
    clock = _Clock()
    trainer = L.Trainer(
        accelerator="cpu" if device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock],
    )
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, collate_fn=_collate)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    return clock.seconds, None


def train_transformers(
    model: PreTrainedModel,
    examples: Sequence[EncodedExample],
    *,
    batch_size: int,
    accumulate: int,
    device: str = "cpu",
) -> tuple[float, None]:
    """Fine-tunes with the Hugging Face Trainer at the same settings; returns the seconds of its loop."""
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulate,
            num_train_epochs=1,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            optim="adamw_torch" if device == "cpu" else "adamw_torch_fused",  # as ours
            max_grad_norm=0.0,
            bf16=True,
            use_cpu=device == "cpu",
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=device != "cpu",
        )
        trainer = Trainer(model=model, args=args, train_dataset=list(examples), data_collator=_collate)
        return float(trainer.train().metrics["train_runtime"]), None


def take_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, *, num_micro_batches: int, batch_size: int = 1
) -> None:
    """Takes one optimizer step over micro-batches of rows of 512 tokens."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_micro_batches):
        ids = torch.randint(0, model.config.vocab_size, (batch_size, 512), generator=generator).to(model.device)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        with torch.autocast(model.device.type, dtype=torch.bfloat16):
            loss_sum, _ = sum_token_losses(model, batch)
        loss_sum.backward()
    optimizer.step()
    optimizer.zero_grad()


def take_projected_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, projector: UpdateProjector, *, num_micro_batches: int
) -> None:
    """Takes the same step with the projection hooked to the optimizer."""
    hook = ProjectionHook(projector)
    hook.attach(optimizer)
    take_step(model, optimizer, num_micro_batches=num_micro_batches)
    hook.remove()


def save_pair(folder: Path, shape: Shape) -> tuple[Path, Path]:
    """Saves a model and a copy with a dense small delta as base and reference."""
    model = make_model(shape)
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "reference")
    return folder / "base", folder / "reference"


def draw_delta(num_rows: int, num_columns: int, *, seed: int, device: str = "cpu") -> Tensor:
    """Draws a delta whose singular values fall as those of real ones do: a bulk and a power law above it."""
    generator = torch.Generator(device).manual_seed(seed)
    small = min(num_rows, num_columns)
    left = torch.randn(num_rows, small, generator=generator, device=device)
    right = torch.randn(small, num_columns, generator=generator, device=device)
    return left * torch.arange(1, small + 1, device=device).pow(-0.7) @ right * 1e-4


def draw_examples(num_examples: int, shape: Shape) -> list[EncodedExample]:
    """Draws token ids with the lengths of GSM8K's training problems in SmolLM2's tokens.

    Prompt and response lengths have medians of 87 and 112 tokens and log-normal spreads of 0.23 and 0.42, fitted to
    the first 1000 problems.
    """
    generator = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(num_examples):
        normal = torch.randn(2, generator=generator).tolist()
        num_prompt = round(87 * math.exp(0.23 * normal[0]))
        length = min(512, num_prompt + round(112 * math.exp(0.42 * normal[1])))
        ids = torch.randint(0, shape["vocab_size"], (length,), generator=generator).tolist()
        examples.append(EncodedExample(ids, num_prompt))
    return examples


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    """Makes the optimizer of both sides."""
    return torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)


def find_projector_error(delta: Tensor, basis: Tensor, rank: int) -> float:
    """Returns the largest entry of the difference to the float64 decomposition's projector."""
    exact = torch.linalg.svd(delta.double(), full_matrices=False)[0][:, :rank]
    wide = basis.double()
    return float((wide @ wide.mT - exact @ exact.mT).abs().max())


class _Clock(L.Callback):
    """Times the training loop alone, as the Hugging Face Trainer does."""

    seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._started


def _span_ours(delta: Tensor, rank: int) -> Tensor:
    return decompose_delta(delta, rank=rank).vectors.float()


def _span_by_svd(delta: Tensor, rank: int) -> Tensor:
    return torch.linalg.svd(delta, full_matrices=False)[0][:, :rank].contiguous()


def _collate(examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
    return collate_examples(examples, pad_token_id=0)
