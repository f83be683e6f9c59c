"""Measures the variants of a fine-tune, one after the other in a model in memory; none is written to disk."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

import torch
from jsonargparse import ArgumentError
from torch import nn
from tqdm import tqdm

from safety_lightning.checkpoints import load_config, load_model, load_tokenizer
from safety_lightning.cli.commands import CommandParser
from safety_lightning.cli.errors import shorten
from safety_lightning.errors import UserError
from safety_lightning.files import PartStore, write_atomically
from safety_lightning.printing import open_console, show_line
from safety_lightning.study.finetuning import FitStage, find_name, merge
from safety_lightning.study.settings import Device, Kind, MeasureSettings, VariantSettings
from safety_lightning.study.stages import Stage
from safety_lightning.study.variants import StudyVariant, ValueRow
from safety_lightning.sweep import SweepSettings, VariantLoader, open_inputs
from safety_lightning.system.devices import choose_device
from safety_lightning.tables import write_parquet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from safety_lightning.evaluation import PromptValues
    from safety_lightning.evaluation.tasks import TaskSuite

VALUES = "values.parquet"


@dataclass(frozen=True, kw_only=True)
class MeasureStage(Stage):
    """Measures a block of the variants of one fine-tune.

    Attributes:
        base: The base model.
        reference: The reference, or the stage that makes it.
        finetune: The fine-tune.
        kind: Its kind.
        seed: Its seed.
        variants: The variants.
        settings: What is measured.
        choice: How variants are made.
        largest_fraction: The largest fraction of all blocks: weights are the same in each.
        draw_seed: Seed of the random subspaces.
        device: Where the model lies.
    """

    base: str
    reference: str | FitStage
    finetune: FitStage
    kind: Kind
    seed: int
    variants: tuple[StudyVariant, ...]
    settings: MeasureSettings
    choice: VariantSettings
    largest_fraction: float
    draw_seed: int
    device: Device

    @property
    def finetune_name(self) -> str:
        """What the fine-tune is called in the tables of other commands."""
        return f"{self.kind}-{self.seed}"

    def run(self, study: Path) -> None:
        """Measures the variants that have no part yet, and writes the rows of all."""
        parts = PartStore(study / self.folder / "parts")
        missing = [one for one in self.variants if not parts.has(_name_part(one))]
        if missing:
            bench = open_bench(find_name(self.reference, study), self.settings, self.device)
            loader = self._open_loader(study)
            with closing(loader):
                for variant in tqdm(missing, desc=self.finetune_name, unit="variant", delay=5):
                    loader.load(bench.model, variant.name_for(self.kind))
                    measured = bench.measure(is_short=variant.is_blunt and not self.settings.answers_blunt)
                    parts.write(_name_part(variant), pack(measured))
        rows = [row for variant in self.variants for row in self._make_rows(variant, parts.read(_name_part(variant)))]
        write_parquet(study / self.folder / VALUES, ValueRow, rows)
        parts.clear()

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists the file of values."""
        return [study / self.folder / VALUES]

    def _open_loader(self, study: Path) -> VariantLoader:
        methods = [one.method for one in self.variants]
        settings = SweepSettings(side=self.choice.side, exclude=self.choice.exclude, seed=self.draw_seed)
        named = [f"{self.kind}={self.finetune.find_model(study)}"]
        start = find_name(self.reference, study)
        merged = self.choice.safety_tuned
        inputs = open_inputs(self.base, start, named, methods=methods, settings=settings, safety_tuned=merged)
        return VariantLoader(inputs, settings, largest_fraction=self.largest_fraction)

    def _make_rows(self, variant: StudyVariant, part: Mapping[str, Any]) -> Iterator[ValueRow]:
        for metric, values in part.items():
            for prompt, cluster, value in zip(values["ids"], values["clusters"], values["values"], strict=True):
                yield ValueRow(
                    finetuned=self.kind,
                    seed=self.seed,
                    source=variant.source,
                    draw=variant.draw,
                    component=variant.component,
                    fraction=variant.fraction,
                    alpha=variant.alpha,
                    energy_kept=variant.energy_kept,
                    metric=metric,
                    prompt=prompt,
                    cluster=cluster,
                    value=value,
                )


