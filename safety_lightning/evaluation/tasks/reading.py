"""Reads the prompts of a task, of which none may be dropped in silence."""

from __future__ import annotations

from dataclasses import replace

from safety_lightning.data import Example, InstructionSource, read_source, resolve_source
from safety_lightning.errors import UserError


def read_task_prompts(source: str | InstructionSource, *, seed: int) -> list[str]:
    """Reads prompts alone; see `read_task_examples`."""
    return [example.prompt for example in _read(source, seed=seed, with_responses=False)]


def read_task_examples(source: str | InstructionSource, *, seed: int) -> list[Example]:
    """Reads prompts with their responses.

    A fine-tune leaves rows without text out and counts them; in an evaluation they are an error, for its numbers
    would be of other cases than the file says.

    Args:
        source: A preset, a local file, a data set on the hub, or a source.
        seed: Seed of the draw, where the source has a ``size`` and no ``pick: first``.

    Raises:
        UserError: If the source cannot be read, lacks a column, has no rows, or has an empty line or cell.
    """
    return _read(source, seed=seed, with_responses=True)


def _read(source: str | InstructionSource, *, seed: int, with_responses: bool) -> list[Example]:
    reading = read_source(_open_source(source), seed=seed, kind="useful", with_responses=with_responses)
    check_blank(reading.first_blank, reading.num_blank)
    return reading.examples


def check_blank(first: str | None, number: int) -> None:
    """Raises UserError if rows without text were found, so many; the first is named."""
    if first is not None:
        raise UserError(f"each row of an evaluation must hold text, {first} ({number} in all)")


def _open_source(source: str | InstructionSource) -> InstructionSource:
    """Resolves a source; the lab is read from its test split unless the source says otherwise."""
    given = InstructionSource(path=source) if isinstance(source, str) and source.startswith("lab:") else source
    if isinstance(given, InstructionSource) and given.split is None:
        named = given.preset or given.path or ""
        if named.startswith("lab:"):
            given = replace(given, split="test")
    return resolve_source(given)
