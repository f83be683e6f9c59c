"""Sweeps over whole checkpoints: every tensor is read once, its delta decomposed once for all variants.

What is found of a tensor lies in a part of its own, so that a sweep that was killed resumes, and several processes
share the tensors between them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from safety_lightning.checkpoints import MatrixSlot, choose_dtype, make_rounding
from safety_lightning.errors import UserError
from safety_lightning.files import PartStore
from safety_lightning.methods import Kept, MatrixUpdate, Variant
from safety_lightning.methods.delta import BasisRecipe, Decomposer, MatrixDelta, span_bases
from safety_lightning.methods.update import UNTREATED
from safety_lightning.subspaces import Side, decompose_delta
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings
from safety_lightning.sweep.loading import LoadedMatrix, MatrixLoader
from safety_lightning.sweep.rows import PartRow, make_part_row
from safety_lightning.sweep.saving import SavedModel
from safety_lightning.system.devices import in_full_precision
from safety_lightning.system.randomness import seed_generator


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

    Raises:
        UserError: If a variant is a draw of its own.

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
        check_draws(variants)
        self.inputs = inputs
        self.settings = settings
        self.variants = variants
        self.saved = {model.variant.name: model for model in saved}
        self.device = torch.device(device)
        self.stopwatch = Stopwatch()
        self._decompose = decompose or decompose_delta
        self._loader = MatrixLoader(inputs, self.device, skip_bad=settings.skip_bad)
        self.recipe = make_recipe(variants, side=settings.side, seed=settings.seed)

    @in_full_precision()
    def run(self, numbers: Sequence[int], parts: PartStore) -> None:
        """Treats tensors and writes a part for each.

        Args:
            numbers: Which tensors, as numbers in ``inputs.tensors``.
            parts: Where the parts go.

        Raises:
            UserError: If a weight is NaN or infinite, a file vanished or cannot be written; the tensor is named.
                The parts of finished tensors stay.
        """
        tensors = self.inputs.tensors
        matrices = self._loader.iterate([slot for number in numbers for slot in tensors[number]])
        for number in tqdm(numbers, desc="Sweep", unit="tensor", delay=1):
            name = tensors[number][0].tensor
            try:
                self._sweep_tensor(matrices, len(tensors[number]), number, parts)
            except OSError as error:
                raise UserError(
                    f"stopped at tensor {name}: {error}. What is finished is kept; the same command resumes"
                ) from error
            self.inputs.close()

    def sweep_matrix(self, loaded: LoadedMatrix) -> list[PartRow]:
        """Treats one matrix in every variant: sums for all, weights of those that are saved."""
        with self.stopwatch.measure("decompositions"):
            delta = span_bases(loaded.slot, loaded.reference, loaded.delta, self.recipe, self._decompose)
        rows: list[PartRow] = []
        for number, finetuned in enumerate(self.inputs.finetuned):
            variants = [one for one in self.variants if one.finetuned == finetuned.name]
            update = loaded.updates[number]
            if update is None:
                update = torch.zeros_like(loaded.delta)
                self._keep_reference(loaded, [one for one in variants if not one.method.needs.untrained])
                variants = [one for one in variants if one.method.needs.untrained]
            if variants:
                with self.stopwatch.measure("products"):
                    seen = see_update(delta, loaded, update, self.settings.side)
                rows += self._treat(loaded.slot, seen, variants)
        return rows

    def write_chosen(self, slot: MatrixSlot, variants: Sequence[Variant]) -> None:
        """Writes a matrix that methods by number chose in the end."""
        loaded = self._loader.load(slot)
        delta = span_bases(slot, loaded.reference, loaded.delta, self.recipe, self._decompose)
        for number, finetuned in enumerate(self.inputs.finetuned):
            update = loaded.updates[number]
            for variant in variants:
                if variant.finetuned == finetuned.name and update is not None:
                    seen = see_update(delta, loaded, update, self.settings.side)
                    weights_MN = delta.reference_MN + seen.expand(variant.method.keep(seen))
                    self.saved[variant.name].write_matrix(slot, self._turn(weights_MN))

    def _sweep_tensor(self, matrices: Iterator[LoadedMatrix], num_matrices: int, number: int, parts: PartStore) -> None:
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
        parts.write(name_part(number), {"rows": [dataclasses.asdict(row) for row in rows], "problems": problems})

    def _treat(self, slot: MatrixSlot, update: MatrixUpdate, variants: Sequence[Variant]) -> list[PartRow]:
        columns_S = self._sample_columns(slot, update)
        keeps = {variant.name: variant.method.keep(update) for variant in variants}
        stored = self._write_saved(slot, update, variants, keeps, columns_S)
        rows = []
        with self.stopwatch.measure("products"):
            for variant in variants:
                kept, score = keeps[variant.name], variant.method.score(update)
                found = stored.get(variant.name) or self._estimate_stored(slot, update, variant, kept, columns_S)
                rows.append(make_part_row(slot, variant, update.sum_up(kept, found, score=score)))
                if variant.method.needs.num_worst is not None and kept.is_changed:
                    left = update.sum_up(UNTREATED, (update.total, None), score=score)
                    rows.append(make_part_row(slot, variant, left))
        return rows

    def _write_saved(
        self,
        slot: MatrixSlot,
        update: MatrixUpdate,
        variants: Sequence[Variant],
        keeps: Mapping[str, Kept],
        columns_S: Tensor,
    ) -> dict[str, tuple[float, float | None]]:
        """Writes the weights of the variants that are saved, and measures what was stored.

        A choice by number is written when all matrices have been seen: until then the matrix is as it was.
        """
        saved = {
            variant.name: keeps[variant.name] if variant.method.needs.num_worst is None else UNTREATED
            for variant in variants
            if variant.name in self.saved
        }
        stored = {}
        for name, kept_MN in update.iterate_kept(list(saved.items())):
            model = self.saved[name]
            with self.stopwatch.measure("writes"):
                if model.is_adapter:
                    stored_MN = self._write_adapter(slot, update, model, saved[name], kept_MN)
                else:
                    weights = model.write_matrix(slot, self._turn(update.delta.reference_MN + kept_MN))
                    stored_MN = self._turn(weights) - update.delta.reference_MN
            with self.stopwatch.measure("products"):
                stored[name] = update.measure_stored(saved[name], stored_MN, columns_S)
        return stored

    def _write_adapter(
        self, slot: MatrixSlot, update: MatrixUpdate, model: SavedModel, kept: Kept, kept_MN: Tensor
    ) -> Tensor:
        assert model.finetuned.adapter is not None
        if slot.tensor in model.finetuned.adapter.whole:
            weights = self._turn(update.delta.reference_MN + kept_MN)
            return self._turn(model.write_whole(slot, weights).to(self.device)) - update.delta.reference_MN
        treat = partial(update.keep_factor, kept)
        stored = model.write_factors(slot, treat, side=self.settings.side, device=self.device)
        return self._turn(stored)

    def _estimate_stored(
        self, slot: MatrixSlot, update: MatrixUpdate, variant: Variant, kept: Kept, columns_S: Tensor
    ) -> tuple[float, float | None]:
        finetuned = next(one for one in self.inputs.finetuned if one.name == variant.finetuned)
        own = finetuned.infos[slot.tensor].dtype
        assert own is not None
        round_weights = make_rounding(choose_dtype(self.settings.storage_dtype, own))
        return update.estimate_stored(kept, columns_S, round_weights)

    def _keep_reference(self, loaded: LoadedMatrix, variants: Sequence[Variant]) -> None:
        """Writes reference weights where a finetuned model trained nothing; an adapter has nothing to write there."""
        for variant in variants:
            model = self.saved.get(variant.name)
            if model is not None and not model.is_adapter:
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


def check_draws(variants: Sequence[Variant]) -> None:
    """Raises UserError if a variant is a draw of its own: all have the directions of the settings' seed in a sweep."""
    drawn = next((one.name for one in variants if one.draw is not None), None)
    if drawn is not None:
        raise UserError(
            f"a sweep must have variants without a draw, which take the settings' seed, got {drawn}: VariantLoader "
            "loads draws"
        )


