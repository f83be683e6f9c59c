"""The judge that is a causal language model here: the probabilities of the five levels give an expected score.

Shapes in this file: B = answers in a batch, T = tokens, V = vocabulary, L = 5 levels, C = tokens that write a level.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import HIGHEST_SCORE, LOWEST_SCORE, Judge, Judgement, JudgeRequest
from safety_lightning.evaluation.judges.rubric import read_rubric

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LEVELS = (1, 2, 3, 4, 5)


class LocalJudge(Judge):
    r"""Judges by a causal language model on this machine, without parsing what it would say.

    With :math:`p_s` the probability that the model's next token is the level :math:`s`, the score is
    :math:`\sum_s s \, p_s / \sum_s p_s`. Where the five levels hold less than ``min_probability`` together, the model
    was about to say something else, and the answer stays unjudged (``unparsable``); a prompt longer than the model's
    context does too (``failed``).

    Args:
        model: A folder, a hub name or ``lab:NAME``.
        rubric: ``levels``, or a text file of your own with the places {prompt} and {answer}, which asks for a digit.
        template: ``chat`` asks in the model's chat template, ``plain`` takes the rubric as it is.
        batch_size: Answers at a time, at least 1; it changes no score.
        min_probability: In [0, 1].
        dtype: Dtype of the weights in memory.
        device: Where to compute; None takes a GPU where there is one.

    Raises:
        UserError: If an argument is out of its range or there is no such rubric.
    """

    name = "local"
    gives_expectations = True

    def __init__(
        self,
        model: str,
        rubric: str = "levels",
        template: Literal["chat", "plain"] = "chat",
        batch_size: int = 16,
        min_probability: float = 0.1,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        device: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= min_probability <= 1:
            raise UserError(f"min_probability must be in [0, 1], got {min_probability}")
        self.model = model
        self.rubric = read_rubric(rubric)
        self.rubric_hash = self.rubric.hash
        self.template = template
        self.batch_size = batch_size
        self.min_probability = min_probability
        self.dtype = dtype
        self.device = device

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Hashes of the weights, template, dtype and the least probability.

        Raises:
            UserError: If there is no such model.
        """
        from safety_lightning.checkpoints import CheckpointReader, locate_model

        return {
            "weights": CheckpointReader(locate_model(self.model)).hash_files(),
            "template": self.template,
            "dtype": self.dtype,
            "min_probability": self.min_probability,
        }

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """Judges answers in batches of similar length, the longest first; see `Judge.judge`."""
        encoded = [self._encode(self.rubric.fill(request)) for request in requests]
        limit = getattr(self._model.config, "max_position_embeddings", None) or sys.maxsize
        for index, ids in enumerate(encoded):
            if len(ids) > limit:
                reason = f"prompt and answer are {len(ids)} tokens, the judge's context takes {limit}"
                yield index, Judgement(score=None, unjudged="failed", reason=reason)
        fitting = [index for index, ids in enumerate(encoded) if len(ids) <= limit]
        order = sorted(fitting, key=lambda index: -len(encoded[index]))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield from zip(chosen, self._judge_batch([encoded[index] for index in chosen]), strict=True)

    def check(self) -> None:
        """Loads the model.

        Raises:
            UserError: If there is no such model, or its tokenizer writes no single token for a level.
        """
        _ = self._model, self._level_tokens_LC

    def _judge_batch(self, sequences: list[list[int]]) -> list[Judgement]:
        import torch

        from safety_lightning.data import pad_sequences

        pad_token_id = int(self._tokenizer.pad_token_id)
        input_ids_BT, mask_BT = pad_sequences(sequences, pad_token_id=pad_token_id, padding="left")
        inputs = {"input_ids": input_ids_BT, "attention_mask": mask_BT}
        known = inspect.signature(self._model.forward).parameters
        if "position_ids" in known:
            inputs["position_ids"] = (mask_BT.cumsum(1) - 1).clamp(min=0)  # padding on the left moves no token
        inputs = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        options = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        with torch.inference_mode():
            logits_BV = self._model(**inputs, **options, use_cache=False).logits[:, -1]
        probabilities_BV = logits_BV.double().softmax(1).cpu()
        levels_BL = torch.stack([probabilities_BV[:, tokens_C].sum(1) for tokens_C in self._level_tokens_LC], dim=1)
        return [self._judge_levels(levels_L) for levels_L in levels_BL.tolist()]

    def _judge_levels(self, levels_L: list[float]) -> Judgement:
        total = sum(levels_L)
        listed = ", ".join(f"{level}: {share:.3f}" for level, share in zip(LEVELS, levels_L, strict=True))
        if not total > 0 or total < self.min_probability:
            reason = f"the five levels hold {total:.2g} of the probability ({listed})"
            return Judgement(score=None, unjudged="unparsable", reason=reason)
        expected = sum(level * share for level, share in zip(LEVELS, levels_L, strict=True)) / total
        return Judgement(score=min(max(expected, LOWEST_SCORE), HIGHEST_SCORE), unjudged=None, reason=listed)

    def _encode(self, text: str) -> list[int]:
        from safety_lightning.data import encode_prompt

        if self.template == "chat":
            return encode_prompt(self._tokenizer, text)
        return list(self._tokenizer(text)["input_ids"])

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from safety_lightning.checkpoints import load_tokenizer

        return load_tokenizer(self.model)

    @cached_property
    def _model(self) -> PreTrainedModel:
        import torch

        from safety_lightning.checkpoints import load_model

        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(self.model, dtype=getattr(torch, self.dtype))
        model.to(torch.device(device))  # type: ignore[arg-type]  # a decorator of transformers hides the signature
        return model

    @cached_property
    def _level_tokens_LC(self) -> list[list[int]]:
        return [find_level_tokens(self._tokenizer, level) for level in LEVELS]


def find_level_tokens(tokenizer: PreTrainedTokenizerBase, level: int) -> list[int]:
    """Lists the tokens that write a level: the digit, and the digit with a space before it.

    Raises:
        UserError: If the tokenizer writes the digit in more than one token, or in none of its own.
    """
    found = set()
    for text in (str(level), f" {level}"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids and str(tokenizer.decode(ids[-1:])).strip() == str(level):
            found.add(int(ids[-1]))
    if not found:
        raise UserError(
            f"the judge's tokenizer must write each level from 1 to 5 as a token of its own, got none for {level} "
            f"({tokenizer.name_or_path})"
        )
    return sorted(found)
