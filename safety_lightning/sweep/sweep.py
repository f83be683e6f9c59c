"""Sweeps over whole checkpoints: every tensor is read once, its delta decomposed once for all variants.

What is found of a tensor lies in a part file of its own, so that a sweep that was killed goes on, and several processes
share the tensors between them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from safety_lightning.checkpoints import MatrixSlot, choose_dtype, make_rounding
from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.methods.delta import BasisRecipe, Decomposer, MatrixDelta, name_source, span_bases
from safety_lightning.methods.update import MatrixUpdate
from safety_lightning.methods.variants import Variant
from safety_lightning.randomness import seed_generator
from safety_lightning.subspaces import Side, decompose_delta
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings
from safety_lightning.sweep.loading import LoadedMatrix, MatrixLoader
from safety_lightning.sweep.rows import PartRow, make_part_row
from safety_lightning.sweep.saving import SavedModel
from safety_lightning.tables import read_parquet, write_parquet


class Stopwatch:
    """Adds up seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Adds the seconds of a block; on a GPU its work is waited for."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started


class Sweep:
    """The work on the matrices of a set of checkpoints.

    Args:
        inputs: The checkpoints.
        settings: What is done with them.
        variants: Every variant of every finetuned model.
        saved: The folders of the variants that are saved.
        device: Where to work.
        decompose: What decomposes deltas; None is `decompose_delta`.

    Attributes:
        stopwatch: Seconds spent on reads, decompositions, products and writes.
    """

    def __init__(
        self,
        inputs: SweepInputs,
        settings: SweepSettings,
        variants: Sequence[Variant],
        *,
        saved: Sequence[SavedModel] = (),
        device: torch.device | str = "cpu",
        decompose: Decomposer | None = None,
    ) -> None:
        self.inputs = inputs
        self.settings = settings
        self.variants = variants
        self.saved = {model.variant: model for model in saved}
        self.device = torch.device(device)
        self.stopwatch = Stopwatch()
        self._decompose = decompose or decompose_delta
        self._loader = MatrixLoader(inputs, self.device, skip_bad=settings.skip_bad)
        self.recipe = make_recipe(settings, variants)

    def run(self, numbers: Sequence[int], folder: Path) -> None:
        """Treats tensors and writes a part file each.

        Args:
            numbers: Which tensors, as numbers in ``inputs.tensors``.
            folder: Where the part files go.

        Raises:
            UserError: If a weight is NaN or infinite, a file vanished or cannot be written; the tensor is named.
                The parts of finished tensors stay.
        """
        tensors = self.inputs.tensors
        matrices = self._loader.iterate([slot for number in numbers for slot in tensors[number]])
        for number in tqdm(numbers, desc="Sweep", unit="tensor", delay=1):
            name = tensors[number][0].tensor
            try:
                self._sweep_tensor(matrices, len(tensors[number]), folder / f"{number:06d}")
            except OSError as error:
                raise UserError(
                    f"stopped at tensor {name}: {error}. What is finished is kept; the same command goes on"
                ) from error
            self.inputs.close()

    def sweep_matrix(self, loaded: LoadedMatrix) -> list[PartRow]:
        """Treats one matrix in every variant: sums for all, weights of those that are saved."""
        with self.stopwatch.measure("decompositions"):
            delta = span_bases(loaded.slot, loaded.reference, loaded.delta, self.recipe, self._decompose)
        rows: list[PartRow] = []
        for number, finetuned in enumerate(self.inputs.finetuned):
            update = loaded.updates[number]
            if update is None and "resta" in self.settings.rivals.methods:
                update = torch.zeros_like(loaded.delta)
            if update is not None:
                own = [one for one in self.variants if one.finetuned == finetuned.name]
                with self.stopwatch.measure("products"):
                    seen = see_update(delta, loaded, update, self.settings)
                rows += self._treat(loaded.slot, seen, own)
            else:
                self._keep_reference(loaded, finetuned.name)
        return rows

    def _sweep_tensor(self, matrices: Iterator[LoadedMatrix], num_matrices: int, stem: Path) -> None:
        rows: list[PartRow] = []
        problems: dict[str, str] = {}
        for _ in range(num_matrices):
            with self.stopwatch.measure("reads"):
                loaded = next(matrices)
            if loaded.problem is not None:
                problems[loaded.slot.name] = loaded.problem
                self._keep_finetuned(loaded.slot)
            else:
                rows += self.sweep_matrix(loaded)
        write_atomically(stem.with_suffix(".json"), json.dumps(problems))
        write_parquet(stem.with_suffix(".parquet"), PartRow, rows)

    def _treat(self, slot: MatrixSlot, update: MatrixUpdate, variants: Sequence[Variant]) -> list[PartRow]:
        columns_S = self._sample_columns(slot, update)
        stored = self._write_saved(slot, update, [one for one in variants if one in self.saved], columns_S)
        rows = []
        with self.stopwatch.measure("products"):
            for variant in variants:
                found = stored.get(variant) or self._estimate_stored(slot, update, variant, columns_S)
                rows.append(make_part_row(slot, variant, update.sum_up(variant, found)))
                if self._waits_for_others(variant) and rows[-1].is_changed:
                    update.is_worst = False
                    rows.append(make_part_row(slot, variant, update.sum_up(variant, (update.total, None))))
                    update.is_worst = True
        return rows

    def _write_saved(
        self, slot: MatrixSlot, update: MatrixUpdate, variants: Sequence[Variant], columns_S: Tensor
    ) -> dict[Variant, tuple[float, float | None]]:
        """Writes the weights of the variants that are saved, and measures what was stored."""
        stored = {}
        update.is_worst = False  # a choice by number is written when all matrices have been seen
        for variant, kept_MN in update.iterate_kept(variants):
            model = self.saved[variant]
            with self.stopwatch.measure("writes"):
                if model.is_adapter:
                    stored_MN = self._write_adapter(slot, update, variant, kept_MN)
                else:
                    weights = model.write_matrix(slot, self._turn(update.delta.reference_MN + kept_MN))
                    stored_MN = self._turn(weights) - update.delta.reference_MN
            with self.stopwatch.measure("products"):
                stored[variant] = update.measure_stored(variant, stored_MN, columns_S)
        update.is_worst = True
        return stored

    def write_chosen(self, slot: MatrixSlot, variants: Sequence[Variant]) -> None:
        """Writes a matrix that Safe LoRA by number chose in the end."""
        loaded = self._loader.load(slot)
        delta = span_bases(slot, loaded.reference, loaded.delta, self.recipe, self._decompose)
        for number, finetuned in enumerate(self.inputs.finetuned):
            update = loaded.updates[number]
            for variant in variants:
                if variant.finetuned == finetuned.name and update is not None:
                    kept_MN = see_update(delta, loaded, update, self.settings).keep_rival(variant)
                    self.saved[variant].write_matrix(slot, self._turn(delta.reference_MN + kept_MN))

    def _write_adapter(self, slot: MatrixSlot, update: MatrixUpdate, variant: Variant, kept_MN: Tensor) -> Tensor:
        model = self.saved[variant]
        assert model.finetuned.adapter is not None
        if slot.tensor in model.finetuned.adapter.whole:
            weights = self._turn(update.delta.reference_MN + kept_MN)
            return self._turn(model.write_whole(slot, weights).to(self.device)) - update.delta.reference_MN
        basis = update.delta.pick_columns(name_source(variant), slice(0, update.delta.find_rank(variant)))
        return self._turn(model.write_factors(slot, basis, side=self.settings.side).to(self.device))

    def _estimate_stored(
        self, slot: MatrixSlot, update: MatrixUpdate, variant: Variant, columns_S: Tensor
    ) -> tuple[float, float | None]:
        if variant.component is None:
            return update.total, None
        finetuned = next(one for one in self.inputs.finetuned if one.name == variant.finetuned)
        own = finetuned.infos[slot.tensor].dtype
        assert own is not None
        round_weights = make_rounding(choose_dtype(self.settings.storage_dtype, own))
        return update.estimate_stored(variant, columns_S, round_weights)

    def _keep_reference(self, loaded: LoadedMatrix, finetuned: str) -> None:
        """Writes reference weights where a finetuned model trained nothing; an adapter has nothing to write there."""
        for variant, model in self.saved.items():
            if variant.finetuned == finetuned and not model.is_adapter:
                model.write_matrix(loaded.slot, loaded.reference)

    def _keep_finetuned(self, slot: MatrixSlot) -> None:
        """Writes the finetuned model's own weights where a matrix is left out for what is wrong with it."""
        for model in self.saved.values():
            model.write_own(slot.tensor)

    def _sample_columns(self, slot: MatrixSlot, update: MatrixUpdate) -> Tensor:
        num_columns, wanted = update.update_MN.shape[1], self.settings.num_leak_columns
        if wanted == 0 or wanted >= num_columns:
            return torch.arange(num_columns, device=self.device)
        generator = seed_generator(f"{self.settings.seed}:{slot.name}:leak")
        return torch.randperm(num_columns, generator=generator)[:wanted].sort().values.to(self.device)

    def _turn(self, matrix: Tensor) -> Tensor:
        """Turns a matrix so that the subspace lies on its rows' side, or back."""
        return turn(matrix, self.settings.side)

    def _waits_for_others(self, variant: Variant) -> bool:
        return variant.source == "safe_lora" and self.settings.rivals.safe_lora.num_worst is not None


