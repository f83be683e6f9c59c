"""The command line: Trainer verbs go to LightningCLI, every other command is a typed function of its stage.

Only the function of the command that was asked for is imported, so that help pages appear at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import auto_cli

from safety_lightning.cli.errors import PROGRAM, SuggestingParser, stop
from safety_lightning.cli.lists import gather_values
from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges import Judge
from safety_lightning.runs import find_version

_DESCRIPTION = (
    "Fine-tunes aligned language models with their update kept inside or outside a safety subspace, and measures "
    "what came of it. Each command has its own page: COMMAND --help."
)


@dataclass(frozen=True)
class Command:
    """A command before its function is imported.

    Attributes:
        place: The function, as ``module:name`` in this package.
        title: The first line of its docstring, which the page of all commands shows.
    """

    place: str
    title: str

    def load(self) -> Callable[..., None]:
        """Imports the function."""
        module, _, name = self.place.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(f"safety_lightning.{module}"), name)
        return function


TRAINER_VERBS = {
    "fit": "Fine-tune a causal language model, with projection, monitoring and measurements.",
    "validate": "Measure loss and perplexity on held-out data.",
    "test": "Evaluate a model: utility, harmfulness and over-refusal, with intervals.",
    "predict": "Capture activations of prompt sets: a vector a prompt and layer.",
}
COMMANDS: dict[str, Any] = {
    "project": Command(
        "sweep.command:project",
        "Split the updates of finetuned models by their safety subspace: energies of every variant, and their models.",
    ),
    "judge": Command(
        "evaluation.judges.command:judge",
        "Judge stored answers, without generating them again.",
    ),
    "overlap": {
        "_help": "Compare subspaces of weight updates, or of activations, in pairs.",
        "weights": Command(
            "overlap.command:weights",
            "Compare updates of weights in pairs: Mode Subspace Overlap by matrix, layer and share of energy.",
        ),
        "activations": Command(
            "overlap.command:activations",
            "Compare sets of activations in pairs: Mode Subspace Overlap by layer and share of energy.",
        ),
    },
    "lab": {
        "_help": "The lab: a miniature world with its own base and aligned model.",
        "build": Command(
            "lab.command:build",
            "Build the lab's base and aligned models from nothing, in a few minutes.",
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
_GOES_ON = {"project", "judge"}  # overlap too, where it was told its folder


class CommandParser(SuggestingParser):
    """The commands' parser, whose errors name the nearest judge too."""

    class_roots = (Judge,)


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command.

    Args:
        args: The command and its options; None takes those of the process.
    """
    words = list(sys.argv[1:] if args is None else args)
    if words and words[0] in TRAINER_VERBS:
        from safety_lightning.cli.verbs import run_verb

        run_verb(words[0], args=None if args is None else words)
        return
    misplaced = [word for word in words if word in TRAINER_VERBS]
    if misplaced and words[0].startswith("-"):
        _stop_misplaced(misplaced[0])
    commands = {verb: _make_stub(title) for verb, title in TRAINER_VERBS.items()} | _bring_function(COMMANDS, words)
    try:
        auto_cli(
            commands,
            args=gather_values(words, commands),
            as_positional=False,
            parser_class=CommandParser,
            prog=PROGRAM,
            description=_DESCRIPTION,
            version=find_version("safety_lightning") or "(not installed)",
            allow_abbrev=False,
        )
    except UserError as error:
        stop(error)
    except KeyboardInterrupt:
        goes_on = words[0] in _GOES_ON or (words[0] == "overlap" and "--out" in words)
        told = " What is finished is kept: the same command goes on." if goes_on else ""
        print(f"Stopped.{told}", file=sys.stderr)
        raise SystemExit(130) from None


def _bring_function(table: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Returns the table with the function of the command that was asked for; the others have stubs with their title."""
    brought: dict[str, Any] = {}
    for name, entry in table.items():
        asked = name in words[:1]
        if isinstance(entry, Command):
            brought[name] = entry.load() if asked else _make_stub(entry.title)
        else:
            brought[name] = _bring_function(entry, words[1:] if asked else ()) if isinstance(entry, dict) else entry
    return brought


def _make_stub(title: str) -> Callable[[], None]:
    def stub() -> None: ...

    stub.__doc__ = title
    return stub


def _stop_misplaced(verb: str) -> None:
    stop(UserError(f"options come after the command: {PROGRAM} {verb} --config FILE ..."))
