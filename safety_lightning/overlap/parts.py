"""The parts in which a run is measured, a JSON file each, so that a killed run resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tqdm import tqdm

from safety_lightning.files import PartStore
from safety_lightning.subspaces import Overlap

Pair = tuple[str, str]
Measure = TypeVar("Measure")


def measure_parts(
    store: PartStore,
    names: Sequence[str],
    measure: Callable[[Sequence[int]], Iterable[Any]],
    *,
    label: str,
    unit: str,
) -> list[Any]:
    """Measures the parts that an earlier start of the run has not measured.

    Args:
        store: Where the parts are kept.
        names: The names of all parts.
        measure: Yields the measures of the parts whose numbers it is given, in their order.
        label: What the progress bar says.
        unit: What a part is.

    Returns:
        All parts in the order of their names, as `pack` makes them.
    """
    packed = [store.read(name) for name in names]
    waiting = [at for at, part in enumerate(packed) if part is None]
    done = len(names) - len(waiting)
    with tqdm(total=len(names), initial=done, desc=label, unit=unit, delay=1) as progress:
        for at, found in zip(waiting, measure(waiting), strict=True):
            packed[at] = pack(found)
            store.write(names[at], packed[at])
            progress.update()
    return packed


def pack(measure: Any) -> Any:
    """Makes plain JSON of a measure: an object of a dataclass, ``[first, second, value]`` of each pair of a mapping.

    Example:
        >>> pack({("a", "b"): [Overlap(eta=0.5, k_a=1, k_b=2, dimension=4, mso=1.0)]})
        [['a', 'b', [{'eta': 0.5, 'k_a': 1, 'k_b': 2, 'dimension': 4, 'mso': 1.0}]]]
    """
    if dataclasses.is_dataclass(measure):
        return {name: pack(value) for name, value in vars(measure).items()}
    if isinstance(measure, Mapping):
        return [[*pair, pack(value)] for pair, value in measure.items()]
    return [pack(value) for value in measure] if isinstance(measure, list | tuple) else measure


def unpack_pairs(packed: Sequence[Sequence[Any]], unpack: Callable[[Any], Measure]) -> dict[Pair, Measure]:
    """Makes a mapping by pairs of what `pack` made of it, its values by ``unpack``."""
    return {(first, second): unpack(value) for first, second, value in packed}


def unpack_overlaps(packed: Sequence[Mapping[str, Any]]) -> list[Overlap]:
    """Makes overlaps of what `pack` made of them."""
    return [Overlap(**one) for one in packed]