@dataclass(frozen=True, kw_only=True)
class PilotStage(Stage):
    """Measures the pilots, and says whether they teach anything and whether harm comes back.

    Attributes:
        reference: The reference, or the stage that makes it.
        pilots: The short fine-tunes by kind.
        settings: What is measured.
        device: Where the model lies.
    """

    reference: str | FitStage
    pilots: Mapping[str, FitStage]
    settings: MeasureSettings
    device: Device

    def run(self, study: Path) -> None:
        """Measures reference and pilots, and writes ``pilot.json`` with a sentence for each kind."""
        bench = open_bench(find_name(self.reference, study), self.settings, self.device)
        models = {"reference": find_name(self.reference, study)}
        models |= {kind: str(stage.find_model(study)) for kind, stage in self.pilots.items()}
        means = {}
        for name, model in models.items():
            bench.use(model)
            means[name] = {metric: average(values) for metric, values in bench.measure(is_short=True).items()}
        sentences = [say_pilot(kind, means["reference"], means[kind], self.settings) for kind in self.pilots]
        for sentence in sentences:
            show_line(open_console(None), f"Pilot        {sentence}")
        found = {"means": means, "sentences": sentences}
        write_atomically(study / self.folder / "pilot.json", json.dumps(found, indent=2) + "\n")

    def check(self, study: Path) -> None:
        """Checks prompts, targets and judges."""
        if isinstance(self.reference, str):
            open_bench(self.reference, self.settings, self.device).check()


def say_pilot(kind: str, before: Mapping[str, float], after: Mapping[str, float], settings: MeasureSettings) -> str:
    """Says in a sentence what a pilot has brought about.

    Args:
        kind: useful, harmful or contaminated.
        before: The reference's means by metric.
        after: The pilot's.
        settings: Which metrics count.
    """
    wanted = {"useful": ["utility"], "harmful": ["harm"], "contaminated": ["utility", "harm"]}[kind]
    parts, fails = [], False
    for role in wanted:
        metric = settings.utility if role == "utility" else settings.harm
        low, high = before[metric], after[metric]
        parts.append(f"{metric} {low:.3f} -> {high:.3f}")
        fails |= not high > low
    verdict = "which does not rise yet: see whether the whole fine-tune is long enough" if fails else "which rises"
    return f"{kind}, {', '.join(parts)}, {verdict}"


class Bench:
    """A model in memory, and the prompts that it is measured on again and again.

    Args:
        reference: The reference: its tokenizer, and what a drift is measured from.
        settings: What is measured.
        device: Where the model lies.

    Raises:
        UserError: If a task, a prompt, a target or a measure is not there.
    """

    def __init__(self, reference: str, settings: MeasureSettings, device: Device) -> None:
        from safety_lightning.evaluation import LiveEvaluation  # a plan does without
        from safety_lightning.evaluation.datamodule import find_context

        self.reference = reference
        self.settings = settings
        self.device = choose_device(device)
        tokenizer, context = load_tokenizer(reference), find_context(load_config(reference))
        self._whole, self._short = (
            LiveEvaluation(
                tokenizer,
                read_suite(options),
                batch_size=settings.batch_size,
                num_prompts=settings.num_prompts,
                max_context_tokens=context,
                engine=settings.engine,
            )
            for options in (settings.data, choose_measures(settings))
        )
        self._model: PreTrainedModel | None = None

    @property
    def model(self) -> PreTrainedModel:
        """The model, the reference at first."""
        if self._model is None:
            self._model = self._load(self.reference)
            self._whole.take_reference(self._model)
        return self._model

    def check(self) -> None:
        """Checks that judges can be reached; raises UserError."""
        self._whole.check()

    def use(self, model: str) -> None:
        """Puts another model's weights into the model."""
        self.model.load_state_dict(self._load(model).state_dict())

    def measure(self, *, is_short: bool) -> dict[str, PromptValues]:
        """Measures the model as it is: all that the settings name, or the two measures of the verdict alone."""
        evaluation = self._short if is_short else self._whole
        found: dict[str, PromptValues] = evaluation.measure(self.model).values
        return found

    def _load(self, model: str) -> PreTrainedModel:
        loaded: nn.Module = load_model(model, dtype=getattr(torch, self.settings.dtype))
        return cast("PreTrainedModel", loaded.to(self.device))


