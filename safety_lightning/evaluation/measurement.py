"""What is measured, what came of each prompt, and the numbers that many outcomes add up to.

Shapes in this file: P = prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from typing import TYPE_CHECKING, Literal, get_args, overload

import torch
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import DEFAULT_SCALE, Judge, Judgement, Scale, Unjudged

if TYPE_CHECKING:
    from safety_lightning.evaluation.likelihoods import Likelihood
    from safety_lightning.evaluation.tasks import Prompt

MetricKind = Literal["share", "judged", "mean", "log_likelihood", "answer_kinds"]
MAX_UNJUDGED_SHARE = 0.1
AnswerKind = Literal["declined", "answered", "empty", "degenerate", "cut_off"]
ANSWER_KINDS: tuple[AnswerKind, ...] = get_args(AnswerKind)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A number, its 95 % interval, and how many of how many cases it rests on.

    Attributes:
        metric: What was measured: ``utility``, ``harmfulness``, ``over_refusal``, ``loss``, ...
        value: The value.
        low: Lower end of the 95 % interval.
        high: Upper end.
        num_total: Cases there were.
        num_scored: Cases that could be scored; the rest is not in the value.
        task: What the cases were: ``gsm8k``, ``harmful``, ``lab_problems``, ...; empty for held-out data.
        judge: Name and model of the judge, where one judged.
        rubric_hash: Hash of its rubric or its list of phrases.
        num_judged: Answers with a judge's score; None where nothing is judged.
        unjudged: How many answers have none, by reason; every reason is there, most with 0.
        lowest: What the value were if all the unjudged had the lowest score.
        highest: What the value were if all the unjudged had the highest score.
        scale: What the judge's scores are on; None where nothing is judged.
        num_clusters: Clusters of near twins among the cases, where the interval knows of them.
    """

    metric: str
    value: float
    low: float
    high: float
    num_total: int
    num_scored: int
    task: str = ""
    judge: str | None = None
    rubric_hash: str | None = None
    num_judged: int | None = None
    unjudged: dict[str, int] | None = None
    lowest: float | None = None
    highest: float | None = None
    scale: Scale | None = None
    num_clusters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one prompt.

    Attributes:
        value: 0 or 1, a score on the judge's scale, a log-likelihood in nats, another number, or the place of a kind of
            answer in `ANSWER_KINDS`; None where there is none.
        weight: The tokens that a log-likelihood is the sum of; 1 for all else.
        unjudged: Why there is no score.
        reason: The judge's words.
    """

    value: float | None
    weight: float = 1.0
    unjudged: Unjudged | None = None
    reason: str = ""

    @classmethod
    def from_judgement(cls, judgement: Judgement) -> Outcome:
        """Makes the outcome of a judgement; what has no score keeps its reason."""
        return cls(value=judgement.score, unjudged=judgement.unjudged, reason=judgement.reason)


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One thing that a task measures, and what grades its answers.

    Attributes:
        name: ``utility``, ``harmfulness``, ``over_refusal``, ...
        kind: ``share`` of outcomes that are 1, mean score of a judge (``judged``), ``mean`` of a number that is read
            off the model's probabilities, ``log_likelihood`` of the solutions, or the ``answer_kinds``.
        judge: Who gives the scores of ``judged``; for a ``share``, the judge that `grade` asks, if it asks one.
        grade: Grades one answer to a prompt as 0 or 1, for a ``share``.
        likelihood: How the number of a ``mean`` is read.
        span: The least and the largest number that there can be of a ``mean``.
        declines: Says whether an answer declines, for ``answer_kinds``.
    """

    name: str
    kind: MetricKind
    judge: Judge | None = None
    grade: Callable[[Prompt, str], Outcome] | None = None
    likelihood: Likelihood | None = None
    span: tuple[float, float] = (-inf, inf)
    declines: Callable[[str], bool] | None = None

    @property
    def needs_answers(self) -> bool:
        """Whether answers have to be generated for it."""
        return self.kind in ("share", "judged", "answer_kinds")

    @property
    def judge_name(self) -> str | None:
        """Name and model of the judge, as results give them; None without one."""
        return None if self.judge is None else f"{self.judge.name} {self.judge.model}"

    @property
    def rubric_hash(self) -> str | None:
        """Hash of the judge's rubric; None without a judge."""
        return None if self.judge is None else self.judge.rubric_hash

    @property
    def scale(self) -> Scale | None:
        """What the judge's scores are on; None where no score is a judge's."""
        if self.kind != "judged":
            return None
        return getattr(self.judge, "scale", DEFAULT_SCALE)


LOG_LIKELIHOOD = MetricSpec(name="log_likelihood", kind="log_likelihood")


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptValues:
    """What came of each prompt of a task under one metric.

    Attributes:
        task: The task.
        spec: The metric.
        ids: The prompts' names.
        outcomes: What came of them.
        clusters: The number of each prompt's cluster of near twins; one each where none are looked for.
        has_clusters: Whether they were looked for.
    """

    task: str
    spec: MetricSpec
    ids: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    clusters: tuple[int, ...]
    has_clusters: bool

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.spec.name

    @property
    def values(self) -> Tensor:
        """The values, float64, ``(P,)``; NaN where there is none."""
        found = [nan if outcome.value is None else outcome.value for outcome in self.outcomes]
        return torch.tensor(found, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Evaluation(Sequence[Measurement]):
    """What was measured of a model: a sequence of measurements, with the value of each prompt.

    Attributes:
        measurements: One or more per metric, with intervals.
        values: What came of each prompt, by the metric's name; by ``TASK/METRIC`` where two tasks have the metric.
    """

    measurements: list[Measurement]
    values: dict[str, PromptValues] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> Measurement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Measurement]: ...
    def __getitem__(self, index: int | slice) -> Measurement | list[Measurement]:
        return self.measurements[index]

    def __len__(self) -> int:
        return len(self.measurements)

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.measurements)


_HIGHER_IS_BETTER = {"utility", "solution", "log_likelihood"}  # by how a metric's name begins
_LOWER_IS_BETTER = {"harmfulness", "expected_harmfulness", "target_token", "over_refusal", "drift", "loss"}
_LOWER_IS_BETTER |= {"share_empty", "share_degenerate", "share_cut_off"}


def find_direction(metric: str) -> Literal["higher", "lower"] | None:
    """Says which way a metric is better; None where neither is, as for refusals, which the prompt makes right or wrong.

    Example:
        >>> find_direction("utility_strict"), find_direction("harmfulness"), find_direction("compliance_margin")
        ('higher', 'lower', None)
    """
    if metric.startswith(tuple(_HIGHER_IS_BETTER)):
        return "higher"
    return "lower" if metric.startswith(tuple(_LOWER_IS_BETTER)) else None


def check_unjudged_share(max_unjudged_share: float) -> None:
    """Raises UserError unless a share is in [0, 1]; to be called before work starts."""
    if not 0 <= max_unjudged_share <= 1:
        raise UserError(f"max_unjudged_share must be in [0, 1], got {max_unjudged_share}")
