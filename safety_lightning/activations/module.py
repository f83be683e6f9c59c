"""The LightningModule of `predict`: one vector per layer and prompt of a batch.

Shapes in this file: B = batch, T = tokens, L = decoder layers, D = hidden size.
"""

from __future__ import annotations

import sys
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedModel

from safety_lightning.activations.capture import (
    HiddenCapture,
    Pool,
    TokenPosition,
    find_last_attended,
    pool_mean,
    pool_minus_one,
    pool_position,
)
from safety_lightning.activations.datamodule import PromptBatch
from safety_lightning.activations.storage import Token
from safety_lightning.checkpoints import CheckpointReader, load_model, load_tokenizer
from safety_lightning.data import pad_rows, pad_sequences
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines import AnswerLimits, TransformersEngine
from safety_lightning.system.devices import keep_freed_memory, release_freed_memory

ResponseSource = Literal["generated", "given"]


class ActivationModule(L.LightningModule):
    """Captures hidden states of a causal language model.

    Args:
        model: The checkpoint: a folder, a hub name (``org/name@rev``) or ``lab:NAME``.
        token: Whose vector is kept: the last token of the ``prompt`` (its template included), the last ``generated``
            token, or the ``mean`` over the response. Responses are greedy and end as answers of `test` end; the end
            token is no part of a response, unless the response is nothing else.
        token_position: ``last_attended``, or ``minus_one``: position -1 whatever the padding (the paper). It does not
            concern the mean.
        response: Where the response to average comes from: ``generated`` greedily by the model, or ``given`` by the
            set (which reads its column of responses).
        max_new_tokens: Longest generated response, at least 1.
        dtype: What the model's weights are loaded in. Vectors are stored in float32 in any case.
        attention: Attention implementation of transformers.

    Raises:
        UserError: If a setting is out of its range, or two of them exclude each other.
    """

    model: PreTrainedModel

    def __init__(
        self,
        model: str,
        token: Token = "prompt",
        token_position: TokenPosition = "last_attended",
        response: ResponseSource = "generated",
        max_new_tokens: int = 32,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
    ) -> None:
        super().__init__()
        if token not in ("prompt", "generated", "mean"):
            raise UserError(f"token must be prompt, generated or mean, got {token!r}")
        if token_position not in ("last_attended", "minus_one"):
            raise UserError(f"token_position must be last_attended or minus_one, got {token_position!r}")
        if response not in ("generated", "given"):
            raise UserError(f"response must be generated or given, got {response!r}")
        if response == "given" and token != "mean":
            raise UserError(f"response must be generated where token is {token}, got given (it is for token: mean)")
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        self.reference = model
        self.checkpoint: CheckpointReader | None = None  # what is loaded, where a command has hashed it
        self.token: Token = token
        self.token_position: TokenPosition = token_position
        self.response: ResponseSource = response
        self.max_new_tokens = max_new_tokens
        self.weights_dtype = dtype
        self.attention = attention
        self._engine: TransformersEngine | None = None

    @property
    def generates(self) -> bool:
        """Whether the model writes responses."""
        return self.token != "prompt" and self.response == "generated"

    def configure_model(self) -> None:
        """Loads the model, once."""
        if "model" in self._modules:
            return
        dtype: torch.dtype = getattr(torch, self.weights_dtype)
        self.model = load_model(self.checkpoint or self.reference, dtype=dtype, attention=self.attention).eval()
        self.capture = HiddenCapture(self.model)
        if self.generates:
            self._engine = TransformersEngine(self.model, load_tokenizer(self.reference), batch_size=sys.maxsize)

    def on_predict_start(self) -> None:
        """Readies the CPU's memory for large tensors that come and go in every layer."""
        if self.device.type == "cpu":
            keep_freed_memory()

    def on_predict_end(self) -> None:
        """Hands the memory back."""
        if self.device.type == "cpu":
            release_freed_memory()

    def predict_step(self, batch: PromptBatch, batch_idx: int = 0) -> Tensor:
        """Returns the vectors of a batch, float32 on the CPU, shape ``(B, L + 1, D)``."""
        if self.generates:
            batch = self._add_responses(batch)
        return self.capture.run(batch.input_ids, batch.attention_mask, self._make_pool(batch))

    def describe(self) -> dict[str, Any]:
        """Returns the settings that the activations depend on, as JSON values."""
        return {
            "token_position": self.token_position if self.token != "mean" else None,
            "response": self.response if self.token != "prompt" else None,
            "max_new_tokens": self.max_new_tokens if self.generates else None,
            "dtype": self.weights_dtype,
            "attention": self.attention,
        }

    def _make_pool(self, batch: PromptBatch) -> Pool:
        if self.token == "mean":
            assert batch.response_mask is not None
            return pool_mean(batch.response_mask)
        if self.token_position == "minus_one":
            return pool_minus_one()
        return pool_position(find_last_attended(batch.attention_mask))

    def _add_responses(self, batch: PromptBatch) -> PromptBatch:
        """Returns the batch with the model's responses behind the prompts, padded on the same side."""
        attended = batch.attention_mask.bool()
        prompts = [ids[mask].tolist() for ids, mask in zip(batch.input_ids, attended, strict=True)]
        assert self._engine is not None
        limits = AnswerLimits(max_new_tokens=self.max_new_tokens, special_tokens_end=batch.special_tokens_end)
        responses = self._engine.generate(prompts, limits)
        pairs = list(zip(prompts, responses, strict=True))
        input_ids, attention_mask = pad_sequences(
            [prompt + response for prompt, response in pairs],
            pad_token_id=batch.pad_token_id,
            padding=batch.padding,
        )
        marks = [[0] * len(prompt) + [1] * len(response) for prompt, response in pairs]
        return PromptBatch(
            indices=batch.indices,
            input_ids=input_ids.to(self.device),
            attention_mask=attention_mask.to(self.device),
            response_mask=pad_rows(marks, fill=0, padding=batch.padding).to(self.device),
            pad_token_id=batch.pad_token_id,
            padding=batch.padding,
            special_tokens_end=batch.special_tokens_end,
        )