def read_suite(options: Mapping[str, Any]) -> TaskSuite:
    """Makes the tasks of a study from plain options, as `test` takes them under ``data``.

    Raises:
        UserError: If they are not what `test` would take, or a judge lacks its key or its authors' wording.
    """
    from safety_lightning.evaluation.tasks import TaskSuite

    parser = CommandParser(exit_on_error=False)
    parser.add_class_arguments(TaskSuite, "data")
    try:
        suite: TaskSuite = parser.instantiate(parser.parse_object({"data": dict(options)})).data
    except ArgumentError as error:
        raise UserError(f"measures.data must be as `test` takes data: {shorten(str(error))}") from error
    except ValueError as error:  # of a judge that cannot be made, which the parser wraps
        from safety_lightning.cli.verbs.faults import find_user_error

        raise find_user_error(error) from None
    return suite


def choose_measures(settings: MeasureSettings) -> dict[str, Any]:
    """Returns the options of tasks on which nothing but the two measures of the verdict is measured.

    Raises:
        UserError: If no task has one of the measures.
    """
    from safety_lightning.evaluation.tasks import TaskName

    wanted = (settings.utility, settings.harm)
    known = {name: _list_measures(name) for name in get_args(TaskName)}
    tasks = [task for task in settings.data.get("tasks", []) if set(wanted) & set(known[task])]
    for measure in wanted:
        if not any(measure in known[task] for task in tasks):
            raise UserError(
                f"measures.data.tasks must have a task that measures {measure}, got {settings.data.get('tasks', [])}"
            )
    own = {task: {"measures": [one for one in wanted if one in known[task]]} for task in tasks}
    return merge(settings.data, own, {"tasks": tasks})


def _list_measures(task: str) -> tuple[str, ...]:
    """Returns what can be measured on a task by name; none where it cannot be chosen."""
    from safety_lightning.evaluation.tasks import TaskSuite

    hints = get_type_hints(get_type_hints(TaskSuite)[task])
    return get_args(get_args(hints["measures"])[0]) if "measures" in hints else ()


@functools.lru_cache(maxsize=1)
def _open_bench(reference: str, settings: str, device: Device) -> Bench:
    return Bench(reference, MeasureSettings(**json.loads(settings)), device)


def open_bench(reference: str, settings: MeasureSettings, device: Device) -> Bench:
    """Returns a bench, the one of before where it is the same: prompts are read once a process."""
    return _open_bench(reference, json.dumps(asdict(settings), sort_keys=True), device)


def pack(measured: Mapping[str, PromptValues]) -> dict[str, Any]:
    """Returns values as plain JSON; what was not scored is null."""
    return {
        metric: {
            "ids": list(one.ids),
            "clusters": [int(cluster) for cluster in one.clusters],
            "values": [None if math.isnan(value) else float(value) for value in one.values],
        }
        for metric, one in measured.items()
    }


def average(values: PromptValues) -> float:
    """Returns the mean of what was scored; NaN where nothing was."""
    scored = [float(value) for value in values.values if not math.isnan(value)]
    return math.fsum(scored) / len(scored) if scored else math.nan


def _name_part(variant: StudyVariant) -> str:
    return variant.name.replace("/", "~")