def make_recipe(variants: Sequence[Variant], *, side: Side, seed: int) -> BasisRecipe:
    """Returns which bases the variants need."""
    needs = [variant.method.needs for variant in variants]
    by_rank = [need for need in needs if need.source is not None and need.fraction is not None]
    return BasisRecipe(
        sources=[need.source for need in by_rank if need.source is not None],
        largest_fraction=max((need.fraction for need in by_rank if need.fraction is not None), default=1.0),
        need_all=any(need.source is not None and need.fraction is None for need in needs),
        side=side,
        seed=seed,
    )


def see_update(delta: MatrixDelta, loaded: LoadedMatrix, update: Tensor, side: Side) -> MatrixUpdate:
    """Returns an update as seen from the bases of its delta."""
    return MatrixUpdate(
        delta,
        turn(update, side),
        safety_MN=None if loaded.safety is None else turn(loaded.safety, side),
        vector_MN=None if loaded.vector is None else turn(loaded.vector, side),
        is_vector=loaded.slot.is_vector,
    )


def turn(matrix: Tensor, side: Side) -> Tensor:
    """Turns a matrix so that the subspace lies on its rows' side, or back."""
    return matrix if side == "left" else matrix.mT


def name_part(number: int) -> str:
    """Returns the name of a tensor's part."""
    return f"{number:06d}"


def read_parts(parts: PartStore, num_tensors: int) -> tuple[list[PartRow], dict[str, str]]:
    """Reads the parts of a finished sweep: rows in the tensors' order, and what is wrong with matrices left out."""
    rows: list[PartRow] = []
    problems: dict[str, str] = {}
    for number in range(num_tensors):
        part = parts.read(name_part(number))
        rows += [PartRow(**row) for row in part["rows"]]
        problems |= part["problems"]
    return rows, problems


def find_unfinished(parts: PartStore, num_tensors: int) -> list[int]:
    """Returns the numbers of the tensors that have no part yet."""
    return [number for number in range(num_tensors) if not parts.has(name_part(number))]
