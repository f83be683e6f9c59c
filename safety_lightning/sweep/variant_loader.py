"""Sets the weights of one variant after the other into a live model, in place, so that none needs to be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from safety_lightning.checkpoints import Finetuned, choose_dtype
from safety_lightning.errors import UserError
from safety_lightning.methods import Variant
from safety_lightning.methods.delta import BasisRecipe, Decomposer, span_bases
from safety_lightning.projection.projector import match_parameters
from safety_lightning.subspaces import decompose_delta
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings
from safety_lightning.sweep.loading import LoadedMatrix, MatrixLoader
from safety_lightning.sweep.sweep import make_recipe, see_update, turn
from safety_lightning.system.devices import in_full_precision


class VariantLoader:
    """Turns a live model into one variant after the other.

    The model's own weights are read from the checkpoints each time; bases come from a library of decompositions, or
    are made for every variant anew.

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
        """Sets one variant's weights into a model, in place, and returns its state by tensor name."""
        if variant.method.needs.num_worst is not None:
            raise UserError(f"{variant.name} needs the scores of all matrices: save its model by a sweep")
        finetuned = next(one for one in self.inputs.finetuned if one.name == variant.finetuned)
        dtypes = {name: info.dtype for name, info in finetuned.infos.items() if info.dtype is not None}
        live = match_parameters(model, dtypes)
        treated = {slot.tensor for slot in self.inputs.slots}
        for name in dtypes.keys() - treated:
            self._set(live[name].data, finetuned.read(name), dtypes[name])
        own_inputs = dataclasses.replace(self.inputs, finetuned=[finetuned])
        loader = MatrixLoader(own_inputs, next(model.parameters()).device, skip_bad=self.settings.skip_bad)
        recipe = make_recipe([variant], side=self.settings.side, seed=self.settings.seed)
        for loaded in loader.iterate(self.inputs.slots):
            weights = self._make_weights(loaded, variant, recipe, finetuned)
            self._set(loaded.slot.view(live[loaded.slot.tensor].data), weights, dtypes[loaded.slot.tensor])
        self.inputs.close()
        return {name: live[name].data for name in dtypes}

    def _make_weights(
        self, loaded: LoadedMatrix, variant: Variant, recipe: BasisRecipe, finetuned: Finetuned
    ) -> Tensor:
        slot = loaded.slot
        if loaded.problem is not None:
            whole = finetuned.read(slot.tensor)
            return slot.view_part(whole if slot.index is None else whole[slot.index])
        [update] = loaded.updates
        if update is None and not variant.method.needs.untrained:
            return loaded.reference
        delta = span_bases(slot, loaded.reference, loaded.delta, recipe, self._decompose)
        update = torch.zeros_like(loaded.delta) if update is None else update
        seen = see_update(delta, loaded, update, self.settings.side)
        return loaded.reference + turn(seen.expand(variant.method.keep(seen)), self.settings.side)

    def _set(self, live: Tensor, weights: Tensor, own: torch.dtype) -> None:
        live.copy_(weights.to(choose_dtype(self.settings.storage_dtype, own)))
