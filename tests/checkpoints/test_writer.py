"""Files that are filled tensor by tensor read as if they had been saved whole."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_lightning.checkpoints import CheckpointReader, ShardWriter, TensorLayout

TENSORS = {
    "bias": torch.arange(3, dtype=torch.float16),
    "matrix": torch.randn(4, 5, generator=torch.Generator().manual_seed(0)),
    "experts": torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "scalar": torch.tensor(2.5),
    "ids": torch.arange(7),
    "mask": torch.tensor([True, False, True]),
}
CODES = {"bias": "F16", "matrix": "F32", "experts": "BF16", "scalar": "F32", "ids": "I64", "mask": "BOOL"}
LAYOUTS = [TensorLayout(name=name, shape=tuple(t.shape), code=CODES[name]) for name, t in TENSORS.items()]


@pytest.mark.parametrize("max_shard_bytes", [10**9, 100, 1])
def test_tensors_come_back(tmp_path: Path, max_shard_bytes: int) -> None:
    writer = ShardWriter(tmp_path, LAYOUTS, max_shard_bytes=max_shard_bytes)
    writer.create()
    for name in reversed(TENSORS):
        if name == "experts":
            for index in (1, 0):
                writer.write(name, TENSORS[name][index], index=index)
        else:
            writer.write(name, TENSORS[name])
    reader = CheckpointReader(tmp_path)
    assert len(reader.files) == {10**9: 1, 100: 3, 1: 6}[max_shard_bytes]
    assert sum(file.stat().st_size for file in reader.files) == writer.num_bytes
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(reader.read(name), tensor, rtol=0, atol=0)


def test_file_reads_like_the_librarys_own(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, LAYOUTS)
    writer.create()
    for name, tensor in TENSORS.items():
        writer.write(name, tensor)
    save_file(TENSORS, tmp_path / "whole.safetensors", metadata={"format": "pt"})
    ours, theirs = (load_file(tmp_path / name) for name in ("model.safetensors", "whole.safetensors"))
    for name in TENSORS:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize("system", ["Linux", "macOS"])
def test_files_that_lie_there_are_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system == "macOS":
        monkeypatch.delattr(os, "posix_fallocate")  # which it lacks
    for name in TENSORS:
        writer = ShardWriter(tmp_path, LAYOUTS)
        writer.create()
        assert (tmp_path / "model.safetensors").stat().st_size == writer.num_bytes  # its room is taken at once
        writer.write(name, TENSORS[name])
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        torch.testing.assert_close(tensor, TENSORS[name], rtol=0, atol=0)


def test_index_names_every_tensor(tmp_path: Path) -> None:
    ShardWriter(tmp_path, LAYOUTS, max_shard_bytes=1).create()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(TENSORS)
    assert index["metadata"]["total_size"] == sum(layout.num_bytes for layout in LAYOUTS)


def test_wrong_tensors_are_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, LAYOUTS)
    writer.create()
    with pytest.raises(ValueError, match=r"matrix must have shape \(4, 5\) and dtype F32, got \(5, 4\) and F32"):
        writer.write("matrix", TENSORS["matrix"].mT)
    with pytest.raises(ValueError, match=r"matrix must have shape \(4, 5\) and dtype F32, got \(4, 5\) and BF16"):
        writer.write("matrix", TENSORS["matrix"].bfloat16())
    with pytest.raises(ValueError, match="must have one name each, got 2 with 1 names"):
        ShardWriter(tmp_path, [LAYOUTS[0], LAYOUTS[0]])
