"""Measures a model in one process: answers, grades, measurements; and grades what several processes answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from safety_lightning.evaluation.cases import Plan, answer_cases
from safety_lightning.evaluation.engines import Engine
from safety_lightning.evaluation.judges import JudgementCache
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.outcomes import MetricSpec, Outcome, summarise_outcomes
from safety_lightning.evaluation.records.generations import Generation
from safety_lightning.evaluation.tasks.protocol import Task

MAX_UNJUDGED_SHARE = 0.1


def measure_plan(
    engine: Engine,
    plan: Plan,
    *,
    seed: int = 0,
    max_unjudged_share: float = MAX_UNJUDGED_SHARE,
    cache: JudgementCache | None = None,
) -> list[Measurement]:
    """Lets an engine answer all cases of a plan, and measures each metric of each task.

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
        graded = grade_cases(plan, task, spec, generations, plan.list_indices(task), cache=cache, progress=False)
        measurements += summarise_outcomes(
            spec, graded, task=task.name, seed=seed, max_unjudged_share=max_unjudged_share
        )
    return measurements


def list_metrics(tasks: Iterable[Task], engine: Engine) -> Iterator[tuple[Task, MetricSpec]]:
    """Yields what can be measured of answers of an engine."""
    for task in tasks:
        for spec in task.metrics:
            if spec.kind != "log_likelihood" or engine.measures_references:
                yield task, spec


def grade_cases(
    plan: Plan,
    task: Task,
    spec: MetricSpec,
    generations: Mapping[int, Generation],
    indices: Sequence[int],
    *,
    cache: JudgementCache | None,
    progress: bool,
) -> list[Outcome]:
    """Grades the answers to some cases of a task; see `Task.grade`."""
    prompts = [plan.cases[index].prompt for index in indices]
    return task.grade(spec, prompts, [generations[index] for index in indices], cache=cache, progress=progress)
