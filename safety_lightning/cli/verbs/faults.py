"""Tells errors that the user can mend from faults of the program, and keeps other libraries quiet."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from pathlib import Path

import jsonargparse

_PACKAGE = Path(__file__).resolve().parents[2]


def quieten_libraries() -> None:
    """Keeps advertisements and other libraries' notes to their own developers out of the terminal."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of calls inside Lightning 2.6.6
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*is deprecated")
    warnings.filterwarnings("ignore", message=r"Precision .* is not supported by the model summary")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # encoded data is in memory
    notes = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notes.addFilter(lambda record: not str(record.msg).startswith(("💡", "TPU available")))


def find_own_error(error: ValueError) -> ValueError:
    """Returns the error in a chain that is written for its user: this package's own, else the parser's.

    Raises:
        ValueError: The error itself, when it is neither: then it is a fault, and its traceback is shown.
    """
    links = _follow_chain(error)
    for folder in (_PACKAGE, Path(jsonargparse.__file__).parent):
        for link in links:
            if isinstance(link, ValueError) and _find_origin(link).startswith(str(folder)):
                return link
    raise error


def _follow_chain(error: BaseException) -> list[BaseException]:
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _find_origin(error: BaseException) -> str:
    """Returns the file that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename if frames else ""
