"""The command `judge`: judges stored generations, and leaves what a `test` leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.answers import StoredAnswer, read_answers
from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest, check_harm_judges, reads_harm
from safety_lightning.evaluation.judges.rule_judge import choose_judges
from safety_lightning.evaluation.judges.run import JudgementCache, find_cache_file, is_known, judge_answers
from safety_lightning.evaluation.judges.self_test import check_judges, describe_untested, print_self_test, run_self_test
from safety_lightning.files import hash_file, write_rows
from safety_lightning.runs import RunFolder, describe_environment

if TYPE_CHECKING:
    from rich.console import Console

    from safety_lightning.evaluation.measurement import Measurement, MetricSpec

METRICS = ("harmfulness", "harmfulness_second")


@dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """What came of a file of generations.

    Attributes:
        folder: Where ``generations.jsonl``, ``scores.jsonl``, ``results.jsonl`` and ``manifest.json`` lie.
        usage: What each judge took.
        tested: A line for each judge that says whether it passed the self-test.
    """

    folder: Path
    usage: Sequence[Mapping[str, float | None]]
    tested: Sequence[str]


def judge(
    judge: Judge,
    generations: Path | None = None,
    second_judge: Judge | None = None,
    second_opinion: bool = True,
    self_test: bool = False,
    task: str | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    max_unjudged_share: float = 0.1,
    seed: int = 0,
    clusters: Literal["twins", "none"] | None = None,
) -> None:
    """Judge stored answers, without generating them again.

    Args:
        judge: OpenAIJudge, LocalJudge, RuleJudge, LabJudge or a class of your own (--judge.help CLASS).
        generations: The generations.jsonl of a run, or any JSON lines with id, task, prompt and answer.
        second_judge: A second opinion; the agreement of both is measured.
        second_opinion: Whether RuleJudge gives it where no second judge is named.
        self_test: Whether to judge, instead of a file, a short list of answers whose harm is known.
        task: Whose answers are judged, where the file holds those of several tasks.
        out: Folder to make; a fresh one under logs/ by default.
        cache: Database of scores; the user's own by default.
        max_unjudged_share: Largest share of the answers that may stay without a score.
        seed: Seed of the bootstrap.
        clusters: Whether intervals are over clusters of near twins (twins) or over prompts (none); as in a test by
            default.
    """
    judges = choose_judges(judge, second_judge, second_opinion=second_opinion and not self_test)
    if self_test:
        run_self_tests(judges, cache=cache)
        return
    judged = judge_file(
        check_generations(generations),
        judges,
        out=out,
        task=task,
        cache=cache,
        max_unjudged_share=max_unjudged_share,
        seed=seed,
        clusters=clusters,
    )
    print_judged(judged, judges)


def judge_file(
    generations: Path,
    judges: Sequence[Judge],
    *,
    out: Path | None = None,
    task: str | None = None,
    cache: Path | None = None,
    max_unjudged_share: float = 0.1,
    seed: int = 0,
    clusters: Literal["twins", "none"] | None = None,
) -> JudgedFile:
    """Judges the answers of a file, and measures how far the judges agree where there are several.

    The folder holds what a `test` of these answers would have left, so that `--model.baseline`, the study and the
    reports read it. No file is written to ``out`` before all is judged; scores that are known go into the cache at
    once, so that the same call after a kill asks for none of them again, and writes what is missing.

    Args:
        generations: JSON lines with ``id``, ``task``, ``prompt`` and ``answer``.
        judges: One or two.
        out: New folder; None makes one under ``logs/``.
        task: Whose rows are judged; None is all rows, which must be of one task.
        cache: Database of scores; None is the user's own (`find_cache_file`).
        max_unjudged_share: Largest share of the answers that may stay without a score, for each judge.
        seed: Seed of the bootstrap.
        clusters: ``twins``: intervals are over clusters of near twins; ``none``: over prompts. By default as a test has
            them: over clusters where there are two or more, but for the tasks that are not of harmful requests.

    Raises:
        UserError: If the file cannot be read or holds several tasks, ``out`` exists, a judge cannot be used or reads
            no harm, there are not two clusters, or too much stays unjudged.
    """
    from safety_lightning.evaluation.measurement import check_unjudged_share

    check_unjudged_share(max_unjudged_share)
    check_harm_judges(judges)
    answers = read_answers(generations, task=task)
    settings: dict[str, Any] = {"max_unjudged_share": max_unjudged_share, "seed": seed}
    found = _find_clusters(answers, clusters)
    recipe = {
        **settings,
        "inputs": {str(generations): hash_file(generations.expanduser())},
        "task": answers[0].task,
        "clusters": clusters,
        "judges": [describe_judge(judge) for judge in judges],
    }
    run = _find_folder(out, json.loads(json.dumps(recipe)))
    with run.releasing(), JudgementCache(cache or find_cache_file()) as kept:
        run.create()
        judged = _judge(answers, judges, kept)
        measurements = _measure(judges, judged, task=answers[0].task, clusters=found, **settings)
        manifest = {**describe_environment(), **recipe, "usage": [dict(one.describe_usage()) for one in judges]}
        run.write_manifest({**manifest, "is_finished": False})
        tested = check_judges(judges, folder=run.path, cache=kept)
        _write(run.path, _find_model(generations), answers, judges, judged, measurements, found)
        run.write_manifest({**manifest, "is_finished": True})
    return JudgedFile(folder=run.path, usage=manifest["usage"], tested=tested)


def run_self_tests(judges: Sequence[Judge], *, cache: Path | None = None) -> None:
    """Has judges judge answers whose harm is known, and prints what came of it; no folder is made.

    Args:
        judges: The judges.
        cache: Database of scores; None is the user's own.

    Raises:
        UserError: If a judge cannot be used.
    """
    from safety_lightning.printing import open_console, show_line

    for judge in filter(reads_harm, judges):
        judge.check()
    with JudgementCache(cache or find_cache_file()) as kept:
        for judge in judges:
            if reads_harm(judge):
                print_self_test(run_self_test(judge, cache=kept))
            else:
                show_line(open_console(None), describe_untested(judge))


def check_generations(generations: Path | None) -> Path:
    """Returns the file of answers, or raises UserError where none was given."""
    if generations is None:
        raise UserError("generations must be a file of answers, got none (--self_test true judges a list of our own)")
    return generations


def describe_judge(judge: Judge) -> dict[str, Any]:
    """Returns what a manifest says of a judge, as plain JSON."""
    told = {"judge": judge.name, "model": judge.model, "rubric_hash": judge.rubric_hash, "scale": judge.scale}
    return {**told, "settings": dict(judge.settings)}


def print_judged(judged: JudgedFile, judges: Sequence[Judge], *, console: Console | None = None) -> None:
    """Prints the table, where the judges part, what judging took, and where the files lie.

    Args:
        judged: What came of it.
        judges: Who judged.
        console: Where to print; None is standard output.
    """
    from safety_lightning.evaluation.disagreement import print_disagreements
    from safety_lightning.evaluation.report import print_results
    from safety_lightning.printing import open_console, show_line

    console = open_console(console)
    print_results(judged.folder, console=console)
    print_disagreements(judged.folder, console=console)
    for line in judged.tested:
        show_line(console, line)
    for judge, usage in zip(judges, judged.usage, strict=True):
        taken = [f"{name.replace('_', ' ')} {value:g}" for name, value in usage.items() if value is not None]
        if taken:
            show_line(console, f"{judge.name}: {', '.join(taken)}")
    show_line(console, f"Run folder   {judged.folder}")


def _find_folder(out: Path | None, recipe: Mapping[str, Any]) -> RunFolder:
    """Returns the folder, to be completed if a kill came between the files of this very job."""
    run = RunFolder(out, command="judge")
    manifest = run.read_manifest()
    is_same = all(manifest.get(name) == value for name, value in recipe.items())
    run.resume = is_same and not manifest.get("is_finished", True)
    run.check()
    return run


def _judge(answers: Sequence[StoredAnswer], judges: Sequence[Judge], cache: JudgementCache) -> list[list[Judgement]]:
    requests = [JudgeRequest(prompt=one.prompt, answer=one.answer) for one in answers]
    for judge in judges:
        if not is_known(judge, requests, cache):
            judge.check()
    return [judge_answers(judge, requests, cache=cache) for judge in judges]


def _list_specs(judges: Sequence[Judge]) -> list[MetricSpec]:
    from safety_lightning.evaluation.measurement import MetricSpec

    return [MetricSpec(name=name, kind="judged", judge=judge) for name, judge in zip(METRICS, judges, strict=False)]


def _find_clusters(answers: Sequence[StoredAnswer], clusters: Literal["twins", "none"] | None) -> list[int] | None:
    """Returns the cluster of near twins of each prompt, as a test finds them; None where they are not looked for."""
    from safety_lightning.evaluation.statistics import find_clusters
    from safety_lightning.evaluation.tasks import HARMLESS_TASKS

    task = answers[0].task
    if clusters is None and task in HARMLESS_TASKS:
        return None
    return find_clusters([answer.prompt for answer in answers], clusters, task=task)


def _measure(
    judges: Sequence[Judge],
    judged: Sequence[Sequence[Judgement]],
    *,
    task: str,
    max_unjudged_share: float,
    seed: int,
    clusters: Sequence[int] | None,
) -> list[Measurement]:
    from safety_lightning.evaluation.measurement import Outcome
    from safety_lightning.evaluation.summary import summarise_agreement, summarise_outcomes

    outcomes = [[Outcome.from_judgement(one) for one in judgements] for judgements in judged]
    found = []
    for spec, mine in zip(_list_specs(judges), outcomes, strict=True):
        found += summarise_outcomes(
            spec, mine, task=task, seed=seed, max_unjudged_share=max_unjudged_share, clusters=clusters
        )
    if len(judges) > 1:
        found += summarise_agreement(outcomes, task=task, seed=seed, scales=[judge.scale for judge in judges])
    return found


def _write(
    folder: Path,
    model: str,
    answers: Sequence[StoredAnswer],
    judges: Sequence[Judge],
    judged: Sequence[Sequence[Judgement]],
    measurements: Sequence[Measurement],
    clusters: Sequence[int] | None,
) -> None:
    from safety_lightning.evaluation.measurement import Outcome
    from safety_lightning.evaluation.records import ResultFile, make_score_row, write_scores

    specs = _list_specs(judges)
    numbers: Sequence[int | None] = clusters or [None] * len(answers)
    scores = [
        make_score_row(answer.id, answer.task, spec, Outcome.from_judgement(judgement), cluster=cluster)
        for spec, judgements in zip(specs, judged, strict=True)
        for answer, judgement, cluster in zip(answers, judgements, numbers, strict=True)
    ]
    task, first = answers[0].task, answers[0].row
    write_rows(folder / "generations.jsonl", answers, to_json=lambda answer: dict(answer.row))
    write_scores(
        folder, scores, metrics=[(task, spec.name) for spec in specs], prompts=[answer.id for answer in answers]
    )
    results = ResultFile(folder / "results.jsonl")
    results.add(model, measurements, engine=_read_text(first, "engine"), dtype=_read_text(first, "dtype"))


def _read_text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) else None


def _find_model(generations: Path) -> str:
    """Returns the name of the model that answered: the results beside the answers say it, else it is the file."""
    from safety_lightning.evaluation.records import read_results

    beside = generations.expanduser().parent / "results.jsonl"
    models = list(dict.fromkeys(row.model for row in read_results(beside))) if beside.is_file() else []
    return models[0] if len(models) == 1 else str(generations)
