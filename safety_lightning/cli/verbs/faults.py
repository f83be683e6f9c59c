"""Tells errors that the user can mend from faults of the program, and keeps other libraries quiet."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from pathlib import Path

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from safety_lightning.cli.errors import shorten
from safety_lightning.errors import UserError
from safety_lightning.system.disks import DiskFullError, describe_full_disk, is_disk_full
from safety_lightning.system.processes import RUN_DIR_VARIABLE

_OPTION_READERS = ("lightning.pytorch.trainer", "lightning.pytorch.loops", "lightning.fabric.plugins")


def quieten_libraries() -> None:
    """Keeps advertisements and other libraries' notes to their own developers out of the terminal."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls inside Lightning 2.6.6
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=r"Precision .* is not supported by the model summary")
    warnings.filterwarnings("ignore", message=r"LightningCLI's args parameter is intended to run from within Python")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # encoded data is in memory
    warnings.filterwarnings("ignore", message=r".*_tensor` is deprecated", category=FutureWarning)  # inside DeepSpeed
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notes.addFilter(lambda record: not str(record.msg).startswith(("💡", "TPU available")))


def find_user_error(error: Exception) -> UserError:
    """Returns the error that is the user's to mend: one in the chain, for libraries wrap what is raised in our code.

    An error that the parser itself raises while it makes the classes of a config is the user's too: where a value may
    be of several types, it lists the errors of all of them in its message. So is what Lightning refuses.

    Raises:
        Exception: The error itself, when it is neither: then it is a fault, and its traceback is shown.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError):
            return link
        if isinstance(link, MisconfigurationException) or _is_refusal(link):
            return UserError(f"the Trainer's options must fit, got: {describe(link)}")
        link = link.__cause__ or link.__context__
    if is_disk_full(error):
        return DiskFullError(describe_full_disk(Path(os.environ.get(RUN_DIR_VARIABLE, "logs"))))
    if isinstance(error, ValueError) and _find_module(error).startswith("jsonargparse"):
        return UserError(shorten(str(error)))
    raise error


def describe(error: BaseException) -> str:
    """Returns the message of an error on one line."""
    return " ".join(str(error).split())


def _is_refusal(error: BaseException) -> bool:
    """Says whether Lightning itself refused a value, such as a `val_check_interval` beyond the batches of an epoch.

    `EarlyStopping` says so of a metric that nothing has logged when it looks for it.
    """
    if isinstance(error, RuntimeError):
        return _find_module(error) == "lightning.pytorch.callbacks.early_stopping"
    return isinstance(error, ValueError) and _find_module(error).startswith(_OPTION_READERS)


def _find_module(error: BaseException) -> str:
    """Returns the name of the module that raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals["__name__"]) if frames else ""
