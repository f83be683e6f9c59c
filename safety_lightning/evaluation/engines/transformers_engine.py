"""The engine of transformers: greedy answers in left-padded batches that change nothing about them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from safety_lightning.data import pad_sequences
from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines.continuations import PackedRow, RowScores, score_rows
from safety_lightning.evaluation.engines.protocol import Answer, AnswerLimits, Watcher
from safety_lightning.evaluation.engines.stopping import EndTokens, cut_answer

_CHUNK_TOKENS = 16  # after as many tokens, finished answers leave the batch
_ROW_SHARE = 4  # continuations need logits of many positions: a quarter of the prompts at once
_logger = transformers_logging.get_logger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class TransformersEngine:
    """Answers with a causal language model in memory.

    Answers that are finished leave the batch every 16 tokens. When memory runs out, half as many prompts are answered
    at once from there on.

    Args:
        model: The model; its mode and its generation settings are as before after each call.
        tokenizer: The model's tokenizer.
        batch_size: Prompts answered at once, at least 1, to begin with.
        dtype: What is recorded as the dtype computed in; None is the dtype of the weights.

    Raises:
        UserError: If `batch_size` is below 1.
    """

    name = "transformers"
    gives_likelihoods = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 64,
        dtype: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.dtype = dtype or str(model.dtype).removeprefix("torch.")
        self.end_tokens = EndTokens(tokenizer, model.generation_config)

    def answer(
        self, prompts_ids: Sequence[Sequence[int]], limits: AnswerLimits, *, watcher: Watcher | None = None
    ) -> list[Answer]:
        """Answers prompts; see `Engine.answer`. Prompts of similar length should come together."""
        return [answer for _, answer in self._generate_all(prompts_ids, limits, watcher)]

    def generate(self, prompts_ids: Sequence[Sequence[int]], limits: AnswerLimits) -> list[list[int]]:
        """Returns the token ids of greedy answers up to their first end token, which is left out.

        An answer that is nothing but its end token is that token. Stop strings of the limits end an answer, and are
        part of it.
        """
        end_ids = self.end_tokens.find(limits)
        return [_cut_ids(ids, end_ids) for ids, _ in self._generate_all(prompts_ids, limits, None)]

    def _generate_all(
        self, prompts_ids: Sequence[Sequence[int]], limits: AnswerLimits, watcher: Watcher | None
    ) -> list[tuple[list[int], Answer]]:
        with _ready_to_answer(self.model), torch.no_grad():
            return self._run_in_parts(
                list(enumerate(prompts_ids)), lambda part: self._generate_batch(part, limits, watcher)
            )

    def score_rows(self, rows: Sequence[PackedRow], *, keeps_first: bool = False) -> list[RowScores]:
        """Returns the log-probabilities of what may stand behind prompts; see `Engine.score_rows`.

        Rows of similar length should come together.
        """
        with _ready_to_answer(self.model):
            return self._run_in_parts(
                rows,
                lambda part: score_rows(self.model, part, pad_token_id=self._pad_id, keeps_first=keeps_first),
                share=_ROW_SHARE,
            )

    def _run_in_parts(
        self, items: Sequence[_Item], call: Callable[[Sequence[_Item]], list[_Result]], *, share: int = 1
    ) -> list[_Result]:
        """Calls with as many items at once as memory allows, halving `batch_size` when it runs out."""
        results: list[_Result] = []
        while len(results) < len(items):
            part = items[len(results) : len(results) + max(1, self.batch_size // share)]
            try:
                results += call(part)
            except RuntimeError as error:
                if not _ran_out_of_memory(error) or len(part) == 1:
                    raise
                self.batch_size = max(1, len(part) * share // 2)
                _logger.warning(f"Memory ran out with {len(part)} prompts at once; continuing with {self.batch_size}.")
                garbage_collection_cuda()
        return results

    def _generate_batch(
        self, prompts: Sequence[tuple[int, Sequence[int]]], limits: AnswerLimits, watcher: Watcher | None
    ) -> list[tuple[list[int], Answer]]:
        """Returns the generated ids of each prompt, which may run on behind its end, and the answer in them."""
        input_ids, mask = pad_sequences([ids for _, ids in prompts], pad_token_id=self._pad_id, padding="left")
        ids, mask = input_ids.to(self.model.device), mask.to(self.model.device)
        rows = list(range(len(prompts)))  # whose answers are not finished
        found: dict[int, tuple[list[int], Answer]] = {}
        past, num_new = None, 0
        while rows:
            config = self._write_config(min(_CHUNK_TOKENS, limits.max_new_tokens - num_new), limits)
            output = self.model.generate(  # type: ignore[operator]  # a mixin that torch.nn.Module hides
                input_ids=ids, attention_mask=mask, past_key_values=past, generation_config=config
            )
            num_new += output.sequences.shape[1] - ids.shape[1]
            ids, past = output.sequences, output.past_key_values
            mask = torch.nn.functional.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1)
            for row, token_ids in zip(rows, ids[:, input_ids.shape[1] :].tolist(), strict=True):
                found[row] = token_ids, self._cut(token_ids, limits, len(prompts))
            is_live = [found[row][1].finish_reason == "length" and num_new < limits.max_new_tokens for row in rows]
            if watcher is not None:
                watcher.on_tokens(num_new)
                for row in [row for row, live in zip(rows, is_live, strict=True) if not live]:
                    watcher.on_answer(prompts[row][0], found[row][1])
            rows = [row for row, live in zip(rows, is_live, strict=True) if live]
            if rows and not all(is_live):
                kept = torch.tensor([place for place, live in enumerate(is_live) if live], device=ids.device)
                ids, mask = ids[kept], mask[kept]
                past.batch_select_indices(kept)
        return [found[row] for row in range(len(prompts))]

    def _cut(self, token_ids: Sequence[int], limits: AnswerLimits, batch_size: int) -> Answer:
        return cut_answer(
            self.tokenizer,
            token_ids,
            end_ids=self.end_tokens.find(limits),
            stop_strings=limits.stop_strings,
            batch_size=batch_size,
        )

    def _write_config(self, max_new_tokens: int, limits: AnswerLimits) -> GenerationConfig:
        """Takes the model's own end tokens and none of its sampling settings."""
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(self.end_tokens.find(limits)) or None,
            pad_token_id=self._pad_id,
            return_dict_in_generate=True,
        )

    @property
    def _pad_id(self) -> int:
        """The padding token, else any other: it is masked."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else min(self.end_tokens.named, default=0)


def _cut_ids(token_ids: list[int], end_ids: Collection[int]) -> list[int]:
    length = next((place for place, token in enumerate(token_ids) if token in end_ids), len(token_ids))
    return token_ids[: max(length, 1)]


def _ran_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or is_oom_error(error)


@contextmanager
def _ready_to_answer(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model in eval mode, and sets an empty generation config.

    ``generate`` takes every setting that we omit from the model's own. Everything is put back afterwards.
    """
    was_training, own = model.training, model.generation_config
    use_cache = model.config.use_cache
    model.eval()
    model.generation_config = GenerationConfig()
    model.config.use_cache = True  # a model that is trained without a cache answers with one
    try:
        yield
    finally:
        model.generation_config = own
        model.config.use_cache = use_cache
        model.train(was_training)
