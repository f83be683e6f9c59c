"""The Trainer verbs: LightningCLI with a run folder, checks before anything is written, and a table at the end.

A verb is a subclass of `VerbCLI` in a module of its name; only the one that was asked for is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from safety_lightning.cli.errors import PROGRAM, stop
from safety_lightning.cli.judges import separate_judges
from safety_lightning.cli.verbs.base import VerbCLI, VerbParser
from safety_lightning.cli.verbs.faults import find_user_error, quieten_libraries

_CLASSES = {"fit": "FitCLI", "predict": "PredictCLI", "test": "TestCLI", "validate": "ValidateCLI"}


def run_verb(verb: str, *, args: Sequence[str] | None = None) -> None:
    """Runs a Trainer verb.

    Args:
        verb: A key of `safety_lightning.cli.TRAINER_VERBS`.
        args: The verb and its options; None takes those of the process.
    """
    quieten_libraries()
    separate_judges()
    cli_class: type[VerbCLI] = getattr(importlib.import_module(f"{__name__}.{verb}"), _CLASSES[verb])
    try:
        cli_class(
            cli_class.module_class,
            cli_class.data_class,
            save_config_callback=None,
            trainer_defaults=cli_class.trainer_options,
            seed_everything_default=0,
            parser_class=VerbParser,
            parser_kwargs={"prog": PROGRAM, "allow_abbrev": False, verb: {"allow_abbrev": False}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=None if args is None else list(args),
        )
    except Exception as error:  # noqa: BLE001 (raised again unless it is a user's to mend)
        stop(find_user_error(error))
