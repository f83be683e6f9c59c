"""Measures the variants of a fine-tune, one after the other in a model in memory; none is written to disk."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.system.devices import choose_device
from safety_lightning.errors import UserError
from safety_lightning.evaluation import Evaluation, LiveEvaluation
from safety_lightning.files import PartStore, write_atomically
from safety_lightning.study.comparing import find_name
from safety_lightning.study.finetuning import FitStage
from safety_lightning.study.settings import Device, Kind, MeasureSettings, VariantSettings
from safety_lightning.study.stages import Stage
from safety_lightning.study.variants import StudyVariant, ValueRow
from safety_lightning.sweep import SweepSettings, VariantLoader, open_inputs
from safety_lightning.tables import write_parquet

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
    draw_seed: int
    device: Device

    def run(self, study: Path) -> None:
        """Measures the variants that have no part yet, and writes the rows of all."""
        parts = PartStore(study / self.folder / "parts")
        missing = [one for one in self.variants if not parts.has(_name_part(one))]
        if missing:
            bench = open_bench(find_name(self.reference, study), self.settings, self.device)
            loader = self._open_loader(study)
            for variant in tqdm(missing, desc=f"{self.kind}-{self.seed}", unit="variant", delay=5):
                energy = bench.load(loader, self.kind, variant)
                measured = bench.measure(is_short=variant.is_blunt and not self.settings.answers_blunt)
                parts.write(_name_part(variant), {"energy_kept": energy, "values": pack(measured)})
        rows = [row for variant in self.variants for row in self._make_rows(variant, parts.read(_name_part(variant)))]
        write_parquet(study / self.folder / VALUES, ValueRow, rows)
        parts.clear()

    def check(self, study: Path) -> None:
        """Checks prompts, targets and judges."""
        if isinstance(self.reference, str):
            open_bench(self.reference, self.settings, self.device).check()

    def list_outputs(self, study: Path) -> list[Path]:
        """Lists the file of values."""
        return [study / self.folder / VALUES]

    def _open_loader(self, study: Path) -> VariantLoader:
        methods = [one.method for one in self.variants if one.method is not None]
        settings = SweepSettings(side=self.choice.side, exclude=self.choice.exclude, seed=self.draw_seed)
        named = [f"{self.kind}={self.finetune.find_model(study)}"]
        start = find_name(self.reference, study)
        return VariantLoader(open_inputs(self.base, start, named, methods=methods, settings=settings), settings)

    def _make_rows(self, variant: StudyVariant, part: Mapping[str, Any]) -> Iterator[ValueRow]:
        for metric, values in part["values"].items():
            for prompt, cluster, value in zip(values["ids"], values["clusters"], values["values"], strict=True):
                yield ValueRow(
                    finetuned=self.kind,
                    seed=self.seed,
                    source=variant.source,
                    draw=variant.draw if variant.source == "random" else 0,
                    component=variant.component,
                    fraction=variant.fraction,
                    alpha=variant.alpha,
                    energy_kept=part["energy_kept"],
                    metric=metric,
                    prompt=prompt,
                    cluster=cluster,
                    value=value,
                )
