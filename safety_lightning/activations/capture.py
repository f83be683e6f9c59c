"""Captures one vector per prompt and layer by hooks while a decoder runs; no other position is kept in memory.

Shapes in this file: B = batch, T = tokens, L = decoder layers, D = hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from safety_lightning.errors import UserError

TokenPosition = Literal["last_attended", "minus_one"]
Pool = Callable[[Tensor], Tensor]
"""Makes ``(B, D)`` in float32 of one layer's ``(B, T, D)``."""


class HiddenCapture:
    """Runs a decoder without its output layer and keeps pooled hidden states.

    The base model alone runs: no logits over the vocabulary are made. Layer 0 is what the first decoder layer is given
    (the embedding output), layers 1 to L are the decoder layers' outputs as the residual stream holds them; the final
    norm comes after them and is not part of any.

    Args:
        model: A causal language model of transformers, or its base model. It is not changed.

    Raises:
        UserError: If the list of decoder layers cannot be found.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config.get_text_config()
        self.decoder = model.base_model
        self.layers = find_decoder_layers(self.decoder, int(config.num_hidden_layers))
        self.num_layers = len(self.layers)
        self.hidden_size = int(config.hidden_size)
        self._accepts_positions = "position_ids" in inspect.signature(self.decoder.forward).parameters

    @torch.no_grad()
    def run(self, input_ids_BT: Tensor, attention_mask_BT: Tensor, pool: Pool) -> Tensor:
        """Runs one batch.

        Args:
            input_ids_BT: int64, shape ``(B, T)``, padded on either side.
            attention_mask_BT: 1 where a token is attended to, shape ``(B, T)``.
            pool: What to keep of a layer: `pool_position`, `pool_minus_one` or `pool_mean`.

        Returns:
            float32 on the CPU, shape ``(B, L + 1, D)``.

        Raises:
            UserError: If the decoder did not run each of its layers once.
        """
        # Made beforehand: small tensors that outlive each layer would scatter over the heap and keep it from shrinking
        shape = (len(input_ids_BT), self.num_layers + 1, self.hidden_size)
        kept_BLD = torch.empty(shape, dtype=torch.float32, device=input_ids_BT.device)
        seen: set[int] = set()

        def keep(layer: int, hidden_BTD: Tensor) -> None:
            if layer in seen:
                raise UserError(f"a decoder must run each layer once, it ran layer {layer} twice")
            seen.add(layer)
            kept_BLD[:, layer] = pool(hidden_BTD)

        with self._hook_layers(keep):
            self.decoder(
                input_ids=input_ids_BT,
                attention_mask=attention_mask_BT,
                use_cache=False,
                **self._make_positions(attention_mask_BT),
            )
        if len(seen) != self.num_layers + 1:
            raise UserError(f"a decoder must run each of its {self.num_layers} layers, it ran {len(seen) - 1}")
        return kept_BLD.cpu()

    @contextmanager
    def _hook_layers(self, keep: Callable[[int, Tensor], None]) -> Iterator[None]:
        def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keep(0, args[0] if args else kwargs["hidden_states"])

        def make_hook(layer: int) -> Callable[..., None]:
            return lambda module, args, output: keep(layer, output[0] if isinstance(output, tuple) else output)

        with ExitStack() as stack:
            stack.callback(self.layers[0].register_forward_pre_hook(keep_input, with_kwargs=True).remove)
            for number, module in enumerate(self.layers, start=1):
                stack.callback(module.register_forward_hook(make_hook(number)).remove)
            yield

    def _make_positions(self, attention_mask_BT: Tensor) -> dict[str, Tensor]:
        """Counts positions from the first attended token, where padding stands before it.

        Absolute positions (GPT-2) would otherwise begin at the padding. Right padding needs nothing: there the
        decoder numbers the padding too, which changes no vector of a token before it.
        """
        if not self._accepts_positions or bool(attention_mask_BT[:, 0].all()):
            return {}
        return {"position_ids": (attention_mask_BT.long().cumsum(dim=1) - 1).clamp_min(0)}


def find_decoder_layers(decoder: nn.Module, num_layers: int) -> nn.ModuleList:
    """Finds the list of decoder layers, whatever an architecture calls it.

    Args:
        decoder: The base model.
        num_layers: How many decoder layers its configuration names.

    Returns:
        The outermost module list of that length.

    Raises:
        UserError: If there is none.
    """
    for module in decoder.modules():  # parents come before their children
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise UserError(f"model must have a list of {num_layers} decoder layers, {type(decoder).__name__} has none")


def find_last_attended(attention_mask_BT: Tensor) -> Tensor:
    """Returns the position of the last attended token of each row, int64, shape ``(B,)``; padding on either side.

    Example:
        >>> find_last_attended(torch.tensor([[1, 1, 0], [0, 1, 1]]))
        tensor([1, 2])
    """
    num_tokens = attention_mask_BT.shape[1]
    return (attention_mask_BT.long() * torch.arange(1, num_tokens + 1, device=attention_mask_BT.device)).argmax(dim=1)


def pool_position(position_B: Tensor) -> Pool:
    """Keeps one position of each row.

    Args:
        position_B: int64, shape ``(B,)``.
    """
    row_B = torch.arange(len(position_B), device=position_B.device)
    return lambda hidden_BTD: hidden_BTD[row_B, position_B].float()


def pool_minus_one() -> Pool:
    """Keeps position -1 of each row, whether a token or padding.

    Paper: its release takes this position; under right padding it is off for all but the longest prompt of a batch.
    """
    return lambda hidden_BTD: hidden_BTD[:, -1].float().clone()  # a view would keep all positions alive


def pool_mean(member_BT: Tensor) -> Pool:
    """Averages the positions of each row that are marked, in float32.

    Args:
        member_BT: 1 at the positions to average, at least one per row, shape ``(B, T)``.
    """
    weight_B1T = (member_BT.float() / member_BT.float().sum(dim=1, keepdim=True)).unsqueeze(1)
    return lambda hidden_BTD: (weight_B1T @ hidden_BTD.float()).squeeze(1)
