"""Compares an evaluation with an earlier one on the same prompts, and refuses to compare what is not alike."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from safety_lightning.errors import UserError
from safety_lightning.evaluation.cases import CasePlan
from safety_lightning.evaluation.judges import DEFAULT_SCALE
from safety_lightning.evaluation.measurement import MetricSpec
from safety_lightning.evaluation.records.generations import FILE_NAME, read_generations
from safety_lightning.evaluation.records.scores import ScoreRow, read_scores
from safety_lightning.evaluation.statistics import compare_accuracies, compare_paired
from safety_lightning.files import write_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """The difference of this model to the baseline under one metric, over the same prompts.

    Attributes:
        task: The task.
        metric: The metric.
        baseline: The run folder of the other model.
        difference: This model minus the baseline, the mean over prompts.
        low: Lower end of its 95 % interval, over prompts or over clusters of near twins.
        high: Upper end.
        num_pairs: Prompts with a value for both.
        num_total: All prompts.
        num_only_baseline: Prompts that only the baseline has right, for shares.
        num_only_this: Prompts that only this model has right, for shares.
        p_value: Exact McNemar test, for shares.
        smallest_difference: The smallest true difference that so many prompts would show, with a power of 80 %; None
            where the prompts do not tell.
        num_clusters: Clusters of near twins among the prompts that count, where the interval knows of them.
        model: Which model this is, of those that one run measured.
    """

    task: str
    metric: str
    baseline: str
    difference: float
    low: float
    high: float
    num_pairs: int
    num_total: int
    num_only_baseline: int | None = None
    num_only_this: int | None = None
    p_value: float | None = None
    smallest_difference: float | None = None
    num_clusters: int | None = None
    model: str | None = None


class _Settings(TypedDict):
    seed: int
    clusters: list[int] | None


class Baseline:
    """An earlier evaluation that this one is compared with.

    Args:
        folder: Its run folder.

    Raises:
        UserError: If the folder holds no finished evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores = read_scores(folder)
        self.generations = read_generations(folder / FILE_NAME)

    def check(self, plan: CasePlan, *, engine: str, dtype: str, reference_hash: str | None = None) -> None:
        """Checks that answers of both are to the same prompts, from one engine in one dtype, measured in one way.

        Args:
            plan: What is asked here.
            engine: What answers here.
            dtype: What it computes in.
            reference_hash: Hash of the model that a drift is measured from; see `Reference`.

        Raises:
            UserError: If they are not: another judge, rubric or scale, other targets, refusals or another reference.
        """
        for generation in self.generations:
            if (generation.engine, generation.dtype) != (engine, dtype):
                raise UserError(
                    f"two models are compared with answers of one engine and dtype, got {engine} in {dtype} and "
                    f"{generation.engine} in {generation.dtype} of {self.folder}"
                )
        asked = {generation.id: generation.asked_hash for generation in self.generations}
        if len(asked) < len(self.generations) or asked.keys() != {case.prompt.id for case in plan.cases}:
            raise UserError(f"two models are compared on the same prompts, {self.folder} has others")
        for case in plan.cases:
            if asked[case.prompt.id] != case.asked_hash:
                raise UserError(
                    "two models are compared on the same prompts, with the same examples, format, limits and "
                    f"solutions; in {self.folder} {case.prompt.id} has others"
                )
        self._check_whole(plan)
        specs = {(task.name, spec.name): spec for task in plan.tasks for spec in task.metrics}
        cases = {case.prompt.id: case for case in plan.cases}
        for row in self.scores:
            spec = specs.get((row.task, row.metric))
            if spec is not None and spec.likelihood is not None:
                wanted = cases[row.id].hash_likelihood(spec.likelihood, reference_hash=reference_hash)
                self._check_likelihood(row, wanted)
            elif spec is not None:
                self._check_judge(row, spec)

    def _check_judge(self, row: ScoreRow, spec: MetricSpec) -> None:
        there = (row.judge, row.rubric_hash, row.scale or (DEFAULT_SCALE if row.kind == "judged" else None))
        here = (spec.judge_name, spec.rubric_hash, spec.scale)
        if here != there:
            raise UserError(
                f"two models are compared by one judge, rubric and scale, got {_name_judge(*here)} and "
                f"{_name_judge(*there)} of {self.folder}"
            )

    def _check_likelihood(self, row: ScoreRow, wanted: str) -> None:
        if row.rubric_hash != wanted:
            raise UserError(
                f"two models are compared by likelihoods of the same texts, from the same reference; in {self.folder} "
                f"{row.metric} of {row.id} is by others"
            )

    def _check_whole(self, plan: CasePlan) -> None:
        """Raises UserError unless each metric of the baseline has a score for each prompt of its task, once."""
        prompts: dict[str, set[str]] = {task.name: set() for task in plan.tasks}
        for case in plan.cases:
            prompts[case.task.name].add(case.prompt.id)
        scored: dict[tuple[str, str], list[str]] = {}
        for row in self.scores:
            scored.setdefault((row.task, row.metric), []).append(row.id)
        for (task, metric), ids in scored.items():
            wanted = prompts.get(task, set())
            if len(ids) != len(wanted) or set(ids) != wanted:
                raise UserError(
                    f"baseline {self.folder} must have a score of {task} {metric} for each of {len(wanted)} prompts, "
                    f"once, got {len(ids)} rows for {len(set(ids) & wanted)} of them"
                )

    def compare(self, rows: Sequence[ScoreRow], *, seed: int) -> list[ComparisonRow]:
        """Measures the differences of this evaluation's scores to the baseline's; warns of metrics of only one."""
        here = dict.fromkeys((row.task, row.metric) for row in rows)
        there = dict.fromkeys((row.task, row.metric) for row in self.scores)
        for task, metric in [one for one in {**here, **there} if one not in here or one not in there]:
            where = "the baseline" if (task, metric) in there else "this run"
            logger.warning("%s %s is not compared: only %s has it", task, metric, where)
        return compare_scores(self.scores, rows, baseline=str(self.folder), seed=seed)


