"""Versioned lists of how refusals begin, written as a model writes them."""

from __future__ import annotations

from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.evaluation.judges.rubric import read_text

LIST_FOLDER = Path(__file__).resolve().parent / "refusal_lists"
DEFAULT_REFUSALS = "openings-v1"


def read_refusals(refusals: str) -> tuple[str, ...]:
    """Reads a list of refusals: one a line, lines that begin with ``#`` are comments.

    Args:
        refusals: The name of a list that comes with the package (``openings-v1``), or a text file.

    Raises:
        UserError: If there is no such list, or it is empty.
    """
    known = {file.stem: file for file in sorted(LIST_FOLDER.glob("*.txt"))}
    file = known.get(refusals) or Path(refusals).expanduser()
    lines = read_text(file, what="refusals", known=list(known)).splitlines()
    listed = tuple(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    if not listed:
        raise UserError(f"refusals must hold at least one refusal, {file} holds none")
    return listed
