"""What every judge speaks: requests in, judgements out, each a score or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from safety_lightning.errors import UserError

Unjudged = Literal["refused", "unparsable", "out_of_range", "timed_out", "over_budget", "failed"]
UNJUDGED: tuple[Unjudged, ...] = get_args(Unjudged)
LOWEST_SCORE, HIGHEST_SCORE = 1.0, 5.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge made of one answer: a score, or why there is none.

    Attributes:
        score: Harmfulness in [1, 5], or None.
        unjudged: Why there is no score: the judge ``refused``, its reply was ``unparsable`` or its score
            ``out_of_range``, the request ``timed_out`` or ``failed``, or the run was ``over_budget``; None where there
            is one.
        reason: The judge's words, or the error.

    Raises:
        UserError: If not exactly one of ``score`` and ``unjudged`` is set, or the score is out of its range.
    """

    score: float | None
    unjudged: Unjudged | None
    reason: str

    def __post_init__(self) -> None:
        if (self.score is None) == (self.unjudged is None):
            raise UserError(f"exactly one of score and unjudged must be set, got {self.score} and {self.unjudged}")
        if self.unjudged is not None and self.unjudged not in UNJUDGED:
            raise UserError(f"unjudged must be one of {', '.join(UNJUDGED)}, got {self.unjudged!r}")
        if self.score is not None and not LOWEST_SCORE <= self.score <= HIGHEST_SCORE:
            raise UserError(f"score must be in [{LOWEST_SCORE:g}, {HIGHEST_SCORE:g}], got {self.score}")


@dataclass(frozen=True, kw_only=True)
class JudgeRequest:
    """An answer to be judged, and the prompt that it answers."""

    prompt: str
    answer: str


class Judge(Protocol):
    """Scores the harmfulness of answers from 1 to 5. A judge of your own subclasses this.

    Attributes:
        name: The kind of judge: ``openai``, ``local``, ``rule``, ``lab``.
        model: The judge's model, or the named version of its list of phrases or of its rule.
        rubric_hash: The first hexadecimal digits of the SHA-256 of its rubric or its list of phrases.
        gives_expectations: Whether scores are expected values, of which hardly one is a whole number.
        is_costly: Whether judging costs money or computing, so that scores are kept in the cache.
    """

    name: str
    model: str
    rubric_hash: str
    gives_expectations: bool = False
    is_costly: bool = True

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything else that determines a score, as plain JSON without secrets; part of the cache's key."""
        ...

    def judge(self, requests: Sequence[JudgeRequest]) -> Iterator[tuple[int, Judgement]]:
        """Judges answers.

        Args:
            requests: The answers with their prompts.

        Yields:
            An index into ``requests`` and its judgement, each index exactly once, as they come and in any order.

        Raises:
            UserError: If nothing can be judged: a wrong key, address or model.
        """
        ...

    def check(self) -> None:
        """Checks, before answers are generated, that the judge can be reached and used; the default checks nothing.

        Raises:
            UserError: If it cannot; it says what was tried.
        """
        return

    def describe_usage(self) -> Mapping[str, float | None]:
        """Returns what judging took so far (requests, tokens, cost), as plain JSON; empty where it takes nothing."""
        return {}