def compare_scores(
    first: Sequence[ScoreRow], second: Sequence[ScoreRow], *, baseline: str, model: str | None = None, seed: int
) -> list[ComparisonRow]:
    """Measures the differences of one model's scores to another's, by task and metric.

    Args:
        first: The scores of the model that is compared with.
        second: The scores of the other.
        baseline: What the former is called.
        model: What the latter is called, where it needs a name.
        seed: Seed of the bootstrap.
    """
    there: dict[tuple[str, str], dict[str, ScoreRow]] = {}
    for row in first:
        there.setdefault((row.task, row.metric), {})[row.id] = row
    pairs: dict[tuple[str, str], list[tuple[ScoreRow, ScoreRow]]] = {}
    for row in second:
        other = there.get((row.task, row.metric), {}).get(row.id)
        if other is not None and row.kind != "answer_kinds":  # no numbers: their shares are told model by model
            pairs.setdefault((row.task, row.metric), []).append((other, row))
    found = []
    for (task, metric), own in pairs.items():
        if any(a.value is not None and b.value is not None for a, b in own):
            found.append(_compare_metric(own, baseline=baseline, model=model, seed=seed))
        else:
            logger.warning("%s %s is not compared: no prompt has a score in both", task, metric)
    return found


def _name_judge(judge: str | None, rubric_hash: str | None, scale: str | None) -> str:
    return f"{judge} ({rubric_hash}{f', {scale}' if scale else ''})"


def write_comparisons(folder: Path, rows: Sequence[ComparisonRow]) -> None:
    """Writes ``comparison.jsonl``."""
    write_rows(folder / "comparison.jsonl", rows)


def _compare_metric(
    pairs: Sequence[tuple[ScoreRow, ScoreRow]], *, baseline: str, model: str | None, seed: int
) -> ComparisonRow:
    first = [pair[0].value for pair in pairs]
    second = [pair[1].value for pair in pairs]
    row = pairs[0][1]
    clusters = [pair[1].cluster for pair in pairs]
    known = [cluster for cluster in clusters if cluster is not None]
    settings: _Settings = {"seed": seed, "clusters": known if len(known) == len(clusters) else None}
    make = partial(ComparisonRow, task=row.task, metric=row.metric, baseline=baseline, model=model)
    if row.kind != "share":
        return make(**vars(compare_paired(first, second, **settings)))
    shares = vars(compare_accuracies([bool(v) for v in first], [bool(v) for v in second], **settings))
    return make(num_only_baseline=shares.pop("num_only_first"), num_only_this=shares.pop("num_only_second"), **shares)
