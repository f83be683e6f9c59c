"""Lets an engine answer the cases of a plan, and grades the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from safety_lightning.evaluation.cases import Case, CasePlan
from safety_lightning.evaluation.engines import Answer, Engine
from safety_lightning.evaluation.judges import JudgementCache, JudgeRequest, LabJudge, judge_answers
from safety_lightning.evaluation.measurement import (
    MAX_UNJUDGED_SHARE,
    Measurement,
    MetricSpec,
    Outcome,
    summarise_outcomes,
)
from safety_lightning.evaluation.records import Generation
from safety_lightning.evaluation.tasks import Task


def measure_plan(
    engine: Engine,
    plan: CasePlan,
    *,
    seed: int = 0,
    max_unjudged_share: float = MAX_UNJUDGED_SHARE,
    cache: JudgementCache | None = None,
) -> list[Measurement]:
    """Answers all cases of a plan in this process, and measures each metric of each task.

    Args:
        engine: What answers.
        plan: The tasks and their cases.
        seed: Seed of the bootstrap.
        max_unjudged_share: Largest share of answers that may be unjudged, in [0, 1].
        cache: Where judgements are kept.

    Raises:
        UserError: If more are unjudged.
    """
    generations: dict[int, Generation] = {}
    for batch in plan.batches:
        found = answer_cases(engine, [plan.cases[index] for index in batch])
        generations |= dict(zip(batch, found, strict=True))
    measurements = []
    for task, spec in list_metrics(plan.tasks, engine):
        graded = grade_cases(plan, spec, generations, plan.list_indices(task), cache=cache, progress=False)
        measurements += summarise_outcomes(
            spec, graded, task=task.name, seed=seed, max_unjudged_share=max_unjudged_share
        )
    return measurements


def answer_cases(
    engine: Engine,
    cases: Sequence[Case],
    *,
    known: Mapping[int, Generation] | None = None,
    progress: Progress | None = None,
) -> list[Generation]:
    """Lets an engine answer cases of one task, and measures their solutions where there are any.

    Args:
        engine: The engine.
        cases: The cases.
        known: Answers that an earlier run has left, by the place of their case.
        progress: Who is told of tokens, and of answers without their log-likelihoods, as they come.
    """
    known = known or {}
    waiting = [place for place in range(len(cases)) if place not in known]
    answers = {
        place: Answer(
            text=one.answer, num_tokens=one.num_tokens, finish_reason=one.finish_reason, batch_size=one.batch_size
        )
        for place, one in known.items()
    }
    if waiting:
        watched = {} if progress is None else {"watcher": _Watch(engine, cases, waiting, progress)}
        limits = cases[0].task.limits
        found = engine.answer([cases[place].token_ids for place in waiting], limits, **watched)
        begun = max((one.batch_size for one in known.values()), default=0)  # the batch that a kill has interrupted
        found = [replace(one, batch_size=max(begun, one.batch_size)) for one in found]
        answers |= dict(zip(waiting, found, strict=True))
    log_likelihoods = _measure_solutions(engine, cases)
    return [_make_generation(engine, case, answers[at], log_likelihoods[at]) for at, case in enumerate(cases)]


class Progress(Protocol):
    """Is told what was generated so far."""

    def on_tokens(self, num_tokens: int) -> None:
        """Takes how many tokens the longest answers have so far."""
        ...

    def on_generation(self, place: int, generation: Generation) -> None:
        """Takes an answer with the place of its case."""
        ...


@dataclass(frozen=True)
class _Watch:
    """Makes generations of an engine's answers for who follows the progress."""

    engine: Engine
    cases: Sequence[Case]
    places: Sequence[int]
    progress: Progress

    def on_tokens(self, num_tokens: int) -> None:
        self.progress.on_tokens(num_tokens)

    def on_answer(self, index: int, answer: Answer) -> None:
        place = self.places[index]
        self.progress.on_generation(place, _make_generation(self.engine, self.cases[place], answer, None))


def _make_generation(engine: Engine, case: Case, answer: Answer, log_likelihood: float | None) -> Generation:
    return Generation(
        id=case.prompt.id,
        task=case.prompt.task,
        prompt=case.prompt.request,
        answer=answer.text,
        num_tokens=answer.num_tokens,
        finish_reason=answer.finish_reason,
        engine=engine.name,
        dtype=engine.dtype,
        batch_size=answer.batch_size,
        prompt_hash=case.prompt_hash,
        asked_hash=case.asked_hash,
        reference_log_likelihood=log_likelihood,
        num_reference_tokens=len(case.solution_ids) or None,
    )


def _measure_solutions(engine: Engine, cases: Sequence[Case]) -> list[float] | list[None]:
    if not (engine.measures_solutions and all(case.solution_ids for case in cases)):
        return [None] * len(cases)
    return engine.measure_solutions([case.token_ids for case in cases], [case.solution_ids for case in cases])


def list_metrics(tasks: Iterable[Task], engine: Engine) -> Iterator[tuple[Task, MetricSpec]]:
    """Yields what can be measured of answers of an engine."""
    for task in tasks:
        for spec in task.metrics:
            if spec.kind != "log_likelihood" or engine.measures_solutions:
                yield task, spec


def grade_cases(
    plan: CasePlan,
    spec: MetricSpec,
    generations: Mapping[int, Generation],
    indices: Sequence[int],
    *,
    cache: JudgementCache | None,
    progress: bool,
) -> list[Outcome]:
    """Grades the answers to some cases of a task under one of its metrics.

    Args:
        plan: The plan.
        spec: The metric.
        generations: Answers by the index of their case.
        indices: The cases.
        cache: Where judgements are kept.
        progress: Whether a judge's progress is shown.

    Returns:
        One outcome per case, in the order of `indices`.
    """
    answers = [generations[index] for index in indices]
    if spec.kind == "log_likelihood":
        return [
            Outcome(value=one.reference_log_likelihood, weight=float(one.num_reference_tokens or 0)) for one in answers
        ]
    if spec.kind == "judged":
        assert spec.judge is not None
        requests = [JudgeRequest(prompt=one.prompt, answer=one.answer) for one in answers]
        is_quick = isinstance(spec.judge, LabJudge)  # a bar would show its end alone
        judgements = judge_answers(spec.judge, requests, cache=cache, progress=progress and not is_quick)
        return [Outcome.from_judgement(one) for one in judgements]
    assert spec.grade is not None
    return [spec.grade(plan.cases[index].prompt, one.answer) for index, one in zip(indices, answers, strict=True)]
