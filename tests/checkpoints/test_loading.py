"""Models are loaded whole or not at all; what lies outside a model's folder is not read."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safety_lightning.checkpoints import (
    CheckpointReader,
    check_model,
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
)
from safety_lightning.errors import UserError

LAB = locate_model("lab:aligned")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(LAB, tmp_path / "model")
    return tmp_path / "model"


def configure(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | values))

    return change


def change_tensors(change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        file = folder / "model.safetensors"
        tensors = dict(change(name, tensor) for name, tensor in load_file(file).items())
        save_file(tensors, file, metadata={"format": "pt"})

    return act


def add_output(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = 2 * tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def move_outside(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return act


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (configure(num_hidden_layers=2), r"must hold the weights that its config.json describes.* 9 left over \(model"),
        (configure(num_hidden_layers=4), "it describes 4 layers and the files hold 3"),
        (configure(tie_word_embeddings=False), r"1 missing \(lm_head.weight\)"),
        (configure(intermediate_size=128), r"9 of another shape \(model.layers.0.mlp.down_proj.weight \(96, 256\) for"),
        (configure(model_type="gpt2"), "got model_type gpt2 and architecture LlamaForCausalLM, which is of llama"),
        (configure(vocab_size=10**12), "1 of another shape"),
        (configure(hidden_act="unheard"), "must describe a causal language model, it is not: KeyError: 'unheard'"),
        (configure(rms_norm_eps=0.0), "rms_norm_eps of .* must be a number above 0, got 0.0"),
        (configure(attention_dropout=7.0), r"attention_dropout of .* must be in \[0, 1\), got 7"),
        (configure(eos_token_id=304), "eos_token_id of .* must be below the vocabulary's 304, got 304"),
        (configure(transformers_weights="../x"), "must describe plain weights in the folder's own files"),
        (configure(quantization_config={"quant_method": "fp8"}), "must describe plain weights"),
        (add_output, "must store .* alike, for its config.json says tie_word_embeddings: true"),
        (change_tensors(lambda n, t: (n, t.to(torch.int8))), "must hold floating weights, .* is I8"),
        (change_tensors(lambda n, t: (n, t / 0)), "must be finite, it holds NaN or infinite numbers"),
        (lambda folder: (folder / "config.json").write_text('{"a": NaN}'), "numbers must be finite, got NaN"),
        (lambda folder: (folder / "config.json").write_text('{"a": 1e999}'), "numbers must be finite, got 1e999"),
        (lambda folder: (folder / "config.json").write_text('{"a": 1, "a": 2}'), "key 'a' stands there twice"),
        (lambda folder: (folder / "config.json").unlink(), "must hold config.json, it does not"),
        (lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json must be JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "must be a whole model, it is an adapter"),
        (move_outside("model.safetensors"), "must lie in its folder, it is a link to .*: copy the file"),
        (move_outside("config.json"), "must lie in its folder, it is a link to"),
    ],
)
def test_damage_is_one_line(model: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(model)
    with pytest.raises(UserError, match=message) as caught:
        load_model(model, dtype=torch.float32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("layers.0.", "layers.0._orig_mod."),
    ],
)
def test_names_of_wrapped_models_are_mended_and_said(
    model: Path, rename: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    change_tensors(lambda name, tensor: (rename(name), tensor))(model)
    with caplog.at_level(logging.WARNING):
        found = load_model(model, dtype=torch.float32).state_dict()
    wanted = load_model(LAB, dtype=torch.float32).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert set(CheckpointReader(model).infos) == set(CheckpointReader(LAB).infos)
    assert "is read as model.embed_tokens.weight" in caplog.text or "layers.0" in caplog.text


def test_wrapped_model_is_saved_without_its_wrapper(model: Path, tmp_path: Path) -> None:
    change_tensors(lambda name, tensor: (f"_orig_mod.{name}", tensor))(model)
    load_model(model, dtype=torch.float32).save_pretrained(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved" / "model.safetensors")) == set(load_file(LAB / "model.safetensors"))


def test_what_is_loaded_is_what_was_hashed(model: Path) -> None:
    checkpoint = check_model(model)
    checkpoint.hash_files()
    load_model(checkpoint, dtype=torch.float32)
    change_tensors(lambda name, tensor: (name, 2 * tensor))(model)
    with pytest.raises(UserError, match="it changed since it was opened"):
        load_model(checkpoint, dtype=torch.float32)
    with pytest.raises(UserError, match="it changed since it was opened"):
        checkpoint.hash_files()


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(LAB.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        assert load_model(folder, dtype=torch.float32).config.model_type == "llama"
        assert load_tokenizer(folder).pad_token == "<|pad|>"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_tokenizer_lies_in_its_folder(model: Path, name: str) -> None:
    move_outside(name)(model)
    with pytest.raises(UserError, match=f"{name} must lie in its folder"):
        load_tokenizer(model)
    (model / name).unlink()
    (model / name).symlink_to(model / name)
    with pytest.raises(UserError, match="it is a link that leads nowhere"):
        load_tokenizer(model)


def test_a_tokenizer_of_another_model_is_named(model: Path) -> None:
    configure(vocab_size=100)(model)
    with pytest.raises(UserError, match="must have ids below the model's 100, its largest token has 303"):
        load_tokenizer(model)


def test_a_missing_folder_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("models/mine", "models/mine/", "a b/c", "nowhere/model.safetensors"):
        with pytest.raises(UserError, match=f"model folder {name} does not exist"):
            locate_model(name)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="is a link that leads to none"):
        load_config("loop")
