"""Reads data sets from the Hugging Face hub as tables."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safety_lightning.data.tables import Table
from safety_lightning.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset


TOXIC_ABOVE = 5.5  # of human and machine toxicity, each from 1 to 5: the threshold of ToxiGen's authors
_BYTES_LITERAL = re.compile(r"b(['\"]).*\1", re.DOTALL)


def _is_toxic(row: Mapping[str, Any]) -> bool:
    return float(row["toxicity_human"]) + float(row["toxicity_ai"]) > TOXIC_ABOVE


def _read_sentence(row: Mapping[str, Any]) -> str:
    """Returns the text; part of the rows hold it as Python writes bytes (``b'...'``)."""
    text = str(row["text"])
    try:
        literal = ast.literal_eval(text) if _BYTES_LITERAL.fullmatch(text) else text
    except (SyntaxError, ValueError):
        return text
    return literal.decode("utf-8", errors="replace") if isinstance(literal, bytes) else text


_MADE_COLUMNS: dict[tuple[str, str | None], dict[str, Callable[[Mapping[str, Any]], Any]]] = {
    ("toxigen/toxigen-data", "annotated"): {"is_toxic": _is_toxic, "sentence": _read_sentence},
}


def read_hub_table(name: str, *, config: str | None, split: str, revision: str | None) -> Table:
    """Downloads a data set (or finds it in the Hugging Face cache) and returns it as a table.

    A column that holds records (BeaverTails' ``category``) becomes one column a field (``category.self_harm``).
    ToxiGen's annotated part gets a column ``is_toxic``: whether human and machine scores add up to more than 5.5;
    and ``sentence``: its text, which part of its rows hold as Python writes bytes (``b'...'``).

    Args:
        name: ``org/name``.
        config: The data set's configuration, if it has several.
        split: For example ``train`` or ``30k_train``.
        revision: Commit, tag or branch; ``None`` is the newest.

    Raises:
        UserError: If there is no such data set, configuration or split, or no hub.
    """
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # OSError: no such data set, no network
        raise UserError(
            f"data set {name} (config {config}, split {split}, revision {revision}) must be readable from the hub, "
            f"got {type(error).__name__}: {error}; a local file can be given as `path`"
        ) from error
    if len(data) == 0:
        raise UserError(f"data set {name}, split {split}, must hold at least one row of data, got none")
    version = f"hub:{_find_revision(data) or revision or 'unknown'}"
    data = data.flatten()
    made = _MADE_COLUMNS.get((name, config), {})
    return Table(
        name=f"{name}:{split}",
        columns=[*data.column_names, *made],
        rows=[row | {column: make(row) for column, make in made.items()} for row in data.to_list()],
        numbers=list(range(1, len(data) + 1)),
        unit="row",
        version=version,
    )


def _find_revision(data: Dataset) -> str | None:
    """Reads the commit from the addresses that the data was downloaded from."""
    for address in data.info.download_checksums or {}:
        if match := re.search(r"@([0-9a-f]{40})", address):
            return match[1]
    return None
