"""Folders of activations: reading them back, and refusing those that are not whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_lightning.activations.storage import (
    INDEX_FILE,
    ActivationFolder,
    ActivationIndex,
    PromptRecord,
    hash_content,
    name_shard,
    save_index,
)
from safety_lightning.errors import UserError
from safety_lightning.files import hash_file

NUM_LAYERS, HIDDEN_SIZE = 2, 4
PLACES = [(0, 1), (1, 0), (0, 0), (0, 2), (1, 1)]  # shard and row of each prompt


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(len(PLACES), NUM_LAYERS + 1, HIDDEN_SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, hidden: torch.Tensor) -> Path:
    for shard in (0, 1):
        rows = {row: at for at, (number, row) in enumerate(PLACES) if number == shard}
        tensor = torch.stack([hidden[rows[row]] for row in sorted(rows)])
        save_file({"hidden": tensor}, tmp_path / name_shard(shard))
    records = [
        PromptRecord(id=f"useful-{at}", set="useful", text_hash="0" * 64, num_tokens=3 + at, shard=shard, row=row)
        for at, (shard, row) in enumerate(PLACES)
    ]
    index = ActivationIndex(
        model="lab:base",
        model_hashes={"model.safetensors": "ab"},
        num_layers=NUM_LAYERS,
        hidden_size=HIDDEN_SIZE,
        token="prompt",
        settings={"batch_size": 2},
        prompts=records,
    )
    save_index(tmp_path, index)
    return tmp_path


def change_index(folder: Path, **changes: object) -> None:
    """Changes an index together with the hashes that it carries."""
    content = json.loads((folder / INDEX_FILE).read_text()) | {"shards": hash_shards(folder)} | changes
    del content["sha256"]
    (folder / INDEX_FILE).write_text(json.dumps({"sha256": hash_content(content), **content}))


def hash_shards(folder: Path) -> dict[str, str]:
    return {file.name: hash_file(file) for file in folder.glob("*.safetensors")}


def test_reads_layers_in_the_order_of_the_index(folder: Path, hidden: torch.Tensor) -> None:
    activations = ActivationFolder(folder)
    assert (activations.num_prompts, activations.num_layers, activations.hidden_size) == (5, 2, 4)
    assert activations.index.prompts[3] == PromptRecord(
        id="useful-3", set="useful", text_hash="0" * 64, num_tokens=6, shard=0, row=2
    )
    assert (activations.index.model, activations.index.token) == ("lab:base", "prompt")
    assert activations.index.settings == {"batch_size": 2}
    for layer in range(NUM_LAYERS + 1):
        assert torch.equal(activations.read_layer(layer), hidden[:, layer])
        assert activations.read_layer(layer).dtype == torch.float32


@pytest.mark.parametrize("layer", [-1, 3])
def test_refuses_a_layer_that_is_not_there(folder: Path, layer: int) -> None:
    with pytest.raises(ValueError, match=rf"layer must be in \[0, 2\], got {layer}"):
        ActivationFolder(folder).read_layer(layer)


def test_refuses_a_missing_shard(folder: Path) -> None:
    (folder / name_shard(1)).unlink()
    with pytest.raises(ValueError, match=r"shard .*activations-00001\.safetensors must exist, it is missing"):
        ActivationFolder(folder)


@pytest.mark.parametrize("num_bytes", [4, -8])
def test_refuses_a_truncated_shard(folder: Path, num_bytes: int) -> None:
    file = folder / name_shard(0)
    file.write_bytes(file.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"shard .*activations-00000\.safetensors is truncated or is no shard"):
        ActivationFolder(folder)


def test_refuses_a_shard_without_the_tensor(folder: Path) -> None:
    save_file({"other": torch.zeros(3, 3, 4)}, folder / name_shard(0))
    with pytest.raises(ValueError, match="is truncated or is no shard of activations"):
        ActivationFolder(folder)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_names_layer_and_prompt_of_what_is_not_finite(folder: Path, number: float) -> None:
    tensors = load_file(folder / name_shard(1))
    tensors["hidden"][1, 2, 3] = number
    save_file(tensors, folder / name_shard(1))
    change_index(folder)
    activations = ActivationFolder(folder)
    activations.read_layer(1)
    with pytest.raises(ValueError, match=r"NaN or infinity in layer 2 of prompt useful-4 \(1 of 5 prompts\)"):
        activations.read_layer(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, r"must hold float32 \(3, 4, 4\) by its index, got F32 \(3, 3, 4\)"),
        ({"hidden_size": 8}, r"must hold float32 \(3, 3, 8\) by its index"),
        ({"format": 1}, "must be an index of activations of format 2, got 1: capture them again"),
        ({"prompts": []}, "must list at least one prompt, got none"),
        ({"colour": 1}, "the keys must be format, hidden_size, .*, got colour, format"),
        ({"prompts": [{"id": "a"}]}, "the keys must be id, num_tokens, .*, got id"),
        ({"num_layers": "2"}, "num_layers must be a whole number, got '2'"),
    ],
)
def test_refuses_an_index_that_disagrees(folder: Path, changes: dict[str, object], message: str) -> None:
    change_index(folder, **changes)
    with pytest.raises(ValueError, match=message):
        ActivationFolder(folder)


def test_refuses_an_index_whose_rows_or_ids_are_not_unique(folder: Path) -> None:
    prompts = json.loads((folder / INDEX_FILE).read_text())["prompts"]
    change_index(folder, prompts=[one | {"row": 0} for one in prompts])
    with pytest.raises(ValueError, match="for rows 0 to 0"):
        ActivationFolder(folder)
    change_index(folder, prompts=[one | {"id": "same"} for one in prompts])
    with pytest.raises(ValueError, match="must give each prompt an id of its own, got 1 ids for 5"):
        ActivationFolder(folder)


def test_refuses_float16(folder: Path) -> None:
    save_file({"hidden": torch.zeros(3, 3, 4, dtype=torch.float16)}, folder / name_shard(0))
    with pytest.raises(ValueError, match=r"must hold float32 \(3, 3, 4\) by its index, got F16"):
        ActivationFolder(folder)


@pytest.mark.parametrize(("text", "message"), [(None, r"must hold index\.json, it does not"), ("{", "must be JSON")])
def test_refuses_a_folder_without_an_index(folder: Path, text: str | None, message: str) -> None:
    (folder / INDEX_FILE).unlink()
    if text is not None:
        (folder / INDEX_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        ActivationFolder(folder)


def test_refuses_a_shard_of_another_set(folder: Path) -> None:
    tensors = load_file(folder / name_shard(1))
    save_file({"hidden": tensors["hidden"] + 1}, folder / name_shard(1))
    with pytest.raises(UserError, match=r"activations-00001\.safetensors must be the one that index\.json was written"):
        ActivationFolder(folder)


def test_refuses_an_index_that_was_changed(folder: Path) -> None:
    text = (folder / INDEX_FILE).read_text()
    (folder / INDEX_FILE).write_text(text.replace('"row": 1', '"row": 7').replace('"row": 0', '"row": 1'))
    with pytest.raises(UserError, match="must be as it was written, its content differs from its own sha256"):
        ActivationFolder(folder)


def test_run_folder_stands_for_its_prompt_set(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run / "activations" / "useful", ignore=shutil.ignore_patterns("run"))
    assert ActivationFolder(run).path == run / "activations" / "useful"
    shutil.copytree(run / "activations" / "useful", run / "activations" / "harmful")
    assert ActivationFolder(run, name="harmful").path == run / "activations" / "harmful"
    with pytest.raises(UserError, match=r"must be that of one prompt set, got those of 2: name .*harmful or .*useful"):
        ActivationFolder(run)
