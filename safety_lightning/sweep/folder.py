"""The folder of a sweep: begun, gone on with, and finished; its files are whole or absent."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from safety_lightning.checkpoints import tied_output
from safety_lightning.errors import UserError
from safety_lightning.files import PartStore, write_atomically
from safety_lightning.methods import Method, Variant
from safety_lightning.runs import RunFolder, describe_command, describe_environment
from safety_lightning.subspaces import DecompositionLibrary
from safety_lightning.sweep.cost import cost_tensor
from safety_lightning.sweep.figures import draw_energy, draw_layers
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings
from safety_lightning.sweep.rows import (
    EnergyRow,
    PartRow,
    SweepMatrixRow,
    choose_worst,
    make_energy_row,
    make_tensor_rows,
)
from safety_lightning.sweep.saving import SavedModel, write_card
from safety_lightning.sweep.sweep import Sweep, check_draws, find_unfinished, read_parts
from safety_lightning.system.disks import DiskFullError, format_bytes
from safety_lightning.system.processes import (
    barrier,
    broadcast,
    count_processes,
    join_processes,
    process_rank,
    share_out,
)
from safety_lightning.tables import read_parquet, write_csv, write_parquet

_EMBEDDINGS = ("embed_tokens", "wte")


class SweepFolder:
    """A sweep and the folder that it fills.

    Args:
        out: The folder.
        inputs: The checkpoints.
        settings: What is done with them.
        variants: Every variant.
        saved: Those whose models are saved.

    Raises:
        UserError: If a variant is a draw of its own.
    """

    def __init__(
        self,
        out: Path,
        inputs: SweepInputs,
        settings: SweepSettings,
        variants: Sequence[Variant],
        saved: Sequence[Variant],
    ) -> None:
        check_draws(variants)
        self.out = out
        self.inputs = inputs
        self.settings = settings
        self.variants = variants
        self.methods = [one.method for one in variants if one.finetuned == variants[0].finetuned]
        self.parts = PartStore(out / "parts")
        self.models = [self._make_model(variant) for variant in saved]

    @property
    def num_bytes(self) -> int:
        """What the saved models take on the disk."""
        return sum(model.writer.num_bytes for model in self.models)

    def run(
        self,
        *,
        device: torch.device,
        library: Path | None,
        config: str,
        base: str,
        reference: str,
    ) -> tuple[list[EnergyRow], dict[str, int]]:
        """Does what is not done yet, and finishes the folder.

        Args:
            device: Where to work.
            library: Folder of decompositions; None keeps none.
            config: The resolved configuration, as YAML.
            base: What the base was called.
            reference: What the reference was called.

        Returns:
            The rows of ``energy.csv`` and counts of matrices; no rows in any process but the first.

        Raises:
            UserError: If base and reference are the same, the folder holds another run, the disk is too full, or the
                sweep stops at a tensor.
        """
        recipe = self._describe()
        if recipe["inputs"]["base"] == recipe["inputs"]["reference"]:
            raise UserError(
                f"base and reference must differ, {self.inputs.base.folder} and {self.inputs.reference.folder} hold "
                "the same weights: there is no delta"
            )
        if (manifest := self._read_finished(recipe)) is not None:
            return read_parquet(self.out / "energy.parquet", EnergyRow), manifest["counts"]
        decompose = DecompositionLibrary(library).decompose if library is not None else None
        run = RunFolder(self.out, command="project")
        with join_processes(), run.releasing():
            if process_rank() == 0:
                self._begin(run, recipe, config)
            barrier()
            sweep = Sweep(
                self.inputs, self.settings, self.variants, saved=self.models, device=device, decompose=decompose
            )
            sweep.run(self._take_share(sweep), self.parts)
            barrier()
            if process_rank() == 0:
                return self._finish(sweep, base=base, reference=reference)
        return [], {}

    def _make_model(self, variant: Variant) -> SavedModel:
        finetuned = next(one for one in self.inputs.finetuned if one.name == variant.finetuned)
        source = self.inputs.reference.folder if finetuned.adapter is not None else finetuned.folder
        return SavedModel(variant, self.out / "models" / variant.name, finetuned, source, self.settings.storage_dtype)

    def _describe(self) -> dict[str, Any]:
        """Returns what determines the folder's contents; two sweeps of equal recipes are interchangeable."""
        recipe = {
            "inputs": self.inputs.hash_files(),
            "settings": dataclasses.asdict(self.settings),
            "methods": [_describe_method(method) for method in self.methods],
            "saved": [model.variant.name for model in self.models],
        }
        return dict(json.loads(json.dumps(recipe)))

    def _read_finished(self, recipe: dict[str, Any]) -> dict[str, Any] | None:
        manifest = RunFolder(self.out, command="project").read_manifest()
        if manifest.get("recipe") != recipe or "seconds" not in manifest:
            return None
        self.parts.clear()
        return manifest

    def _find_same(self, run: RunFolder, recipe: dict[str, Any]) -> bool:
        """Whether the folder holds the same sweep, which resumes; raises UserError if it holds anything else."""
        manifest = run.read_manifest()
        resumes = manifest.get("recipe") == recipe
        if not resumes and not run.is_free():
            raise UserError(f"out must be a new folder or one of the same sweep, {self.out} {_tell(manifest, recipe)}")
        return bool(resumes)

    def _begin(self, run: RunFolder, recipe: dict[str, Any], config: str) -> None:
        if not self._find_same(run, recipe):
            run.check(num_bytes=self.num_bytes)
        run.acquire()
        resumes = self._find_same(run, recipe)
        if not resumes:
            run.write_manifest({"command": describe_command(), **describe_environment(), "recipe": recipe})
        if not (self.out / "config.yaml").exists():  # a kill may have come between the two files
            write_atomically(self.out / "config.yaml", config)
        try:
            for model in self.models:
                model.create()
        except (OSError, DiskFullError) as error:
            if not resumes:  # what an earlier call finished stays
                shutil.rmtree(self.out)
            raise UserError(f"out {self.out} must have room for {format_bytes(self.num_bytes)}: {error}") from error

    def _take_share(self, sweep: Sweep) -> list[int]:
        tensors = self.inputs.tensors
        numbers = broadcast(find_unfinished(self.parts, len(tensors)))
        num_models = len(self.inputs.finetuned)
        costs = [cost_tensor(tensors[one], self.settings, sweep.recipe, num_models) for one in numbers]
        return share_out(numbers, costs, rank=process_rank(), num_processes=count_processes())

    def _finish(self, sweep: Sweep, *, base: str, reference: str) -> tuple[list[EnergyRow], dict[str, int]]:
        parts, problems = read_parts(self.parts, len(self.inputs.tensors))
        parts = self._choose(parts, sweep)
        parts = [*parts, *self._list_tied(parts)]
        tensor_rows = make_tensor_rows(parts)
        by_variant: dict[tuple[Any, ...], list[PartRow]] = {variant.key: [] for variant in self.variants}
        for part in parts:
            by_variant[part.key].append(part)
        rows = [make_energy_row(variant, by_variant[variant.key]) for variant in self.variants]
        write_parquet(self.out / "tensors.parquet", SweepMatrixRow, tensor_rows)
        write_parquet(self.out / "energy.parquet", EnergyRow, rows)
        write_csv(self.out / "energy.csv", EnergyRow, rows)
        draw_energy(rows, self.out / "energy")
        for finetuned in self.inputs.finetuned:
            own_rows = [row for row in tensor_rows if row.finetuned == finetuned.name]
            draw_layers(own_rows, self.out / f"layers_{finetuned.name}")
        with sweep.stopwatch.measure("writes"):
            self._finish_models(dict(zip(by_variant, rows, strict=True)), base, reference, num_bad=len(problems))
        counts = _count(parts, len(self.inputs.slots), problems)
        run = RunFolder(self.out, command="project")
        run.write_manifest(
            {**run.read_manifest(), "counts": counts, "left_out": problems, "seconds": sweep.stopwatch.seconds}
        )
        self.parts.clear()
        return rows, counts

    def _choose(self, parts: list[PartRow], sweep: Sweep) -> list[PartRow]:
        """Decides for methods by number, now that every score is known, and writes the chosen matrices."""
        slots = {slot.name: slot for slot in self.inputs.slots}
        for variant in self.variants:
            if (num_worst := variant.method.needs.num_worst) is None:
                continue
            parts = choose_worst(parts, variant, num_worst)
            if variant.name in sweep.saved:
                for part in parts:
                    if part.key == variant.key and part.is_changed:
                        sweep.write_chosen(slots[part.name], [variant])
        return parts

    def _list_tied(self, parts: Sequence[PartRow]) -> list[PartRow]:
        """Paper: an embedding that is also the output layer counts twice."""
        output = tied_output(self.inputs.reference)
        if self.settings.tied == "once" or output is None:
            return []
        embeddings = (part for part in parts if part.kind in _EMBEDDINGS)
        return [dataclasses.replace(part, name=output, kind="lm_head") for part in embeddings]

    def _finish_models(self, rows: Mapping[Any, EnergyRow], base: str, reference: str, *, num_bad: int) -> None:
        treated = {slot.tensor for slot in self.inputs.slots}
        for model in self.models:
            if not model.folder.is_dir():
                model.write_others(treated)
                row = rows[model.variant.key]
                card = write_card(model, row, self.settings, base=base, reference=reference, num_bad=num_bad)
                model.finish(card, reference)


def _describe_method(method: Method) -> dict[str, Any]:
    hashes = method.hash_files()
    return {**method.to_recipe(), **({"files": hashes} if hashes else {})}


def _count(parts: Sequence[PartRow], num_matrices: int, problems: dict[str, str]) -> dict[str, int]:
    ranks = {part.name: part for part in parts}
    return {
        "num_matrices": num_matrices,
        "num_updated": len(ranks),
        "num_zero_delta": sum(part.delta == 0 for part in ranks.values()),
        "num_capped_at_rank": len({part.name for part in parts if part.is_capped}),
        "num_bad": len(problems),
    }


def _tell(manifest: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Says what else a folder holds."""
    if "recipe" not in manifest:
        return f"holds {' '.join(manifest['command'])}" if "command" in manifest else "holds other files"
    before = manifest["recipe"]
    changed = [name for name, value in recipe["settings"].items() if before["settings"].get(name) != value]
    changed += [name for name in ("inputs", "methods", "saved") if before.get(name) != recipe[name]]
    return f"holds one with other {', '.join(changed)}"
