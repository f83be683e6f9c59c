"""The Trainer verbs under LightningCLI, in the order in which a command goes through them.

base                            the run folder, the checks before anything is written, the manifest, how to resume
training                        what the verbs that train or validate share: model, data and groups of callbacks
fit, validate, test, predict    a verb each; only the one that was asked for is imported
resuming                        what a resumed run must have in common with its beginning
checkpoints, stopping           checkpoints that are whole or absent; what a verb does when a signal stops it
dashboard                       what TensorBoard shows of a fit that is done
faults                          which errors are the user's to mend
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from contextlib import suppress

from safety_lightning.cli.errors import PROGRAM, stop
from safety_lightning.cli.judges import separate_judges
from safety_lightning.cli.kinds import guard_parsing
from safety_lightning.cli.stops import exit_when_stopped
from safety_lightning.cli.verbs.base import VerbCLI, VerbParser
from safety_lightning.cli.verbs.faults import find_user_error, quieten_libraries
from safety_lightning.system.disks import DiskFullError
from safety_lightning.system.processes import RUN_DIR_VARIABLE

_CLASSES = {"fit": "FitCLI", "predict": "PredictCLI", "test": "TestCLI", "validate": "ValidateCLI"}


def run_verb(verb: str, *, args: Sequence[str] | None = None) -> None:
    """Runs a Trainer verb.

    Args:
        verb: A key of `safety_lightning.cli.TRAINER_VERBS`.
        args: The verb and its options; None takes those of the process.
    """
    cli_class = _load_class(verb)
    with exit_when_stopped(lambda: _advise(cli_class)):
        try:
            _start(cli_class, args)
        except Exception as error:  # noqa: BLE001 (raised again unless it is a user's to mend)
            found = find_user_error(error)
            stop(DiskFullError(f"{found}.{_advise(cli_class)}") if isinstance(found, DiskFullError) else found)


def check_verb(verb: str, *, args: Sequence[str]) -> None:
    """Checks all that a Trainer verb checks before it writes anything, and does nothing else.

    Args:
        verb: A key of `safety_lightning.cli.TRAINER_VERBS`.
        args: The verb and its options.

    Raises:
        UserError: As the verb; an error of the parser ends the process, as it does there.
    """
    cli_class = _load_class(verb)
    checking: type[VerbCLI] = type(cli_class.__name__, (_CheckOnly, cli_class), {f"before_{verb}": _CheckOnly.end})
    try:
        with suppress(_ChecksPassedError):
            _start(checking, args)
    except Exception as error:
        raise find_user_error(error) from error


class _ChecksPassedError(Exception):
    """Ends a verb whose checks have passed."""


class _CheckOnly(VerbCLI):
    """A verb that ends where its work would begin."""

    def end(self) -> None:
        """Checks, and ends the verb."""
        self.check()
        raise _ChecksPassedError


def _load_class(verb: str) -> type[VerbCLI]:
    quieten_libraries()
    separate_judges()
    found: type[VerbCLI] = getattr(importlib.import_module(f"{__name__}.{verb}"), _CLASSES[verb])
    guard_parsing()  # after Lightning's import, which has jsonargparse read configs from any address
    return found


def _start(cli_class: type[VerbCLI], args: Sequence[str] | None) -> None:
    cli_class(
        cli_class.module_class,
        cli_class.data_class,
        save_config_callback=None,
        trainer_defaults=cli_class.trainer_options,
        seed_everything_default=0,
        parser_class=VerbParser,
        parser_kwargs={"prog": PROGRAM, "allow_abbrev": False, cli_class.verb: {"allow_abbrev": False}},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=None if args is None else list(args),
    )


def _advise(cli_class: type[VerbCLI]) -> str:
    """Says how to resume a run that was stopped."""
    run_dir = os.environ.get(RUN_DIR_VARIABLE)
    if run_dir is None or not cli_class.can_resume:
        return ""
    return f" The same command with --run_dir {run_dir} --ckpt_path last resumes it."
