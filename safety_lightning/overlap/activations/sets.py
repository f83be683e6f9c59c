"""Opens the folders of activations that are compared, and checks that they are of one kind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from tqdm import tqdm

from safety_lightning.activations.storage import ActivationFolder, PromptRecord
from safety_lightning.errors import NonFiniteError, UserError
from safety_lightning.overlap.parts import Pair
from safety_lightning.profiles import CAPTURE_SETTINGS

_SET_MARK = "#"


@dataclass(frozen=True)
class ActivationSet:
    """One set of prompts of a folder.

    Attributes:
        folder: Where its activations are.
        rows: Which of the folder's prompts belong to it.
    """

    folder: ActivationFolder
    rows: list[int]

    @property
    def prompts(self) -> list[PromptRecord]:
        """The records of the set's prompts."""
        return [self.folder.index.prompts[row] for row in self.rows]

    def read_layer(self, layer: int) -> Tensor:
        """Reads one layer's vectors, float32, shape ``(P, D)``."""
        hidden = self.folder.read_layer(layer)
        return hidden if len(self.rows) == len(hidden) else hidden[self.rows]

    def describe(self) -> dict[str, Any]:
        """Returns what determines the vectors: hashes of the folder's files, and which prompts are taken."""
        return {"files": dict(self.folder.index.shards), "prompts": [one.id for one in self.prompts]}


class ActivationSets:
    """The sets that are compared, with the pairs of them.

    Args:
        places: Folders by the sets' names. ``DIR#SET`` takes one prompt set of a folder that holds several; of such a
            folder, a name that is one of its prompt sets stands for it.

    Raises:
        UserError: If there are not two sets, a folder is not whole, a set has fewer than two prompts, or folders
            differ in model, layers, hidden size or token.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        if len(places) < 2:
            raise UserError(f"sets must be at least two, got {list(places) or 'none'}")
        self.sets = {name: _open_set(name, place) for name, place in places.items()}
        self.pairs: list[Pair] = list(itertools.combinations(self.sets, 2))
        for first, second in self.pairs:
            _check_fit(first, self.sets[first].folder, second, self.sets[second].folder)

    @property
    def num_layers(self) -> int:
        """L, the model's number of decoder layers."""
        return next(iter(self)).folder.num_layers

    def check(self) -> None:
        """Reads every layer once.

        Raises:
            NonFiniteError: If a number is NaN or infinite, naming the layer and the prompt.
        """
        for layer in tqdm(range(self.num_layers + 1), desc="Checking", unit="layer", delay=1):
            for name, one in self.sets.items():
                try:
                    one.folder.read_layer(layer)
                except NonFiniteError as error:
                    raise NonFiniteError(f"set {name} ({one.folder.path}): {error}") from error

    def read_layer(self, layer: int) -> dict[str, Tensor]:
        """Reads one layer's vectors of every set, float32, shape ``(P, D)``."""
        return {name: one.read_layer(layer) for name, one in self.sets.items()}

    def describe(self) -> dict[str, Any]:
        """Returns what determines the vectors of every set."""
        return {name: one.describe() for name, one in self.sets.items()}

    def read_captures(self) -> dict[str, Any]:
        """Returns the settings of the capture in which profiles part, and the token; ``a / b`` where sets differ."""
        captures = [{"token": one.folder.index.token, **_read_capture(one.folder.index.settings)} for one in self]
        keys = dict.fromkeys(key for capture in captures for key in capture)
        return {key: _join_distinct([capture.get(key) for capture in captures]) for key in keys}

    def __iter__(self) -> Iterator[ActivationSet]:
        return iter(self.sets.values())

    def count_shared(self, pair: Pair) -> int:
        """Counts the prompts whose text is in both sets."""
        first, second = ({one.text_hash for one in self.sets[name].prompts} for name in pair)
        return len(first & second)


def _open_set(name: str, place: str) -> ActivationSet:
    path, _, wanted = place.partition(_SET_MARK)
    folder = ActivationFolder(path, name=wanted or name)
    found = list(dict.fromkeys(one.set for one in folder.index.prompts))
    if wanted and wanted not in found:
        raise UserError(f"set {name} must be one of the prompt sets of {path} ({', '.join(found)}), got {wanted}")
    taken = wanted or (name if name in found else "")
    rows = [at for at, one in enumerate(folder.index.prompts) if not taken or one.set == taken]
    if len(rows) < 2:
        raise UserError(f"set {name} must have at least two prompts, got {len(rows)} in {place}")
    return ActivationSet(folder, rows)


def _check_fit(first: str, folder_a: ActivationFolder, second: str, folder_b: ActivationFolder) -> None:
    a, b = folder_a.index, folder_b.index
    if dict(a.model_hashes) != dict(b.model_hashes):
        raise UserError(
            f"sets {first} and {second} must be of one model, got {a.model} and {b.model}, whose weights differ"
        )
    for what in ("num_layers", "hidden_size", "token"):
        if getattr(a, what) != getattr(b, what):
            raise UserError(
                f"sets {first} and {second} must have the same {what}, got {getattr(a, what)} and {getattr(b, what)}"
            )


def _read_capture(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a folder says of the settings in which profiles part, by the names that reports call them."""
    keys = {setting.name: setting.key.rsplit(".", 1)[-1] for setting in CAPTURE_SETTINGS}
    return {name: settings[key] for name, key in keys.items() if settings.get(key) is not None}


def _join_distinct(values: list[Any]) -> Any:
    distinct = [value for at, value in enumerate(values) if value not in values[:at]]
    return distinct[0] if len(distinct) == 1 else " / ".join(str(value) for value in distinct)
