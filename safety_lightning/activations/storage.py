"""A folder of activations: safetensors shards of shape (P, L+1, D), and an index that says whose rows they are.

Shapes in this file: P = prompts, L = decoder layers, D = hidden size.
Layer 0 is the embedding output, layers 1 to L are the outputs of the decoder layers, all before the final norm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from safety_lightning.errors import NonFiniteError, UserError
from safety_lightning.files import hash_file, write_atomically
from safety_lightning.strict import check_record, parse_json

FORMAT = 2
INDEX_FILE = "index.json"
TENSOR = "hidden"

Token = Literal["prompt", "generated", "mean"]


@dataclass(frozen=True, kw_only=True)
class PromptRecord:
    """One prompt of a folder, and where its vectors are.

    Attributes:
        id: Unique in the folder.
        set: The prompt set that it belongs to.
        text_hash: SHA-256 of the prompt's text, in hexadecimal.
        num_tokens: How many tokens the prompt has, its template included.
        shard: The number of the file.
        row: The row in that file.
    """

    id: str
    set: str
    text_hash: str
    num_tokens: int
    shard: int
    row: int


@dataclass(frozen=True, kw_only=True)
class ActivationIndex:
    """What a folder holds and how it was made.

    Attributes:
        format: Version of the layout.
        model: The reference of the model, as it was given.
        model_hashes: SHA-256 of the model's weight files by name.
        num_layers: L, the number of decoder layers; there are L + 1 layers of vectors.
        hidden_size: D.
        token: Which token's vector it is: the prompt's last, the last generated, or the mean over the response.
        settings: Every other setting of the capture. Plain JSON.
        shards: SHA-256 of each shard by its name; `save_index` fills it.
        prompts: One record per prompt, in the order of the rows that `ActivationFolder.read_layer` returns.
    """

    format: int = FORMAT
    model: str
    model_hashes: Mapping[str, str]
    num_layers: int
    hidden_size: int
    token: Token
    settings: Mapping[str, Any]
    shards: Mapping[str, str] = field(default_factory=dict)
    prompts: Sequence[PromptRecord]


def name_shard(number: int) -> str:
    """Returns the file name of a shard.

    Example:
        >>> name_shard(7)
        'activations-00007.safetensors'
    """
    return f"activations-{number:05d}.safetensors"


def save_index(folder: Path, index: ActivationIndex) -> None:
    """Writes the index of a folder whose shards are all there, atomically, with hashes of them and of itself."""
    names = [name_shard(number) for number in sorted({one.shard for one in index.prompts})]
    content = asdict(index) | {"shards": {name: hash_file(folder / name) for name in names}}
    write_atomically(folder / INDEX_FILE, json.dumps({"sha256": hash_content(content), **content}, indent=1) + "\n")


class ActivationFolder:
    """Activations on disk, read a layer at a time.

    Args:
        path: The folder; or the run folder of a `predict`, whose one prompt set is meant, or the one of that name.
        name: The prompt set's name, for a run folder.

    Raises:
        UserError: If there is no index, it is of another format, damaged or holds no prompt, or a shard is missing,
            truncated or not the one that the index was written for.
    """

    def __init__(self, path: Path | str, *, name: str = "") -> None:
        self.path = find_activations(Path(path).expanduser(), name)
        self.index = _load_index(self.path)
        for number, rows in self._rows_by_shard.items():
            self._check_shard(number, rows)

    @property
    def num_prompts(self) -> int:
        """P, how many prompts there are."""
        return len(self.index.prompts)

    @property
    def num_layers(self) -> int:
        """L, the number of decoder layers: `read_layer` reads layers 0 to L."""
        return self.index.num_layers

    @property
    def hidden_size(self) -> int:
        """D, the width of a vector."""
        return self.index.hidden_size

    def read_layer(self, layer: int) -> Tensor:
        """Reads one layer's vectors.

        Args:
            layer: 0 for the embedding output, 1 to L for the decoder layers' outputs.

        Returns:
            float32, shape ``(P, D)``, rows in the order of ``index.prompts``.

        Raises:
            UserError: If there is no such layer, or a number in it is not finite.
        """
        if not 0 <= layer <= self.num_layers:
            raise UserError(f"layer must be in [0, {self.num_layers}], got {layer}")
        parts = {number: self._read_slice(number, layer) for number in self._rows_by_shard}
        hidden_PD = torch.stack([parts[one.shard][one.row] for one in self.index.prompts])
        check_finite(hidden_PD, layer, [one.id for one in self.index.prompts])
        return hidden_PD

    @cached_property
    def _rows_by_shard(self) -> dict[int, list[int]]:
        rows: dict[int, list[int]] = {}
        for prompt in self.index.prompts:
            rows.setdefault(prompt.shard, []).append(prompt.row)
        return rows

    def _check_shard(self, number: int, rows: Sequence[int]) -> None:
        """Raises UserError unless a shard is the one of the index, and has exactly the rows that the index lists."""
        file = self.path / name_shard(number)
        shape, dtype = read_shard_header(file)
        wanted = [len(rows), self.num_layers + 1, self.hidden_size]
        if shape != wanted or dtype != "F32" or sorted(rows) != list(range(len(rows))):
            raise UserError(
                f"{file} must hold float32 {tuple(wanted)} by its index, got {dtype} {tuple(shape)} for rows "
                f"{min(rows)} to {max(rows)}"
            )
        if hash_file(file) != self.index.shards.get(file.name):
            raise UserError(
                f"shard {file} must be the one that {INDEX_FILE} was written for, its content differs: capture it "
                "again by the same command"
            )

    def _read_slice(self, number: int, layer: int) -> Tensor:
        with safe_open(self.path / name_shard(number), framework="pt") as file:
            part: Tensor = file.get_slice(TENSOR)[:, layer]
        return part


def read_shard_header(file: Path) -> tuple[list[int], str]:
    """Reads the shape and the dtype of a shard.

    Raises:
        UserError: If the shard is missing, truncated, or no shard.
    """
    if not file.is_file():
        raise UserError(f"shard {file} must exist, it is missing: capture it again by the same command")
    try:
        with safe_open(file, framework="pt") as handle:
            part = handle.get_slice(TENSOR)
            return list(part.get_shape()), str(part.get_dtype())
    except SafetensorError as error:
        raise UserError(f"shard {file} is truncated or is no shard of activations: {error}") from error


def check_finite(hidden_PD: Tensor, layer: int, prompt_ids: Sequence[str]) -> None:
    """Checks vectors of one layer.

    Args:
        hidden_PD: Shape ``(P, D)``.
        layer: Which layer they are of.
        prompt_ids: Whose they are.

    Raises:
        NonFiniteError: If a number is NaN or infinite, naming the layer and the first such prompt.
    """
    bad = (~hidden_PD.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"activations must be finite, got NaN or infinity in layer {layer} of prompt {prompt_ids[bad[0]]} "
            f"({len(bad)} of {len(prompt_ids)} prompts)"
        )


def find_activations(folder: Path, name: str = "") -> Path:
    """Returns the folder with the index: the given one, or the one of a prompt set in a run folder of `predict`.

    Args:
        folder: What the user named.
        name: The prompt set that is meant, where there are several.

    Raises:
        UserError: If it is a run folder of several prompt sets, none of which has the name.
    """
    if (folder / INDEX_FILE).is_file():
        return folder
    patterns = (f"*/{INDEX_FILE}", f"activations/*/{INDEX_FILE}")
    found = sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})
    chosen = [one for one in found if one.name == name] or found
    if len(chosen) > 1:
        raise UserError(
            f"activation folder {folder} must be that of one prompt set, got those of {len(chosen)}: name "
            + " or ".join(str(one) for one in chosen)
        )
    return chosen[0] if chosen else folder


def _load_index(folder: Path) -> ActivationIndex:
    file = folder / INDEX_FILE
    if not file.is_file():
        raise UserError(f"activation folder {folder} must hold {INDEX_FILE}, it does not")
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} must be JSON, got an error: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise UserError(
            f"{file} must be an index of activations of format {FORMAT}, got {found!r}: capture them again by the same "
            "command"
        )
    if content.pop("sha256", None) != hash_content(content):
        raise UserError(f"{file} must be as it was written, its content differs from its own sha256")
    try:
        records = [_build(PromptRecord, one) for one in content["prompts"]]
        index: ActivationIndex = _build(ActivationIndex, content | {"prompts": records})
    except (KeyError, TypeError) as error:
        raise UserError(f"{file} must be an index of activations, got one where {error}") from error
    if not records:
        raise UserError(f"{file} must list at least one prompt, got none")
    ids = {one.id for one in records}
    if len(ids) < len(records):
        raise UserError(f"{file} must give each prompt an id of its own, got {len(ids)} ids for {len(records)}")
    return index


def hash_content(content: Mapping[str, Any]) -> str:
    """Returns the hash that an index carries of its own content, which comes without it."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _build(record: type, values: Any) -> Any:
    """Makes a dataclass of a JSON object that has its keys and no others, and values of their types.

    Raises:
        TypeError: If it is none.
    """
    wanted = {one.name for one in fields(record)}
    found = set(values) if isinstance(values, dict) else set()
    if found != wanted:
        raise TypeError(f"the keys must be {', '.join(sorted(wanted))}, got {', '.join(sorted(found))}")
    made = record(**values)
    check_record(made)
    return made
