"""What every engine speaks: token ids in, greedy answers out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from safety_lightning.errors import UserError
from safety_lightning.evaluation.engines.continuations import PackedRow, RowScores

Finish = Literal["end_token", "stop_string", "length"]


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """Where answers end besides the model's own end tokens.

    Attributes:
        max_new_tokens: Longest answer, in tokens, at least 1.
        stop_strings: Texts that end an answer; they and what follows are no part of it.
        special_tokens_end: Whether any special token without another role ends an answer, as a turn of a chat ends;
            if not, only the end tokens that model and tokenizer name do.

    Raises:
        UserError: If `max_new_tokens` is below 1 or a stop string is empty.
    """

    max_new_tokens: int
    stop_strings: tuple[str, ...] = ()
    special_tokens_end: bool = True

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if "" in self.stop_strings:
            raise UserError(f"stop strings must hold text, got {list(self.stop_strings)}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said.

    Attributes:
        text: The answer, without special tokens and without white space around it.
        num_tokens: Its tokens with the end token, or with the one that completed a stop string.
        finish_reason: The model's ``end_token``, a ``stop_string``, or the ``length`` that was allowed.
        batch_size: Prompts that were answered at once.
    """

    text: str
    num_tokens: int
    finish_reason: Finish
    batch_size: int


class Watcher(Protocol):
    """Is told what an engine has done so far."""

    def on_tokens(self, num_tokens: int) -> None:
        """Takes how many tokens the longest answers of the batch have so far."""
        ...

    def on_answer(self, index: int, answer: Answer) -> None:
        """Takes an answer as soon as it is finished, with the place of its prompt."""
        ...


class Engine(Protocol):
    """Answers prompts greedily. An answer must be the one that the model gives to its prompt alone.

    Attributes:
        name: ``transformers``, ``continuous`` or ``vllm``.
        dtype: The dtype that is computed in.
        gives_likelihoods: Whether `score_rows` can be asked for.
    """

    name: str
    dtype: str
    gives_likelihoods: bool

    def answer(
        self, prompts_ids: Sequence[Sequence[int]], limits: AnswerLimits, *, watcher: Watcher | None = None
    ) -> list[Answer]:
        """Answers prompts.

        Args:
            prompts_ids: The token ids of each prompt, as the model reads them.
            limits: Where answers end.
            watcher: Who is told of tokens and answers as they come; an engine that cannot tell gives them at the end.

        Returns:
            One answer a prompt, in their order.
        """
        ...

    def score_rows(self, rows: Sequence[PackedRow], *, keeps_first: bool = False) -> list[RowScores]:
        """Returns the log-probabilities of what may stand behind prompts, one result a row.

        Args:
            rows: Prompts with their continuations.
            keeps_first: Whether the logits of the first token behind each prompt are returned.
        """
        ...
