"""The judge that is any causal language model: the probabilities of the five levels give an expected score.

Shapes in this file: V = vocabulary, L = 5 levels, C = tokens that write a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.local.model_judge import DType, NextTokenJudge
from safety_lightning.evaluation.judges.protocol import HIGHEST_SCORE, LOWEST_SCORE, Judgement, JudgeRequest
from safety_lightning.evaluation.judges.rubric import read_rubric

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

LEVELS = (1, 2, 3, 4, 5)


class LocalJudge(NextTokenJudge):
    r"""Judges by a causal language model on this machine, without parsing what it would say.

    With :math:`p_s` the probability that the model's next token is the level :math:`s`, the score is
    :math:`\sum_s s \, p_s / \sum_s p_s`. Where the five levels hold less than ``min_probability`` together, the model
    was about to say something else, and the answer stays unjudged (``unparsable``).

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
        dtype: DType = "float32",
        device: str | None = None,
    ) -> None:
        super().__init__(model, batch_size=batch_size, dtype=dtype, device=device)
        if not 0 <= min_probability <= 1:
            raise UserError(f"min_probability must be in [0, 1], got {min_probability}")
        self.rubric = read_rubric(rubric)
        self.rubric_hash = self.rubric.hash
        self.template = template
        self.min_probability = min_probability

    @property
    def settings(self) -> Mapping[str, Any]:
        """Hashes of the weights, dtype, template and the least probability.

        Raises:
            UserError: If there is no such model.
        """
        return {**super().settings, "template": self.template, "min_probability": self.min_probability}

    def check(self) -> None:
        """Checks the model as every local judge's, and that its tokenizer writes each level as a token."""
        super().check()
        _ = self._level_tokens_LC

    def encode(self, request: JudgeRequest) -> list[int]:
        """Writes the rubric, in the model's chat template or as it is."""
        from safety_lightning.data import encode_prompt

        text = self.rubric.fill(request)
        if self.template == "chat":
            return encode_prompt(self.tokenizer, text)
        return list(self.tokenizer(text)["input_ids"])

    def read_probabilities(self, probabilities_V: torch.Tensor) -> Judgement:
        """Takes the expected level of those that hold enough of the probability."""
        return self._judge_levels([float(probabilities_V[tokens_C].sum()) for tokens_C in self._level_tokens_LC])

    def _judge_levels(self, levels_L: list[float]) -> Judgement:
        total = sum(levels_L)
        listed = ", ".join(f"{level}: {share:.3f}" for level, share in zip(LEVELS, levels_L, strict=True))
        if not total > 0 or total < self.min_probability:
            return self.leave_unjudged("unparsable", f"the five levels hold {total:.2g} of the probability ({listed})")
        expected = sum(level * share for level, share in zip(LEVELS, levels_L, strict=True)) / total
        return self.give(min(max(expected, LOWEST_SCORE), HIGHEST_SCORE), listed)

    @cached_property
    def _level_tokens_LC(self) -> list[list[int]]:
        return [find_level_tokens(self.tokenizer, level) for level in LEVELS]


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
