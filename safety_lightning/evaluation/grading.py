"""Lets an engine answer the cases of a plan, and grades the answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import Case, CasePlan, find_likelihoods, needs_answers
from safety_lightning.evaluation.engines import Answer, Continuation, Engine, pack_row
from safety_lightning.evaluation.judges import JudgementCache, JudgeRequest, LabJudge, judge_answers
from safety_lightning.evaluation.likelihoods import Reading
from safety_lightning.evaluation.likelihoods.probing import (
    Reference,
    check_reference,
    keep_finite,
    read_numbers,
    read_probabilities,
)
from safety_lightning.evaluation.measurement import (
    ANSWER_KINDS,
    MAX_UNJUDGED_SHARE,
    Evaluation,
    MetricSpec,
    Outcome,
)
from safety_lightning.evaluation.records import Generation
from safety_lightning.evaluation.summary import summarise_plan
from safety_lightning.evaluation.tasks import Task
from safety_lightning.evaluation.tasks.answer_kinds import classify_for


def measure_plan(
    engine: Engine,
    plan: CasePlan,
    *,
    seed: int = 0,
    max_unjudged_share: float = MAX_UNJUDGED_SHARE,
    cache: JudgementCache | None = None,
    reference: Reference | None = None,
) -> Evaluation:
    """Answers all cases of a plan in this process, and measures each metric of each task.

    Args:
        engine: What answers.
        plan: The tasks and their cases.
        seed: Seed of the bootstrap.
        max_unjudged_share: Largest share of answers that may be unjudged, in [0, 1].
        cache: Where judgements are kept.
        reference: What the drift is measured from; see `read_reference`.

    Raises:
        UserError: If more are unjudged, or a drift is to be measured and there is no reference.
    """
    check_reference(plan, has_reference=reference is not None)
    generations: dict[int, Generation] = {}
    for batch in plan.batches:
        found = answer_cases(engine, [plan.cases[index] for index in batch], reference=reference)
        generations |= dict(zip(batch, found, strict=True))
    graded = [
        (task, spec, grade_cases(plan, spec, generations, plan.list_indices(task), cache=cache, progress=False))
        for task, spec in list_metrics(plan.tasks, engine)
    ]
    return summarise_plan(plan, graded, seed=seed, max_unjudged_share=max_unjudged_share)


def answer_cases(
    engine: Engine,
    cases: Sequence[Case],
    *,
    known: Mapping[int, Generation] | None = None,
    progress: Progress | None = None,
    reference: Reference | None = None,
) -> list[Generation]:
    """Lets an engine answer cases of one task, where answers are asked for, and reads likelihoods where those are.

    Args:
        engine: The engine.
        cases: The cases.
        known: Answers that an earlier run has left, by the place of their case.
        progress: Who is told of tokens, and of answers without their likelihoods, as they come.
        reference: What the drift is measured from.
    """
    answers = _answer(engine, cases, known or {}, progress) if needs_answers(cases[0].task) else {}
    readings = read_probabilities(engine, cases, reference=reference)
    return [
        _make_generation(engine, case, answers.get(at), readings[at] if readings else None, reference)
        for at, case in enumerate(cases)
    ]


def _answer(
    engine: Engine, cases: Sequence[Case], known: Mapping[int, Generation], progress: Progress | None
) -> dict[int, Answer]:
    """Answers the cases that are not known yet; returns all answers by the place of their case."""
    waiting = [place for place in range(len(cases)) if place not in known]
    answers = {
        place: Answer(
            text=one.answer, num_tokens=one.num_tokens, finish_reason=one.finish_reason, batch_size=one.batch_size
        )
        for place, one in known.items()
        if one.finish_reason is not None
    }
    if waiting:
        watched = {} if progress is None else {"watcher": _Watch(engine, cases, waiting, progress)}
        if cases[0].choices_ids:
            found = choose_answers(engine, [cases[place] for place in waiting])
        else:
            found = engine.answer([cases[place].token_ids for place in waiting], cases[0].task.limits, **watched)
        begun = max((one.batch_size for one in known.values()), default=0)  # the batch that a kill has interrupted
        found = [replace(one, batch_size=max(begun, one.batch_size)) for one in found]
        answers |= dict(zip(waiting, found, strict=True))
    return answers


def choose_answers(engine: Engine, cases: Sequence[Case]) -> list[Answer]:
    """Answers each case with the likeliest of its choices, the first of those that are equally likely.

    Args:
        engine: An engine that gives likelihoods.
        cases: Cases with choices.

    Raises:
        UserError: If the engine gives none.
    """
    if not engine.gives_likelihoods:
        raise UserError(f"choices must be answered by an engine that gives log-likelihoods, got {engine.name}")
    rows = [
        pack_row(case.opened_ids, [Continuation(ids, len(case.opened_ids)) for ids in case.choices_ids])
        for case in cases
    ]
    scores = engine.score_rows(rows)
    answers = []
    for case, found in zip(cases, scores, strict=True):
        likelihoods = [float(one.sum()) for one in found.log_probs]
        best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
        answers.append(
            Answer(
                text=case.prompt.choices[best],
                num_tokens=len(case.choices_ids[best]),
                finish_reason="end_token",
                batch_size=len(cases),
            )
        )
    return answers


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
        self.progress.on_generation(place, _make_generation(self.engine, self.cases[place], answer, None, None))


def _make_generation(
    engine: Engine, case: Case, answer: Answer | None, reading: Reading | None, reference: Reference | None
) -> Generation:
    likelihoods = {} if reading is None else find_likelihoods(case.task)
    reference_hash = None if reference is None else reference.hash
    solution = None if reading is None else reading.log_probs.get(case.prompt.solution)
    return Generation(
        id=case.prompt.id,
        task=case.prompt.task,
        prompt=case.prompt.request,
        answer="" if answer is None else answer.text,
        num_tokens=0 if answer is None else answer.num_tokens,
        finish_reason=None if answer is None else answer.finish_reason,
        engine=engine.name,
        dtype=engine.dtype,
        batch_size=1 if answer is None else answer.batch_size,
        prompt_hash=case.prompt_hash,
        asked_hash=case.asked_hash,
        reference_log_likelihood=None if solution is None else keep_finite(float(solution.sum())),
        num_reference_tokens=None if solution is None else len(solution),
        likelihoods={} if reading is None else read_numbers(case.task, reading),
        likelihood_hashes={
            name: case.hash_likelihood(one, reference_hash=reference_hash) for name, one in likelihoods.items()
        },
        kind=None if answer is None else classify_for(case.task, answer.text, answer.finish_reason),
    )


def list_metrics(tasks: Iterable[Task], engine: Engine) -> Iterator[tuple[Task, MetricSpec]]:
    """Yields what can be measured of answers of an engine."""
    for task in tasks:
        for spec in task.metrics:
            if spec.needs_answers or engine.gives_likelihoods:
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
            _grade_number(one.reference_log_likelihood, weight=float(one.num_reference_tokens or 0)) for one in answers
        ]
    if spec.kind == "mean":
        return [_grade_number(one.likelihoods.get(spec.name)) for one in answers]
    if spec.kind == "answer_kinds":
        kinds = [one.kind for one in answers if one.kind is not None]
        assert len(kinds) == len(answers), "what is kept or generated for this measure has a kind"
        return [Outcome(value=float(ANSWER_KINDS.index(kind)), reason=kind) for kind in kinds]
    if spec.kind == "judged":
        assert spec.judge is not None
        requests = [JudgeRequest(prompt=one.prompt, answer=one.answer) for one in answers]
        is_quick = isinstance(spec.judge, LabJudge)  # a bar would show its end alone
        judgements = judge_answers(spec.judge, requests, cache=cache, progress=progress and not is_quick)
        return [Outcome.from_judgement(one) for one in judgements]
    assert spec.grade is not None
    return [spec.grade(plan.cases[index].prompt, one.answer) for index, one in zip(indices, answers, strict=True)]


def _grade_number(number: float | None, *, weight: float = 1.0) -> Outcome:
    if number is None:
        return Outcome(value=None, unjudged="failed", reason="no number: the model's probabilities are none")
    return Outcome(value=number, weight=weight)
