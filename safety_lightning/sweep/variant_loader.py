"""Sets the weights of one variant after the other into a live model, in place, so that none needs to be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from safety_lightning.checkpoints import CheckpointReader, Finetuned, MatrixSlot, choose_dtype
from safety_lightning.errors import UserError
from safety_lightning.methods import Kept, MatrixUpdate, Plain, Variant
from safety_lightning.methods.delta import Decomposer, span_bases
from safety_lightning.projection.projector import match_parameters
from safety_lightning.subspaces import check_fraction, decompose_delta
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings
from safety_lightning.sweep.loading import LoadedMatrix, MatrixLoader
from safety_lightning.sweep.sweep import make_recipe, see_update, turn
from safety_lightning.sweep.variants import Directions, InsideParts, KeptWeights, Place, Shelf, Track, WeightPair
from safety_lightning.sweep.variants.directions import MODES, name_random
from safety_lightning.sweep.variants.inside import INSIDE
from safety_lightning.sweep.variants.weights import REFERENCE, name_finetuned
from safety_lightning.system.devices import in_full_precision


class PlainLoader:
    """Turns a live model into one variant after the other by reading and making everything anew for each.

    It is the plain form of `VariantLoader`, for every method.

    Args:
        inputs: The checkpoints.
        settings: What is done with them; its storage dtype is what weights are rounded to, as if they were saved.
        decompose: What decomposes deltas, best ``DecompositionLibrary(folder).decompose``; None is `decompose_delta`.
    """

    def __init__(self, inputs: SweepInputs, settings: SweepSettings, *, decompose: Decomposer | None = None) -> None:
        self.inputs = inputs
        self.settings = settings
        self._decompose = decompose or decompose_delta

    def iterate(self, model: nn.Module, variants: Sequence[Variant]) -> Iterator[tuple[Variant, dict[str, Tensor]]]:
        """Yields variants whose weights are in the model.

        Args:
            model: The live model, of the checkpoints' architecture, on any device and in any floating dtype; it is
                changed in place, and holds the last variant afterwards.
            variants: Which ones, in this order.

        Yields:
            The variant and the model's state by the checkpoints' tensor names: the live parameters, not copies.

        Raises:
            UserError: If the model lacks a tensor, a weight is NaN or infinite, or a method chooses by number: its
                choice is known after a sweep alone.
        """
        for variant in variants:
            yield variant, self.load(model, variant)

    @torch.no_grad()
    @in_full_precision()
    def load(self, model: nn.Module, variant: Variant) -> dict[str, Tensor]:
        """Sets one variant's weights into a model, in place, and returns its state by tensor name.

        Raises:
            UserError: As `iterate`.
        """
        if variant.method.needs.num_worst is not None:
            raise UserError(f"{variant.name} needs the scores of all matrices: save its model by a sweep")
        finetuned = self._find_finetuned(variant)
        dtypes = {name: info.dtype for name, info in finetuned.infos.items() if info.dtype is not None}
        parameters = match_parameters(model, dtypes)
        live = {name: parameters[name].data for name in dtypes}
        if isinstance(variant.method, Plain):
            source = self.inputs.reference if variant.method.model == "reference" else finetuned
            self._copy(live, source, dtypes)
        else:
            taking_part = {slot.tensor for slot in self.inputs.slots}
            self._copy({name: live[name] for name in live if name not in taking_part}, finetuned, dtypes)
            self._set_matrices(live, variant, finetuned, dtypes)
        self.inputs.close()
        return live

    def _copy(
        self, live: Mapping[str, Tensor], source: CheckpointReader | Finetuned, dtypes: Mapping[str, torch.dtype]
    ) -> None:
        for name, weights in live.items():
            self._set(weights, source.read(name), dtypes[name])

    def _set_matrices(
        self, live: Mapping[str, Tensor], variant: Variant, finetuned: Finetuned, dtypes: Mapping[str, torch.dtype]
    ) -> None:
        own_inputs = dataclasses.replace(self.inputs, finetuned=[finetuned])
        device = next(iter(live.values())).device
        for loaded in MatrixLoader(own_inputs, device, skip_bad=self.settings.skip_bad).iterate(self.inputs.slots):
            slot = loaded.slot
            weights = self._make_weights(loaded, variant, finetuned)
            self._set(slot.view(live[slot.tensor]), weights, dtypes[slot.tensor])

    def _make_weights(self, loaded: LoadedMatrix, variant: Variant, finetuned: Finetuned) -> Tensor:
        side = self.settings.side
        if loaded.problem is not None:
            return read_own(finetuned, loaded.slot)
        [update] = loaded.updates
        if update is None and not variant.method.needs.untrained:
            return loaded.reference
        recipe = make_recipe([variant], side=side, seed=self._choose_seed(variant))
        delta = span_bases(loaded.slot, loaded.reference, loaded.delta, recipe, self._decompose)
        update = torch.zeros_like(loaded.delta) if update is None else update
        seen = see_update(delta, loaded, update, side)
        return loaded.reference + turn(seen.expand(variant.method.keep(seen)), side)

    def _set(self, live: Tensor, weights: Tensor, own: torch.dtype) -> None:
        live.copy_(weights.to(choose_dtype(self.settings.storage_dtype, own)))

    def _find_finetuned(self, variant: Variant) -> Finetuned:
        found = next((one for one in self.inputs.finetuned if one.name == variant.finetuned), None)
        if found is None:
            names = ", ".join(one.name for one in self.inputs.finetuned)
            raise UserError(f"finetuned of a variant must be {names}, got {variant.finetuned}")
        return found

    def _choose_seed(self, variant: Variant) -> int:
        return self.settings.seed + (variant.draw or 0)


class VariantLoader(PlainLoader):
    """Turns a live model into one variant after the other; docs/benchmarks.md has its time beside that of a copy.

    The matrices that take part are read once of each checkpoint (of the reference twice: once for the delta); all other
    tensors are read anew for each variant. The matrices, the directions and the update's coordinates in them are kept
    where there is room. The part of an update inside a subspace goes from a fraction to the next by the difference
    alone, so that variants are best loaded in the order of `sort_variants`; the weights are the same in any order, bit
    for bit.
    A method that looks at numbers (see `Needs`) is loaded the plain way.

    Args:
        inputs: The checkpoints.
        settings: As for `PlainLoader`.
        decompose: As for `PlainLoader`.
        largest_fraction: The largest fraction that will be asked for: fewer directions are drawn and kept.
        place: Where parts are kept: ``device``, ``host``, ``disk`` (scratch files), ``nowhere``, or ``auto`` for
            the first of the three with room.
        scratch: Folder of scratch files; None is the system's temporary folder.

    Raises:
        UserError: If the fraction is outside (0, 1] or the folder does not exist.
    """

    def __init__(
        self,
        inputs: SweepInputs,
        settings: SweepSettings,
        *,
        decompose: Decomposer | None = None,
        largest_fraction: float = 1.0,
        place: Place = "auto",
        scratch: Path | None = None,
    ) -> None:
        super().__init__(inputs, settings, decompose=decompose)
        check_fraction(largest_fraction)
        self.largest_fraction = largest_fraction
        self.place: Place = place
        self.scratch = scratch
        self._parts: _Parts | None = None

    def close(self) -> None:
        """Lets go of everything that is kept; the next variant begins anew."""
        if self._parts is not None:
            self._parts.shelf.close()
            self._parts = None

    def _set_matrices(
        self, live: Mapping[str, Tensor], variant: Variant, finetuned: Finetuned, dtypes: Mapping[str, torch.dtype]
    ) -> None:
        needs = variant.method.needs
        if needs.numbers:
            return super()._set_matrices(live, variant, finetuned, dtypes)
        if needs.fraction is not None and needs.fraction > self.largest_fraction:
            raise UserError(f"largest_fraction must be at least {needs.fraction} for {variant.name}, got "
                            f"{self.largest_fraction}")  # fmt: skip
        parts = self._find_parts(next(iter(live.values())).device)
        track = None
        if needs.source is not None:
            seed = 0 if needs.source == "top_k" else self._choose_seed(variant)
            track = Track(finetuned=finetuned.name, source=needs.source, seed=seed)
        parts.use(track, finetuned)
        for slot in self.inputs.slots:
            own = choose_dtype(self.settings.storage_dtype, dtypes[slot.tensor])
            weights = slot.view(live[slot.tensor])
            pair = parts.weights.find(slot, finetuned)
            if pair is None:
                self._set(weights, read_own(finetuned, slot), dtypes[slot.tensor])
            elif not pair.is_trained and not needs.untrained:
                weights.copy_(pair.reference.to(own))
            else:
                kept = variant.method.keep(parts.see(slot, track))
                inside = parts.find_inside(slot, track, kept, pair)
                set_combined(weights, kept, pair, inside, own)
        parts.weights.forget()
        return None

    def _find_parts(self, device: torch.device) -> _Parts:
        if self._parts is not None and self._parts.shelf.device != device:
            self.close()
        if self._parts is None:
            self._parts = _Parts(self, device, self._decompose)
        return self._parts


class _Parts:
    """What a loader keeps for models on one device."""

    def __init__(self, loader: VariantLoader, device: torch.device, decompose: Decomposer) -> None:
        self.shelf = Shelf(device, loader.place, scratch=loader.scratch)
        self.weights = KeptWeights(loader.inputs, self.shelf, skip_bad=loader.settings.skip_bad)
        self.directions = Directions(
            self.weights,
            self.shelf,
            side=loader.settings.side,
            largest_fraction=loader.largest_fraction,
            decompose=decompose,
        )
        self.inside = InsideParts(self.directions, self.shelf)

    def use(self, track: Track | None, finetuned: Finetuned) -> None:
        """Says what is needed now, which makes no room for the rest."""
        groups = [REFERENCE, name_finetuned(finetuned.name)]
        if track is not None:
            groups += [name_random(track.seed) if track.source == "random" else MODES, track.group, INSIDE]
        self.shelf.use(groups)

    def see(self, slot: MatrixSlot, track: Track | None) -> MatrixUpdate:
        """Returns an update as a method sees it that looks at no numbers."""
        source, seed = (None, 0) if track is None else (track.source, track.seed)
        delta = self.directions.describe(slot, source, seed)
        return MatrixUpdate(delta, delta.delta_MN, is_vector=slot.is_vector)

    def find_inside(self, slot: MatrixSlot, track: Track | None, kept: Kept, pair: WeightPair) -> Tensor | None:
        """Returns the part of an update in a method's subspace; None for a method without one.

        Raises:
            UserError: If the method keeps directions of another source than it said to need, or a part of its own,
                which is made of numbers that it said not to look at.
        """
        if kept.extra is not None:
            raise UserError("a method that needs no numbers must keep no part of its own (extra), it keeps one")
        if kept.inside == 0 or kept.rank == 0:
            return None
        if track is None or kept.source != track.source:
            wanted = "none" if track is None else track.source
            raise UserError(f"a method must keep directions of the source that it needs ({wanted}), got {kept.source}")
        return self.inside.find(slot, track, kept.rank, pair)


def sort_variants(variants: Sequence[Variant]) -> list[Variant]:
    """Returns variants in the order in which `VariantLoader` does the least work: by model, draw, rising fraction."""

    def rank(variant: Variant) -> tuple[str, str, int, float]:
        needs, draw = variant.method.needs, -1 if variant.draw is None else variant.draw
        return variant.finetuned, needs.source or "", draw, needs.fraction or 2.0

    return sorted(variants, key=rank)


def set_combined(live: Tensor, kept: Kept, pair: WeightPair, inside: Tensor | None, own: torch.dtype) -> None:
    """Sets live weights to reference + own · T + inside · U Uᵀ T, rounded to the dtype that they are stored in."""
    if live.dtype == own == torch.float32:
        combine(kept, pair, inside, live)
        return
    weights = torch.empty_like(live, dtype=torch.float32)
    combine(kept, pair, inside, weights)
    live.copy_(weights.to(own))


def combine(kept: Kept, pair: WeightPair, inside: Tensor | None, out: Tensor) -> None:
    """Writes weights in as few passes as there are: what the finetuned weights hold is not made of their update."""
    if inside is not None and kept.own in (0, 1):
        torch.add(pair.finetuned if kept.own == 1 else pair.reference, inside, alpha=kept.inside, out=out)
        return
    if kept.own in (0, 1):
        out.copy_(pair.finetuned if kept.own == 1 else pair.reference)
    else:
        torch.lerp(pair.reference.float(), pair.finetuned.float(), kept.own, out=out)
    if inside is not None:
        out.add_(inside, alpha=kept.inside)


def read_own(finetuned: Finetuned, slot: MatrixSlot) -> Tensor:
    """Reads the finetuned model's own weights of one matrix."""
    whole = finetuned.read(slot.tensor)
    return slot.view_part(whole if slot.index is None else whole[slot.index])
