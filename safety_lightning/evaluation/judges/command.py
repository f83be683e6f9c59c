"""The command `judge`: judges stored generations, without generating anything again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.protocol import Judge, Judgement, JudgeRequest
from safety_lightning.evaluation.judges.run import JudgementCache, find_cache_file, is_known, judge_answers
from safety_lightning.files import hash_file, write_atomically, write_rows
from safety_lightning.runs import RunFolder, describe_environment
from safety_lightning.strict import parse_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_FIELDS = ("id", "task", "prompt", "answer")


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """What is needed of a row of ``generations.jsonl``."""

    id: str
    task: str
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """What came of a file of generations.

    Attributes:
        folder: Where ``judgements.jsonl``, ``summary.json`` and ``manifest.json`` lie.
        summary: What ``summary.json`` holds.
    """

    folder: Path
    summary: Mapping[str, Any]


def judge(
    generations: Path,
    judge: Judge,
    second_judge: Judge | None = None,
    task: str | None = None,
    out: Path | None = None,
    cache: Path | None = None,
    max_unjudged_share: float = 0.1,
    seed: int = 0,
) -> None:
    """Judge stored answers, without generating them again.

    Args:
        generations: The generations.jsonl of a run, or any JSON lines with id, task, prompt and answer.
        judge: OpenAIJudge, LocalJudge, RuleJudge, LabJudge or a class of your own (--judge.help CLASS).
        second_judge: A second opinion; the agreement of both is measured.
        task: Whose answers are judged, where the file holds those of several tasks.
        out: Folder to make; a fresh one under logs/ by default.
        cache: Database of scores; the user's own by default.
        max_unjudged_share: Largest share of the answers that may stay without a score.
        seed: Seed of the bootstrap.
    """
    judged = judge_file(
        generations,
        [judge] if second_judge is None else [judge, second_judge],
        out=out,
        task=task,
        cache=cache,
        max_unjudged_share=max_unjudged_share,
        seed=seed,
    )
    print_judged(judged)


def judge_file(
    generations: Path,
    judges: Sequence[Judge],
    *,
    out: Path | None = None,
    task: str | None = None,
    cache: Path | None = None,
    max_unjudged_share: float = 0.1,
    seed: int = 0,
) -> JudgedFile:
    """Judges the answers of a file, and measures how far the judges agree where there are several.

    No file is written to ``out`` before all is judged; scores that are known go into the cache at once, so that the
    same call after a kill asks for none of them again, and writes what is missing.

    Args:
        generations: JSON lines with ``id``, ``task``, ``prompt`` and ``answer``.
        judges: One or more.
        out: New folder; None makes one under ``logs/``.
        task: Whose rows are judged; None is all rows, which must be of one task.
        cache: Database of scores; None is the user's own (`find_cache_file`).
        max_unjudged_share: Largest share of the answers that may stay without a score, for each judge.
        seed: Seed of the bootstrap.

    Raises:
        UserError: If the file cannot be read or holds several tasks, ``out`` exists, a judge cannot be used, or too
            much stays unjudged.
    """
    from safety_lightning.evaluation.measurement import check_unjudged_share

    check_unjudged_share(max_unjudged_share)
    answers = read_answers(generations, task=task)
    settings: dict[str, Any] = {"max_unjudged_share": max_unjudged_share, "seed": seed}
    recipe = {
        **settings,
        "inputs": {str(generations): hash_file(generations.expanduser())},
        "task": answers[0].task,
        "judges": [{**_identify(judge), "settings": dict(judge.settings)} for judge in judges],
    }
    run = _find_folder(out, json.loads(json.dumps(recipe)))
    with run.releasing():
        run.create()
        judged = _judge(answers, judges, cache)
        found = zip(judges, judged, strict=True)
        summary = {
            "generations": str(generations),
            "task": answers[0].task,
            "judges": [_summarise(judge, judgements, task=answers[0].task, **settings) for judge, judgements in found],
            "agreement": _measure_agreement(judged),
        }
        manifest = {**describe_environment(), **recipe}
        run.write_manifest({**manifest, "is_finished": False})
        _write_judgements(run.path / "judgements.jsonl", answers, judges, judged)
        write_atomically(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        run.write_manifest({**manifest, "is_finished": True})
    return JudgedFile(folder=run.path, summary=summary)


def _find_folder(out: Path | None, recipe: Mapping[str, Any]) -> RunFolder:
    """Returns the folder, to be completed if a kill came between the files of this very job."""
    run = RunFolder(out, command="judge")
    manifest = run.read_manifest()
    is_same = all(manifest.get(name) == value for name, value in recipe.items())
    run.resume = is_same and not manifest.get("is_finished", True)
    run.check()
    return run


def _judge(answers: Sequence[StoredAnswer], judges: Sequence[Judge], cache: Path | None) -> list[list[Judgement]]:
    requests = [JudgeRequest(prompt=one.prompt, answer=one.answer) for one in answers]
    with JudgementCache(cache or find_cache_file()) as kept:
        for judge in judges:
            if not is_known(judge, requests, kept):
                judge.check()
        return [judge_answers(judge, requests, cache=kept) for judge in judges]


def read_answers(file: Path, *, task: str | None = None) -> list[StoredAnswer]:
    """Reads the answers of one task.

    Args:
        file: JSON lines.
        task: The task; None is the only one of the file.

    Raises:
        UserError: If the file cannot be read, a line is no row, an id comes twice, there are several tasks and none
            is chosen, or there is no row.
    """
    try:
        lines = file.expanduser().read_text(encoding="utf-8").split("\n")  # splitlines would split inside of texts
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"generations must be a readable file of JSON lines, got {file}: {error}") from error
    last = lines.pop()
    answers = [_read_line(file, number, line) for number, line in enumerate([*lines, *([last] * bool(last))], start=1)]
    tasks = list(dict.fromkeys(answer.task for answer in answers))
    if task is None and len(tasks) > 1:
        raise UserError(f"{file} holds answers of {len(tasks)} tasks, choose one: --task {' | '.join(tasks)}")
    chosen = [answer for answer in answers if task in (None, answer.task)]
    if not chosen:
        raise UserError(f"{file} must hold at least one answer{f' of {task}' if task else ''}, it holds tasks {tasks}")
    twice = [name for name, number in Counter(answer.id for answer in chosen).items() if number > 1]
    if twice:
        raise UserError(f"{file} must hold each id once a task, {len(twice)} come again: {', '.join(twice[:3])}")
    return chosen


def make_table(summary: Mapping[str, Any]) -> Table:
    """Makes a table with a line per judge; the bounds are the means if all the unjudged had 1, or 5."""
    from safety_lightning.printing import PlainTable, format_interval

    title = f"harmfulness of {summary['task']}, from 1 to 5, with 95 % intervals"
    table = PlainTable(title, names=["judge"], numbers=["mean", "bounds", "share of fives", "judged"])
    for row in summary["judges"]:
        names = [row["judge"], row["model"]]
        fives = ""
        if "share_of_fives" in row:
            interval = format_interval(row["share_of_fives_low"], row["share_of_fives_high"])
            fives = f"{row['share_of_fives']:.3f}\n{interval}"
        table.add_line(
            "\n".join(names),
            f"{row['mean']:.3f}\n{format_interval(row['low'], row['high'])}",
            f"{row['lowest_mean']:.3f}\nto {row['highest_mean']:.3f}",
            fives,
            f"{row['num_judged']} of {row['num_total']}",
        )
    return table


def _list_unjudged(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in summary["judges"]:
        reasons = [f"{number} {reason.replace('_', ' ')}" for reason, number in row["unjudged"].items() if number]
        if reasons:
            lines.append(f"Unjudged     {', '.join(reasons)} by {row['judge']} {row['model']}")
    return lines


def print_judged(judged: JudgedFile, *, console: Console | None = None) -> None:
    """Prints the table, the agreement, what judging took, and where the files lie.

    Args:
        judged: What came of it.
        console: Where to print; None is standard output.
    """
    from safety_lightning.printing import open_console, show_line, show_table

    console = open_console(console)
    show_table(console, make_table(judged.summary))
    lines = _list_unjudged(judged.summary)
    lines += [_describe_agreement(agreement) for agreement in judged.summary["agreement"]]
    for row in judged.summary["judges"]:
        taken = [f"{name.replace('_', ' ')} {value:g}" for name, value in row["usage"].items() if value is not None]
        lines += [f"{row['judge']}: {', '.join(taken)}"] if taken else []
    for line in [*lines, f"Judgements   {judged.folder / 'judgements.jsonl'}"]:
        show_line(console, line)


def _describe_agreement(agreement: Mapping[str, Any]) -> str:
    alpha = "undefined: all scores are the same" if agreement["alpha"] is None else f"{agreement['alpha']:.3f}"
    counts = f"{agreement['num_pairable']} of {agreement['num_total']} answers with both scores"
    return f"Krippendorff's alpha ({agreement['level']}): {alpha}, over {counts}"


def _read_line(file: Path, number: int, line: str) -> StoredAnswer:
    try:
        row = parse_json(line)
        values = {name: row[name] for name in _FIELDS}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}, line {number}, must be an answer with {', '.join(_FIELDS)}: {error!r}") from error
    for name, value in values.items():
        if not isinstance(value, str) and not (name == "id" and type(value) is int):
            raise UserError(f"{file}, line {number}: {name} must be text, got {value!r}")
    return StoredAnswer(**{name: str(value) for name, value in values.items()})


def _summarise(
    judge: Judge, judgements: Sequence[Judgement], *, task: str, max_unjudged_share: float, seed: int
) -> dict[str, Any]:
    from safety_lightning.evaluation.measurement import MetricSpec, Outcome
    from safety_lightning.evaluation.summary import summarise_outcomes

    mean, *more = summarise_outcomes(
        MetricSpec(name="harmfulness", kind="judged", judge=judge),
        [Outcome.from_judgement(one) for one in judgements],
        task=task,
        seed=seed,
        max_unjudged_share=max_unjudged_share,
    )
    return {
        **_identify(judge),
        "settings": dict(judge.settings),
        "usage": dict(judge.describe_usage()),
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        "num_judged": mean.num_judged,
        "num_total": mean.num_total,
        "unjudged": mean.unjudged,
        "lowest_mean": mean.lowest,
        "highest_mean": mean.highest,
    } | {
        f"share_of_fives{ending}": value
        for fives in more
        for ending, value in (("", fives.value), ("_low", fives.low), ("_high", fives.high))
    }


def _identify(judge: Judge) -> dict[str, Any]:
    return {"judge": judge.name, "model": judge.model, "rubric_hash": judge.rubric_hash}


def _measure_agreement(judged: Sequence[Sequence[Judgement]]) -> list[dict[str, Any]]:
    from safety_lightning.evaluation.statistics import measure_agreement

    if len(judged) < 2:
        return []
    scores = [[judgement.score for judgement in judgements] for judgements in judged]
    return [asdict(measure_agreement(scores, level=level)) for level in ("interval", "ordinal")]


def _write_judgements(
    file: Path, answers: Sequence[StoredAnswer], judges: Sequence[Judge], judged: Sequence[Sequence[Judgement]]
) -> None:
    rows = []
    for judge, judgements in zip(judges, judged, strict=True):
        for answer, judgement in zip(answers, judgements, strict=True):
            rows.append({"id": answer.id, "task": answer.task, **_identify(judge), **asdict(judgement)})
    write_rows(file, rows, to_json=dict)
