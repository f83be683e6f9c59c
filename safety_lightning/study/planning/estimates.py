"""What every kind of stage will take: seconds, memory, disk, and judges who cost money.

Shapes in this file: S = the smaller side of a matrix, L = the larger one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_lightning.checkpoints import CheckpointReader, load_tokenizer, locate_model, select_slots
from safety_lightning.errors import UserError
from safety_lightning.methods import Method, Variant
from safety_lightning.study.comparing import ActivationOverlapStage, CaptureStage, EnergyStage, WeightOverlapStage
from safety_lightning.study.finetuning import FitStage
from safety_lightning.study.measuring import MeasureStage, PilotStage
from safety_lightning.study.planning.machine import Machine, find_machine
from safety_lightning.study.planning.measures import Measurement, add, plan_measurements
from safety_lightning.study.planning.texts import measure_source
from safety_lightning.study.planning.training import count_training_tokens
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage
from safety_lightning.study.variants import StudyVariant
from safety_lightning.sweep import MethodChoice, SweepSettings, open_inputs
from safety_lightning.sweep.cost import SweepCost, estimate_cost
from safety_lightning.sweep.sweep import make_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COPIES = 4  # float32: weights, gradients and two moments
_CHECKPOINT_COPIES = 3  # of weights and two moments, removed when the fit has ended
_PROCESS_BYTES = 400_000_000  # Python, torch and what they map
_EIGEN_WORK = 9.0  # floating-point operations of a symmetric decomposition with vectors, over S cubed
_PROMPTS = 512  # that the lab makes of a set


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage will take; None where that cannot be said.

    Attributes:
        seconds: Time, without waiting for judges.
        memory_bytes: Largest memory.
        disk_bytes: What stays on the disk.
        scratch_bytes: What lies on the disk besides while it runs.
        num_judged: Answers that judges are asked about who cost money.
        usd: What they cost at most by list prices.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int = 0
    scratch_bytes: int = 0
    num_judged: int | None = 0
    usd: float | None = 0.0


class Estimator:
    """Estimates the stages of a study from checkpoint headers and options; reads no weight and asks no hub for data.

    Args:
        run: The study.
    """

    def __init__(self, run: StudyRun) -> None:
        self.run = run
        self.model = run.reference or run.base
        self.reader = CheckpointReader(locate_model(self.model))
        self.num_weights = sum(info.num_numbers for info in self.reader.infos.values())

    @functools.cached_property
    def machine(self) -> Machine:
        """How fast this machine is."""
        return find_machine(self.run)

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The model's tokenizer; None where there is none, as in a folder of weights alone."""
        try:
            return load_tokenizer(self.model)
        except UserError:
            return None

    @functools.cached_property
    def measurements(self) -> dict[bool, Measurement]:
        """What it takes to measure a model, by whether only the verdict's measures are wanted."""
        return plan_measurements(self.run.measures, self.tokenizer)

    def estimate(self, stage: Stage) -> Estimate:
        """Says what a stage will take."""
        if isinstance(stage, FitStage):
            return self._estimate_fit(stage)
        if isinstance(stage, PilotStage):
            return self._measure([True] * (1 + len(stage.pilots)), seconds=0.0, memory_bytes=0)
        if isinstance(stage, MeasureStage):
            return self._estimate_variants(stage.variants)
        if isinstance(stage, EnergyStage):
            cost = self._sweep(tuple(_list_methods(self.run)), len(stage.finetunes))
            return Estimate(seconds=self._time_sweep(cost), memory_bytes=cost.peak_bytes)
        if isinstance(stage, WeightOverlapStage):
            return self._estimate_overlap(1 + len(stage.updates) + len(stage.ceilings))
        if isinstance(stage, CaptureStage):
            return self._estimate_capture(stage.options)
        if isinstance(stage, ActivationOverlapStage):
            return self._estimate_activations(stage)
        return Estimate()

    def _estimate_fit(self, stage: FitStage) -> Estimate:
        tokens = count_training_tokens(stage.options, self.tokenizer)
        passes = 8 if stage.options.get("model", {}).get("gradient_checkpointing") else 6  # one more forward pass
        return Estimate(
            seconds=None if tokens is None else self.machine.time_products(passes * self.num_weights * tokens),
            memory_bytes=_PROCESS_BYTES + 4 * _COPIES * self.num_weights,
            disk_bytes=4 * self.num_weights,
            scratch_bytes=4 * _CHECKPOINT_COPIES * self.num_weights,
        )

    def _estimate_variants(self, variants: Sequence[StudyVariant]) -> Estimate:
        draws = {one.draw for one in variants if one.source == "random"}
        known = tuple(one.method for one in variants if one.source != "random")
        random = tuple(dict.fromkeys(one.method for one in variants if one.source == "random"))
        costs = [self._sweep(known, 1), *([self._sweep(random, 1)] * len(draws) if random else [])]
        answers = self.run.measures.answers_blunt
        return self._measure(
            [one.is_blunt and not answers for one in variants],
            seconds=sum(self._time_sweep(one) for one in costs),
            memory_bytes=max(one.peak_bytes for one in costs),
        )

    def _measure(self, are_short: Sequence[bool], *, seconds: float, memory_bytes: int) -> Estimate:
        """Estimates measuring models one after the other, with what it takes to load them."""
        plans = [self.measurements[is_short] for is_short in are_short]
        size = (2 if self.run.measures.dtype == "bfloat16" else 4) * self.num_weights
        return Estimate(
            seconds=add([seconds, *(self._time_measurement(one, size) for one in plans)]),
            memory_bytes=size + max(memory_bytes, _PROCESS_BYTES),
            num_judged=add(one.num_judged for one in plans),
            usd=add(one.usd for one in plans),
        )

    def _time_measurement(self, plan: Measurement, size: int) -> float | None:
        if plan.read_tokens is None or plan.written_tokens is None or plan.num_steps is None:
            return None
        work = 2.0 * self.num_weights
        written = max(
            self.machine.time_products(work * plan.written_tokens), plan.num_steps * self.machine.time_reads(size)
        )
        return self.machine.time_products(work * plan.read_tokens) + written + self.machine.time_reads(3 * size)

    def _estimate_overlap(self, num_updates: int) -> Estimate:
        """Estimates decomposing every matrix of every update, and multiplying the bases of every pair."""
        work, largest = 0.0, 0
        for slot in select_slots(self.reader):
            small, large = sorted((slot.rows, slot.columns))
            decomposed = 1.25 * small**2 * large + _EIGEN_WORK * small**3 + 2.0 * small**2 * large
            work += num_updates * decomposed + num_updates * (num_updates - 1) / 2 * 2.0 * slot.rows * small**2
            largest = max(largest, (4 * num_updates + 16) * slot.rows * slot.columns)
        return Estimate(seconds=self.machine.time_algebra(work), memory_bytes=_PROCESS_BYTES + largest)

    def _estimate_capture(self, options: Any) -> Estimate:
        rows, tokens = self._count_captured(options)
        width, depth = self._read_shape()
        size = None if rows is None or width is None or depth is None else 4 * rows * width * (depth + 1)
        return Estimate(
            seconds=None if tokens is None else self.machine.time_products(2.0 * self.num_weights * tokens),
            memory_bytes=_PROCESS_BYTES + 4 * self.num_weights,
            disk_bytes=size or 0,
        )

    def _estimate_activations(self, stage: ActivationOverlapStage) -> Estimate:
        """Estimates decomposing every set in every layer, once by itself and once a permutation and a resample."""
        options, sets = stage.options, stage.captured.options["data"]["sets"]
        rows, _ = self._count_captured(stage.captured.options)
        width, depth = self._read_shape()
        if rows is None or width is None or depth is None:
            return Estimate()
        small, large = sorted((rows / max(1, len(sets)), width))
        draws = 1 + options.get("num_permutations", 100) + options.get("num_resamples", 100)
        work = len(sets) * (depth + 1) * draws * (2.0 * small**2 * large + _EIGEN_WORK * small**3)
        return Estimate(seconds=self.machine.time_algebra(work), memory_bytes=_PROCESS_BYTES + 16 * rows * width)

    def _count_captured(self, options: Any) -> tuple[int | None, float | None]:
        """Counts the prompts of all sets and their tokens."""
        data = options.get("data", {})
        limit, rows, tokens = data.get("num_prompts"), [], []
        for source in data.get("sets", {}).values():
            texts = measure_source(source, self.tokenizer)
            known = [one for one in (texts.num_rows, limit) if one is not None]
            rows.append(min(known) if known else None)
            length = texts.prompt_tokens + (texts.response_tokens if data.get("with_responses") else 0.0)
            tokens.append(None if rows[-1] is None else rows[-1] * length)
        return add(rows), add(tokens)

    def _read_shape(self) -> tuple[int | None, int | None]:
        config = self.reader.config
        return config.get("hidden_size", config.get("n_embd")), config.get("num_hidden_layers", config.get("n_layer"))

    @functools.lru_cache(maxsize=64)  # noqa: B019 (an estimator lives as long as its command)
    def _sweep(self, methods: tuple[Method, ...], num_models: int) -> SweepCost:
        """Returns what it costs to treat the updates of models by methods; the reference stands for their weights."""
        settings = SweepSettings(side=self.run.variants.side, exclude=self.run.variants.exclude, seed=self.run.seed)
        names = [f"model{number}" for number in range(num_models)]
        named = [f"{name}={locate_model(self.model)}" for name in names]
        merged = self.run.variants.safety_tuned
        inputs = open_inputs(self.run.base, self.model, named, methods=methods, settings=settings, safety_tuned=merged)
        variants = [Variant(finetuned=name, method=method) for name in names for method in methods]
        recipe = make_recipe(variants, side=settings.side, seed=settings.seed)
        return estimate_cost(
            inputs, settings, recipe, variants, num_saved=dict.fromkeys(names, 0), saved_bytes=0, device=None
        )

    def _time_sweep(self, cost: SweepCost) -> float:
        algebra = sum(one.gram_work + one.eigen_work for one in cost.costs)
        products = sum(one.product_work for one in cost.costs)
        return self.machine.time_algebra(algebra) + self.machine.time_products(products)


def sum_disk(estimates: Iterable[Estimate], *, num_workers: int) -> int:
    """Returns the room that stages need on the disk: what stays, and the most that lies there besides at a time."""
    known = list(estimates)
    scratch = sorted((one.scratch_bytes for one in known), reverse=True)
    return sum(one.disk_bytes for one in known) + sum(scratch[:num_workers])


def _list_methods(run: StudyRun) -> list[Method]:
    choice = run.variants
    chosen = MethodChoice(
        sources=choice.sources, components=choice.components, fractions=choice.fractions, methods=choice.methods
    )
    return chosen.list_methods()
