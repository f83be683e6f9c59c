"""Reading checkpoints lazily, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from safety_lightning.checkpoints import CheckpointReader, load_model, locate_model, split_revision
from tests.conftest import copy_checkpoint


@pytest.fixture
def sharded(pico_base: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(pico_base).save_pretrained(folder, max_shard_size="20KB")
    return folder


def test_shards_read_like_one_file(pico_base: Path, sharded: Path) -> None:
    one, many = CheckpointReader(pico_base), CheckpointReader(sharded)
    assert len(one.files) == 1
    assert len(many.files) > 1
    assert set(one.infos) == set(many.infos)
    for name in one.infos:
        assert torch.equal(one.read(name), many.read(name))
        assert one.infos[name].shape == tuple(one.read(name).shape)


def test_absent_shard_is_named(sharded: Path) -> None:
    victim = CheckpointReader(sharded).files[0]
    victim.unlink()
    with pytest.raises(ValueError, match=rf"names 1 absent file\(s\): {victim.name}"):
        CheckpointReader(sharded)


def test_index_that_disagrees_with_its_shards_is_named(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    name = next(iter(content["weight_map"]))
    content["weight_map"]["stranger.weight"] = content["weight_map"].pop(name)
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must name the same tensors, 2 differ: .*stranger\.weight"):
        CheckpointReader(sharded)


def test_truncated_file_is_named(pico_base: Path, tmp_path: Path) -> None:
    folder = copy_checkpoint(pico_base, tmp_path / "cut", lambda name, tensor: tensor)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut/model\.safetensors is truncated"):
        CheckpointReader(folder)


def test_pickle_is_refused_with_the_way_to_convert(pico_base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((pico_base / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"holds pickled weights \(pytorch_model\.bin\).*save_pretrained\(NEW_FOLDER\)"
    ):
        load_model(tmp_path, dtype=torch.float32)


def test_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold model\.safetensors or model\.safetensors\.index\.json"):
        CheckpointReader(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite_is_named(pico_base: Path, tmp_path: Path, number: float) -> None:
    def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "model.norm.weight":
            tensor[3] = number
        return tensor

    reader = CheckpointReader(copy_checkpoint(pico_base, tmp_path / "bad", poison))
    with pytest.raises(ValueError, match=r"tensor model\.norm\.weight of .*bad must be finite, got 1 NaN or infinite"):
        reader.read_finite("model.norm.weight")


def test_hashes_follow_the_contents(pico_base: Path, pico_aligned: Path, tmp_path: Path) -> None:
    copy = copy_checkpoint(pico_base, tmp_path / "copy", lambda name, tensor: tensor)
    assert CheckpointReader(pico_base).hash_files() == CheckpointReader(copy).hash_files()
    assert CheckpointReader(pico_base).hash_files() != CheckpointReader(pico_aligned).hash_files()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("./nowhere", r"model folder \./nowhere does not exist"),
        ("/no/such/folder", "model folder /no/such/folder does not exist"),
        ("lab:alined", r"lab model must be one of .*got lab:alined; did you mean lab:aligned\?"),
        ("nobody/nothing@v1", r"model nobody/nothing@v1 is no local folder, and the hub did not give it"),
    ],
)
def test_reference_that_leads_nowhere_is_named(reference: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        locate_model(reference)


def test_references_are_resolved(pico_base: Path) -> None:
    assert locate_model(pico_base) == pico_base
    assert locate_model("lab:base").name == "base"
    assert split_revision("org/name@abc") == ("org/name", "abc")


def test_model_is_loaded_in_the_dtype_asked_for(pico_base: Path, tmp_path: Path) -> None:
    half = copy_checkpoint(pico_base, tmp_path / "half", lambda name, tensor: tensor.bfloat16())
    assert load_model(half, dtype=torch.float32).dtype == torch.float32


def test_run_folder_of_a_fit_stands_for_its_model(pico_base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a run folder that holds no model/"):
        locate_model(run)
    shutil.copytree(pico_base, run / "models" / "useful" / "top_k")
    with pytest.raises(ValueError, match=r"is a run folder of 1: name .*models/useful/top_k"):
        locate_model(run)
    shutil.copytree(pico_base, run / "model")
    assert locate_model(run) == run / "model"
