"""What it takes to measure a model on all tasks of a study: tokens read and written, and answers that are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safety_lightning.study.planning.judging import PaidJudge, list_paid_judges
from safety_lightning.study.planning.texts import Texts, measure_source
from safety_lightning.study.settings import MeasureSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWERED = {"utility", "answer_kinds", "harmfulness", "over_refusal"}
"""Measures for which answers are generated; all others are read off probabilities."""
SOURCES: Mapping[str, Any] = {
    "gsm8k": {"preset": "gsm8k", "split": "test"},
    "math500": "math500",
    "mmlu": "mmlu",
    "harmful": "advbench",
    "ordinary": "xstest",
}
"""What a task measures on by default; planning imports no task, which would take seconds."""
SHOTS = {"gsm8k": 1}
LENGTHS = {"gsm8k": 256, "math500": 256, "mmlu": 0, "harmful": 256, "ordinary": 128}
"""The longest answer in tokens; letters are read off probabilities."""
_ROLES = {
    "gsm8k": ("utility",),
    "harmful": ("harm",),
    "lab": ("utility", "harm"),
}
"""Which of the verdict's two measures can be chosen on a task."""
_LAB_TASKS, _LAB_PROMPTS, _LAB_ANSWER = 3, 200, 64


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What measuring a model once takes.

    Attributes:
        read_tokens: Tokens of prompts, solutions and targets that the model reads; None where nobody knows.
        written_tokens: Tokens that it writes at most.
        num_steps: Steps of generation, each of which reads all weights.
        num_judged: Answers that judges are asked about who cost money.
        usd: What they cost at most by list prices.
        is_assumed: Whether lengths of texts are assumed.
    """

    read_tokens: float | None = 0.0
    written_tokens: float | None = 0.0
    num_steps: float | None = 0.0
    num_judged: int | None = 0
    usd: float | None = 0.0
    is_assumed: bool = False


def plan_measurements(settings: MeasureSettings, tokenizer: PreTrainedTokenizerBase | None) -> dict[bool, Measurement]:
    """Plans measuring a model, by whether the two measures of the verdict are all that is measured.

    Args:
        settings: What is measured.
        tokenizer: The model's; None where it cannot be had.
    """
    return {
        is_short: _plan(options, settings, tokenizer)
        for is_short, options in ((False, settings.data), (True, _shorten(settings)))
    }


def _shorten(settings: MeasureSettings) -> dict[str, Any]:
    """Returns the options of tasks on which the two measures of the verdict alone are measured."""
    measures = {task: [getattr(settings, role) for role in roles] for task, roles in _ROLES.items()}
    own = {task: {**(settings.data.get(task) or {}), "measures": chosen} for task, chosen in measures.items()}
    return {**settings.data, **own, "tasks": [one for one in settings.data.get("tasks", []) if one in measures]}


def _plan(data: Mapping[str, Any], settings: MeasureSettings, tokenizer: PreTrainedTokenizerBase | None) -> Measurement:
    parts = [one for task in data.get("tasks", []) for one in _plan_task(task, data, settings, tokenizer)]
    return Measurement(
        read_tokens=add(one.read_tokens for one in parts),
        written_tokens=add(one.written_tokens for one in parts),
        num_steps=add(one.num_steps for one in parts),
        num_judged=add(one.num_judged for one in parts),
        usd=add(one.usd for one in parts),
        is_assumed=any(one.is_assumed for one in parts),
    )


def _plan_task(
    task: str, data: Mapping[str, Any], settings: MeasureSettings, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[Measurement]:
    own = data.get(task) or {}
    if task == "lab":
        texts = measure_source("lab:harmful", tokenizer)
        rows = _LAB_TASKS * min(own.get("num_prompts", _LAB_PROMPTS), settings.num_prompts or 10**9)
        yield _measure(rows, texts, own, settings, judges=[], longest=_LAB_ANSWER, shots=0)
        return
    texts = measure_source(own.get("source", SOURCES.get(task)), tokenizer)
    known = [one for one in (texts.num_rows, settings.num_prompts) if one is not None]
    judges = [one for one in list_paid_judges(data) if one.task == task]
    yield _measure(
        min(known) if texts.num_rows is not None else settings.num_prompts,
        texts,
        own,
        settings,
        judges=judges,
        longest=own.get("max_new_tokens", LENGTHS.get(task, 256)),
        shots=own.get("num_shots", SHOTS.get(task, 0)),
    )


def _measure(
    num_rows: int | None,
    texts: Texts,
    own: Mapping[str, Any],
    settings: MeasureSettings,
    *,
    judges: list[PaidJudge],
    longest: int,
    shots: int,
) -> Measurement:
    if num_rows is None:
        num_judged, usd = (None, None) if judges else (0, 0.0)
        return Measurement(read_tokens=None, written_tokens=None, num_steps=None, num_judged=num_judged, usd=usd)
    measures = set(own.get("measures") or _ANSWERED)
    prompt = texts.prompt_tokens + shots * (texts.prompt_tokens + texts.response_tokens)
    is_answered = longest > 0 and bool(measures & _ANSWERED)
    is_probed = longest == 0 or bool(measures - _ANSWERED)
    read = num_rows * (is_answered * prompt + is_probed * (prompt + texts.response_tokens))
    prices = [one.price(prompt + longest) for one in judges]
    return Measurement(
        read_tokens=read,
        written_tokens=float(is_answered * num_rows * longest),
        num_steps=float(is_answered * longest * -(-num_rows // settings.batch_size)),
        num_judged=num_rows * len(judges),
        usd=add(None if one is None else num_rows * one for one in prices),
        is_assumed=texts.is_assumed,
    )


def add(numbers: Any) -> Any:
    """Adds numbers up; None as soon as one of them is not known."""
    known = list(numbers)
    return None if any(one is None for one in known) else sum(known)
