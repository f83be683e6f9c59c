"""Matches prompt sets by token length, so that a difference between them is not one of length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator, shuffle_range


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Which prompts of each set have counterparts in all others.

    Attributes:
        members: For each set, the indices of its prompts; the prompts at one place of all lists are counterparts.
        num_matched: How many prompts of each set have counterparts, before any draw.
        num_unmatched: For each set, how many prompts have none.
    """

    members: Mapping[str, list[int]]
    num_matched: int
    num_unmatched: Mapping[str, int]


def match_lengths(
    lengths: Mapping[str, Sequence[int]], *, tolerance_tokens: int = 0, num_prompts: int | None = None, seed: int
) -> Matching:
    """Matches prompts of several sets one to one, as many as can be.

    The prompts of each set are sorted by length, those of one length in random order. The shortest of each set are
    compared: when the longest of them has at most ``tolerance_tokens`` more than the shortest they are counterparts,
    and otherwise the shortest has none. No other way of matching within the tolerance matches more.

    Args:
        lengths: Token lengths of each set's prompts, for at least two sets.
        tolerance_tokens: How far the lengths of counterparts may lie apart, at least 0.
        num_prompts: How many to draw of the matched ones; None keeps them all.
        seed: Seed of the random order and of the draw.

    Returns:
        The matching; without a draw its counterparts are sorted by length.

    Raises:
        UserError: If there are fewer than two sets, the tolerance is negative, or fewer prompts are matched than
            asked for (or none).

    Example:
        >>> match_lengths({"a": [5, 9, 2], "b": [8, 3, 20, 30]}, tolerance_tokens=1, seed=0).members
        {'a': [2, 1], 'b': [1, 0]}
    """
    if len(lengths) < 2:
        raise UserError(f"match_lengths must have at least two sets to match, got {len(lengths)}")
    if tolerance_tokens < 0:
        raise UserError(f"match_tolerance_tokens must be at least 0, got {tolerance_tokens}")
    groups = _match_sorted({name: _sort(name, of_set, seed) for name, of_set in lengths.items()}, tolerance_tokens)
    _check_enough(groups, lengths, tolerance_tokens, num_prompts)
    drawn = groups
    if num_prompts is not None:
        order = shuffle_range(len(groups), seed_generator(f"matched/{seed}"))
        drawn = [groups[index] for index in order[:num_prompts]]
    return Matching(
        members={name: [group[at] for group in drawn] for at, name in enumerate(lengths)},
        num_matched=len(groups),
        num_unmatched={name: len(of_set) - len(groups) for name, of_set in lengths.items()},
    )


def _check_enough(
    groups: list[list[int]], lengths: Mapping[str, Sequence[int]], tolerance_tokens: int, num_prompts: int | None
) -> None:
    within = f"within {tolerance_tokens} tokens"
    if not groups:
        spans = ", ".join(f"{name} has {min(of_set)} to {max(of_set)}" for name, of_set in lengths.items())
        raise UserError(f"prompt sets must match in token length {within}, no prompts do: {spans}")
    if num_prompts is not None and num_prompts > len(groups):
        sizes = ", ".join(f"{len(of_set)} of {name}" for name, of_set in lengths.items())
        raise UserError(
            f"num_prompts must be at most {len(groups)}, the prompts of each set that match in token length {within} "
            f"(out of {sizes}), got {num_prompts}"
        )


def _sort(name: str, lengths: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Returns length and index of a set's prompts by rising length, ties in random order."""
    order = shuffle_range(len(lengths), seed_generator(f"match {name}/{seed}"))
    return sorted(((lengths[index], index) for index in order), key=lambda pair: pair[0])


def _match_sorted(ordered: Mapping[str, list[tuple[int, int]]], tolerance_tokens: int) -> list[list[int]]:
    """Returns groups of indices, one index per set."""
    columns, heads = list(ordered.values()), [0] * len(ordered)
    groups = []
    while all(head < len(column) for head, column in zip(heads, columns, strict=True)):
        first = [column[head] for head, column in zip(heads, columns, strict=True)]
        shortest = min(length for length, _ in first)
        if max(length for length, _ in first) - shortest <= tolerance_tokens:
            groups.append([index for _, index in first])
            heads = [head + 1 for head in heads]
        else:
            heads = [head + (length == shortest) for head, (length, _) in zip(heads, first, strict=True)]
    return groups
