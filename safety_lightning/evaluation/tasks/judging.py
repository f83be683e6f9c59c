"""Has the answers of a task judged, as outcomes."""

from __future__ import annotations

from collections.abc import Sequence

from safety_lightning.evaluation.judges import Judge, JudgementCache, JudgeRequest, judge_answers
from safety_lightning.evaluation.outcomes import MetricSpec, Outcome
from safety_lightning.evaluation.records.generations import Generation


def describe_judge(judge: Judge) -> str:
    """Returns a judge's name and model, as results give them."""
    return f"{judge.name} {judge.model}"


def make_judged_spec(name: str, judge: Judge) -> MetricSpec:
    """Makes the spec of a judge's mean score."""
    return MetricSpec(name=name, kind="judged", judge=describe_judge(judge), rubric_hash=judge.rubric_hash)


def judge_generations(
    judge: Judge, generations: Sequence[Generation], *, cache: JudgementCache | None, progress: bool
) -> list[Outcome]:
    """Judges answers; what gets no score keeps its reason."""
    requests = [JudgeRequest(prompt=one.prompt, answer=one.answer) for one in generations]
    judgements = judge_answers(judge, requests, cache=cache, progress=progress)
    return [Outcome(value=one.score, unjudged=one.unjudged, reason=one.reason) for one in judgements]
