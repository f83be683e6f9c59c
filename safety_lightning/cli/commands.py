"""The command line: Trainer verbs go to LightningCLI, every other command is a function or dataclass of its stage.

Only the schema of the command that was asked for is imported, so that help pages appear at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from safety_lightning.cli.configs import check_configs
from safety_lightning.cli.errors import PROGRAM, SuggestingParser, stop
from safety_lightning.cli.judges import separate_judges
from safety_lightning.cli.kinds import guard_parsing
from safety_lightning.cli.lists import check_repeats, gather_values
from safety_lightning.cli.stops import StoppedExit, end_process, exit_when_stopped
from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge
from safety_lightning.runs import find_version
from safety_lightning.system.disks import DiskFullError, describe_full_disk, is_disk_full, quieten_full_disk

_DESCRIPTION = (
    "Fine-tunes aligned language models with their update kept inside or outside a safety subspace, and measures "
    "what came of it. Each command has its own page: COMMAND --help."
)


@dataclass(frozen=True)
class Command:
    """A command before any of its code is imported: a typed function, or a dataclass with a function that runs it.

    The parameters of the function, or the fields of the dataclass, are the command's options; its docstring is the
    help (``Args:`` of a function, ``Attributes:`` of a dataclass). How to make a command of a dataclass:

    - Name the dataclass as ``schema`` and a function of one argument, an instance of it, as ``runner``. Help and errors
      of options import the module of the schema alone: keep it light. The runner is imported when options are right.
    - Options are flat. Fields and their help are inherited, those of the last base come first: for
      ``class ProjectRun(SweepSettings, ProjectInputs)`` those of ``ProjectInputs``, where required ones belong. The
      fields are keyword-only (``kw_only=True``), so that required ones may follow others.
    - Fields of lists and mappings are taken as words too: ``--names a b``, ``--folders x=DIR y=DIR``.
    - A field whose default is None takes ``null``, whatever its hint.
    - A `UserError` of ``__post_init__`` or of the runner ends the command with its message.

    Attributes:
        schema: The function or the dataclass, as ``module:name`` in this package.
        title: The first line of its docstring, which the page of all commands shows.
        runner: The function that runs an instance of a dataclass, as ``module:name``; None for a function.
    """

    schema: str
    title: str
    runner: str | None = None

    def load(self) -> Callable[..., Any]:
        """Imports the function or the dataclass."""
        return _import_place(self.schema)

    def finish(self, parsed: Any) -> None:
        """Runs the instance of a dataclass that the parser has made; a function has been run by the parser."""
        if self.runner is not None:
            _import_place(self.runner)(parsed)


def _import_place(place: str) -> Callable[..., Any]:
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"safety_lightning.{module}"), name)
    return found


TRAINER_VERBS = {
    "fit": "Fine-tune a causal language model, with projection, monitoring and measurements.",
    "validate": "Measure loss and perplexity on held-out data.",
    "test": "Evaluate a model: utility, harmfulness and over-refusal, with intervals.",
    "predict": "Capture activations of prompt sets: a vector per prompt and layer.",
}
COMMANDS: dict[str, Any] = {
    "project": Command(
        "sweep.command:ProjectRun",
        "Split the updates of finetuned models by their safety subspace: energies of every variant, and their models.",
        runner="sweep.command:project",
    ),
    "judge": Command(
        "evaluation.judges.command:judge",
        "Judge stored answers, without generating them again.",
    ),
    "overlap": {
        "_help": "Compare subspaces of weight updates, or of activations, in pairs.",
        "weights": Command(
            "overlap:WeightRun",
            "Compare updates of weights in pairs: Mode Subspace Overlap by matrix, layer and share of energy.",
            runner="overlap:run_weights",
        ),
        "activations": Command(
            "overlap:ActivationRun",
            "Compare sets of activations in pairs: Mode Subspace Overlap by layer and share of energy.",
            runner="overlap:run_activations",
        ),
    },
    "study": Command(
        "study.settings:StudyRun",
        "Run the whole study: fine-tunes, variants, overlaps, statistics, and a report with a verdict.",
        runner="study.command:study",
    ),
    "report": Command(
        "study.report.command:ReportRun",
        "Make the report of a study anew from its results alone, or set studies side by side.",
        runner="study.report.command:report",
    ),
    "lab": {
        "_help": "The lab: a miniature world with its own base and aligned model.",
        "build": Command(
            "lab.command:build",
            "Build the lab's models from nothing: base, aligned, and planted for control; takes about five minutes.",
        ),
        "export": Command(
            "lab.command:export",
            "Copy the lab's models that come with the package.",
        ),
    },
    "configs": Command(
        "cli.configs:list_configs",
        "List the configs that come with the package.",
    ),
}
_RESUMES = {"project", "judge"}  # overlap too, where it was told its folder


class CommandParser(SuggestingParser):
    """The commands' parser, whose errors name the nearest judge too."""

    class_roots = (Judge,)
    factory_kinds = (Judge,)


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The command and its options; None takes those of the process, which ends here if a signal stops it.
    """
    try:
        _run_to_the_end(list(sys.argv[1:] if args is None else args), args)
    except StoppedExit as stopped:
        if args is not None:
            raise
        end_process(stopped)


def _run_to_the_end(words: Sequence[str], args: Sequence[str] | None) -> None:
    with exit_when_stopped(lambda: _advise(words)), quieten_full_disk():
        try:
            check_configs(words)
            _run(words, args)
        except UserError as error:
            stop(error)
        except Exception as error:
            if not is_disk_full(error):
                raise
            stop(DiskFullError(describe_full_disk(Path(getattr(error, "filename", None) or "logs"))))


def _run(words: Sequence[str], args: Sequence[str] | None) -> None:
    if words and words[0] in TRAINER_VERBS:
        check_repeats(words)
        from safety_lightning.cli.verbs import run_verb

        run_verb(words[0], args=None if args is None else words)
    else:
        _run_command(words)


def _run_command(words: Sequence[str]) -> None:
    misplaced = [word for word in words if word in TRAINER_VERBS]
    if misplaced and words[0].startswith("-"):
        raise UserError(f"options come after the command: {PROGRAM} {misplaced[0]} --config FILE ...")
    commands = {verb: _make_stub(title) for verb, title in TRAINER_VERBS.items()} | _load_asked(COMMANDS, words)
    command = _find_command(COMMANDS, words)
    gathered = gather_values(words, commands)
    check_repeats(gathered)
    separate_judges()
    guard_parsing()
    parsed = auto_cli(
        commands,
        args=gathered,
        as_positional=False,
        return_instance=True,
        parser_class=CommandParser,
        prog=PROGRAM,
        description=_DESCRIPTION,
        version=find_version("safety_lightning") or "(not installed)",
        allow_abbrev=False,
    )
    if command is not None:
        command.finish(parsed)


def _advise(words: Sequence[str]) -> str:
    """Says how to resume a command that was stopped; the Trainer's verbs say it themselves."""
    resumes = words[0] in _RESUMES or (words[0] == "overlap" and "--out" in words)
    return " What is finished is kept: the same command resumes." if resumes else ""


def _find_command(table: Mapping[str, Any], words: Sequence[str]) -> Command | None:
    """Returns the command that was asked for, None where the words name none."""
    found: Any = table
    for word in words:
        if not isinstance(found, Mapping):
            break
        found = found.get(word)
    return found if isinstance(found, Command) else None


def _load_asked(table: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Returns the table with the schema of the command that was asked for; the others have stubs with their title."""
    loaded: dict[str, Any] = {}
    for name, entry in table.items():
        asked = name in words[:1]
        if isinstance(entry, Command):
            loaded[name] = entry.load() if asked else _make_stub(entry.title)
        else:
            loaded[name] = _load_asked(entry, words[1:] if asked else ()) if isinstance(entry, dict) else entry
    return loaded


def _make_stub(title: str) -> Callable[[], None]:
    def stub() -> None: ...

    stub.__doc__ = title
    return stub