def make_recipe(settings: SweepSettings, variants: Sequence[Variant]) -> BasisRecipe:
    """Returns which bases the variants need."""
    sources = [source for source in settings.sources if any(one.source == source for one in variants)]
    by_rank = [one.fraction for one in variants if one.source in sources and one.fraction is not None]
    return BasisRecipe(
        sources=sources,
        largest_fraction=max(by_rank, default=1.0),
        need_all=any(one.source in ("safe_lora", "safe_merge", "energy") for one in variants),
        side=settings.side,
        seed=settings.seed,
    )


def see_update(delta: MatrixDelta, loaded: LoadedMatrix, update: Tensor, settings: SweepSettings) -> MatrixUpdate:
    """Returns an update as seen from the bases of its delta."""
    return MatrixUpdate(
        delta,
        turn(update, settings.side),
        rivals=settings.rivals,
        safety_MN=None if loaded.safety is None else turn(loaded.safety, settings.side),
        vector_MN=None if loaded.vector is None else turn(loaded.vector, settings.side),
        is_vector=loaded.slot.is_vector,
    )


def turn(matrix: Tensor, side: Side) -> Tensor:
    """Turns a matrix so that the subspace lies on its rows' side, or back."""
    return matrix if side == "left" else matrix.mT


def read_parts(folder: Path, num_tensors: int) -> tuple[list[PartRow], dict[str, str]]:
    """Reads the parts of a finished sweep: rows in the tensors' order, and what is wrong with matrices left out."""
    rows: list[PartRow] = []
    problems: dict[str, str] = {}
    for number in range(num_tensors):
        rows += read_parquet(folder / f"{number:06d}.parquet", PartRow)
        problems |= json.loads((folder / f"{number:06d}.json").read_text())
    return rows, problems


def find_unfinished(folder: Path, num_tensors: int) -> list[int]:
    """Returns the numbers of the tensors that have no part yet."""
    return [number for number in range(num_tensors) if not (folder / f"{number:06d}.parquet").is_file()]
