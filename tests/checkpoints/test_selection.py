"""Which tensors take part, how they are seen as matrices, and pairs that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from safety_lightning.checkpoints import (
    CheckpointReader,
    check_pair,
    find_slots,
    iterate_deltas,
    select_names,
    select_slots,
)
from tests.conftest import copy_checkpoint

NAMES = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]


def test_every_floating_tensor_takes_part_and_tied_weights_once(pico_base: Path) -> None:
    reader = CheckpointReader(pico_base)
    slots = select_slots(reader)
    assert {slot.tensor for slot in slots} == set(reader.infos)
    assert "lm_head.weight" not in {slot.tensor for slot in slots}


def test_stored_copy_of_a_tied_output_layer_is_left_out(pico_base: Path, tmp_path: Path) -> None:
    folder = copy_checkpoint(pico_base, tmp_path / "twice", lambda name, tensor: tensor)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["counter"] = torch.arange(3)
    save_file(tensors, folder / "model.safetensors")
    names = {slot.tensor for slot in select_slots(CheckpointReader(folder))}
    assert "lm_head.weight" not in names
    assert "counter" not in names  # not floating: passes through
    check_pair(
        CheckpointReader(pico_base), CheckpointReader(copy_checkpoint(pico_base, tmp_path / "c", lambda n, t: t))
    )


def test_vectors_can_be_left_alone(pico_base: Path) -> None:
    slots = select_slots(CheckpointReader(pico_base), vectors="skip")
    assert slots
    assert not any(slot.is_vector for slot in slots)


def test_patterns_choose() -> None:
    assert select_names(NAMES, include=["*layers*", "*norm*"], exclude=["*norm*"]) == NAMES[1:2]


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        (["*q_proj*"], [], r"pattern '\*q_proj\*' must match a tensor, it matches none \(there is \['model"),
        (["*"], ["*experts*"], r"pattern '\*experts\*' must match a tensor"),
        (["*"], ["model*"], "must leave a tensor, they leave none"),
    ],
)
def test_pattern_that_matches_nothing_is_named(include: list[str], exclude: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select_names(NAMES, include=include, exclude=exclude)


@pytest.mark.parametrize(
    ("name", "shape", "model_type", "sizes"),
    [
        ("a.weight", (4, 3), "llama", [(4, 3)]),
        ("a.bias", (4,), "llama", [(4, 1)]),
        ("scale", (), "llama", [(1, 1)]),
        ("mlp.experts.down_proj", (2, 4, 3), "mixtral", [(4, 3), (4, 3)]),
        ("mlp.experts.down_proj", (2, 4, 3), "gpt_oss", [(3, 4), (3, 4)]),
        ("h.0.attn.c_attn.weight", (3, 9), "gpt2", [(9, 3)]),
        ("h.0.attn.c_attn.weight", (9, 3), "gpt_bigcode", [(9, 3)]),
        ("conv.weight", (4, 3, 2, 2), "llama", [(4, 12)]),
        ("empty", (0, 3), "llama", []),
    ],
)
def test_matrix_views(name: str, shape: tuple[int, ...], model_type: str, sizes: list[tuple[int, int]]) -> None:
    slots = find_slots(name, shape, model_type=model_type)
    tensor = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    assert [(slot.rows, slot.columns) for slot in slots] == sizes
    for slot in slots:
        view = slot.view(tensor)
        assert tuple(view.shape) == (slot.rows, slot.columns)
        view.add_(1)  # writing to the view writes to the tensor
    expected = torch.arange(float(tensor.numel())).reshape(shape) + 1
    assert torch.equal(tensor, expected)


def test_left_is_the_output_side_of_conv1d(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=16))
    model.save_pretrained(tmp_path)
    slots = {slot.tensor: slot for slot in select_slots(CheckpointReader(tmp_path))}
    slot = slots["transformer.h.0.attn.c_attn.weight"]
    inputs = torch.randn(5, 8)
    layer = model.transformer.h[0].attn.c_attn
    expected = inputs @ slot.view(layer.weight.data).mT + layer.bias
    torch.testing.assert_close(layer(inputs), expected)
    assert (slot.kind, slot.layer) == ("c_attn", 0)
    assert slots["transformer.h.0.attn.c_attn.bias"].kind == "c_attn.bias"


def test_deltas_are_reference_minus_base(pico_base: Path, pico_aligned: Path) -> None:
    base, aligned = CheckpointReader(pico_base), CheckpointReader(pico_aligned)
    slots = select_slots(aligned)
    for slot, delta in iterate_deltas(base, aligned, slots):
        assert torch.equal(delta, slot.view(aligned.read(slot.tensor) - base.read(slot.tensor)))
        if not slot.is_vector:
            assert torch.linalg.matrix_rank(delta, rtol=1e-4) == 2


def test_names_that_differ_are_named_and_counted(pico_base: Path, tmp_path: Path) -> None:
    other = rewrite(pico_base, tmp_path / "other", lambda tensors: tensors | {"extra.weight": torch.ones(2)})
    with pytest.raises(ValueError, match=r"same tensors, got 0 only in .* and 1 only in .*other \(extra\.weight\)"):
        check_pair(CheckpointReader(pico_base), CheckpointReader(other))


def test_architectures_that_differ_are_named(pico_base: Path, tmp_path: Path) -> None:
    other = rewrite(pico_base, tmp_path / "other", lambda tensors: tensors)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "qwen2"}))
    with pytest.raises(ValueError, match=r"must be of one architecture, got llama .* and qwen2"):
        check_pair(CheckpointReader(pico_base), CheckpointReader(other))


def test_resized_vocabulary_is_offered_the_common_rows(pico_base: Path, pico_aligned: Path, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    wider = rewrite(pico_aligned, tmp_path / "wide", lambda t: t | {name: torch.cat([t[name], torch.ones(4, 32)])})
    base, reference = CheckpointReader(pico_base), CheckpointReader(wider)
    with pytest.raises(ValueError, match=r"1 tensors differ: model\.embed_tokens\.weight .*common_rows: true"):
        check_pair(base, reference)
    check_pair(base, reference, common_rows=True)
    slots = [slot for slot in select_slots(reference) if slot.tensor == name]
    ((_, delta),) = iterate_deltas(base, reference, slots)
    assert delta.shape == (52, 32)
    assert delta[:48].any()
    assert not delta[48:].any()


def test_other_shapes_are_not_offered_common_rows(pico_base: Path, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    other = rewrite(pico_base, tmp_path / "other", lambda tensors: tensors | {name: torch.ones(48, 31)})
    with pytest.raises(ValueError, match=rf"{name} \(48, 32\) and \(48, 31\)$"):
        check_pair(CheckpointReader(pico_base), CheckpointReader(other), common_rows=True)


def rewrite(source: Path, target: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    copy_checkpoint(source, target, lambda name, tensor: tensor)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", metadata={"format": "pt"})
    return target
