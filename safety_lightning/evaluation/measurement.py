"""What is measured, what came of each prompt, and the numbers that many outcomes add up to.

Shapes in this file: P = prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Literal, get_args, overload

from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge, Judgement, Unjudged

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
    num_clusters: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one prompt.

    Attributes:
        value: 0 or 1, a score in [1, 5], a log-likelihood in nats, another number, or the place of a kind of answer in
            `ANSWER_KINDS`; None where there is none.
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


LOG_LIKELIHOOD = MetricSpec(name="log_likelihood", kind="log_likelihood")


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptValues:
    """What came of each prompt of a task under one metric.

    Attributes:
        task: The task.
        metric: The metric.
        ids: The prompts' names.
        values: Their values, float64, ``(P,)``; NaN where there is none.
        clusters: The number of each prompt's cluster of near twins, int64, ``(P,)``; one each where none are known.
    """

    task: str
    metric: str
    ids: tuple[str, ...]
    values: Tensor
    clusters: Tensor


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


def check_unjudged_share(max_unjudged_share: float) -> None:
    """Raises UserError unless a share is in [0, 1]; to be called before work starts."""
    if not 0 <= max_unjudged_share <= 1:
        raise UserError(f"max_unjudged_share must be in [0, 1], got {max_unjudged_share}")
