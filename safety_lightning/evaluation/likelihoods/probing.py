"""Asks an engine for the probabilities at the prompts of a plan, and reads the numbers of a task off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import Case, CasePlan, find_likelihoods, needs_answers
from safety_lightning.evaluation.engines import Engine, RowScores
from safety_lightning.evaluation.likelihoods.reading import Reading
from safety_lightning.evaluation.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a drift is measured from.

    Attributes:
        logits: Logits of the answer's first token of the reference model, float32, ``(V,)``, by the prompt's name.
        hash: Hash of the model's weights; None for a model in memory, whose numbers no run folder holds.
    """

    logits: Mapping[str, Tensor]
    hash: str | None = None


def read_reference(engine: Engine, plan: CasePlan, *, weights_hash: str | None = None) -> Reference:
    """Reads what the drift is measured from, of the reference model's engine: one forward pass a prompt."""
    cases = [case for task in plan.tasks if _needs(task, "needs_reference") for case in plan.cases if case.task is task]
    cases.sort(key=lambda case: -len(case.token_ids))
    scores = engine.score_rows([case.row for case in cases if case.row is not None], keeps_first=True)
    logits = {
        case.prompt.id: one.first_logits
        for case, one in zip(cases, scores, strict=True)
        if one.first_logits is not None
    }
    return Reference(logits=logits, hash=weights_hash)


def check_reference(plan: CasePlan, *, has_reference: bool) -> None:
    """Raises UserError if a drift is to be measured and there is no reference model."""
    if plan.needs_reference and not has_reference:
        raise UserError("measure drift must have a reference model to be measured from, got none: give model.reference")


def check_without_likelihoods(plan: CasePlan, *, engine: str) -> None:
    """Raises UserError if an engine without likelihoods is to choose answers by them, or to take measures named.

    Args:
        plan: What is asked and measured.
        engine: The engine's name.
    """
    for task in plan.tasks:
        wanted = f"engine must be transformers or continuous for the likelihoods of {task.name}"
        if any(case.choices_ids for case in plan.cases if case.task is task):
            raise UserError(f"{wanted}, by which its answers are chosen, got {engine}")
        found = _list_likelihoods(task)
        if found and (getattr(task, "names_measures", False) or not needs_answers(task)):
            raise UserError(f"{wanted}, {', '.join(found)}, got {engine}")


def list_left_out(plan: CasePlan, engine: Engine) -> list[str]:
    """Lists what is not measured, as the engine gives no likelihoods, in a line for each task."""
    if engine.gives_likelihoods:
        return []
    found = {task.name: _list_likelihoods(task) for task in plan.tasks}
    return [
        f"engine {engine.name} gives no likelihoods: {', '.join(left_out)} of {name} are not measured"
        for name, left_out in found.items()
        if left_out
    ]


def _list_likelihoods(task: Task) -> list[str]:
    return [spec.name for spec in task.metrics if not spec.needs_answers]


def read_probabilities(engine: Engine, cases: Sequence[Case], *, reference: Reference | None) -> list[Reading] | None:
    """Returns what is known at each case of a task; None where no likelihood is asked for or the engine has none."""
    task = cases[0].task
    rows = [case.row for case in cases if case.row is not None]
    if not rows or not engine.gives_likelihoods:
        return None
    scores = engine.score_rows(rows, keeps_first=_needs(task, "needs_first"))
    return [_make_reading(case, one, reference) for case, one in zip(cases, scores, strict=True)]


def read_numbers(task: Task, reading: Reading) -> dict[str, float | None]:
    """Reads the numbers of a task at a prompt; None for one that a diverged model makes no number."""
    return {name: keep_finite(one.read(reading)) for name, one in find_likelihoods(task).items()}


def keep_finite(number: float) -> float | None:
    """Returns a number, and None for one that a diverged model makes none."""
    return number if isfinite(number) else None


def _needs(task: Task, what: str) -> bool:
    return any(getattr(one, what) for one in find_likelihoods(task).values())


def _make_reading(case: Case, scores: RowScores, reference: Reference | None) -> Reading:
    assert case.row is not None
    return Reading(
        prompt=case.prompt,
        log_probs=dict(zip(case.texts, scores.log_probs, strict=True)),
        first_ids={text: ids[0] for text, ids in zip(case.texts, case.row.targets, strict=True)},
        first_log_probs=_normalise(scores.first_logits),
        reference_log_probs=_normalise(None if reference is None else reference.logits.get(case.prompt.id)),
    )


def _normalise(logits_V: Tensor | None) -> Tensor | None:
    return None if logits_V is None else torch.log_softmax(logits_V.double(), dim=-1)
