"""The page docs/benchmarks.md: rows that are measured anew take their place, all others stay as they are."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from safety_lightning.files import write_atomically
from safety_lightning.runs import describe_environment

_HEAD = """# Benchmarks

Made by `python scripts/benchmark.py`, and for a GPU by `python scripts/benchmark.py --device cuda`; `--only` measures
some rows anew. The last measurement was made with {versions}.

Each number is the median of the ratios of pairs that took turns in one run, with their range; what is counted comes out
the same each time. A row says when it was measured, with which commit of the code, and where.

| what | wanted | found | note | measured |
|---|---|---|---|---|
"""


def describe_place(device: str) -> str:
    """Says when, of which commit and on what a row is measured."""
    facts = describe_environment()
    commit, _, is_dirty = (facts["git_commit"] or "no commit").partition("-")
    where = torch.cuda.get_device_name() if device == "cuda" else f"{facts['num_threads']} × {platform.machine()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {commit[:9]}{' and changes' if is_dirty else ''}, {where}"


def write_page(page: Path, rows: Sequence[str]) -> None:
    """Writes rows into the page, in the order of their names.

    Args:
        page: The page; it need not be there.
        rows: Rows in Markdown; those of the same names are replaced.
    """
    names = {find_name(row) for row in rows}
    lines = page.read_text(encoding="utf-8").splitlines() if page.is_file() else []
    kept = [line for line in lines if line.startswith("| ") and "**" in line and find_name(line) not in names]
    versions = ", ".join(f"{name} {version}" for name, version in describe_environment()["versions"].items() if version)
    write_atomically(page, _HEAD.format(versions=versions) + "".join(f"{row}\n" for row in sorted([*kept, *rows])))


def find_name(row: str) -> str:
    """Returns the name of a row."""
    return row.split("|")[1].strip()
