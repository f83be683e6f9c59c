"""Adapters that PEFT made go in as updates and come out as adapters that PEFT loads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from safety_lightning.checkpoints import CheckpointReader, open_finetuned
from safety_lightning.errors import NonFiniteError
from safety_lightning.methods import Resta
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow
from safety_lightning.tables import read_parquet
from tests import reference as slow
from tests.conftest import make_pico_llama
from tests.sweep.conftest import add_noise
from tests.sweep.test_sweep import find_basis, read_weights, run

# inside PEFT (2026-11, peft 0.21, transformers 5.23)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def make_adapter(reference: Path, folder: Path, *, seed: int = 0, **options: Any) -> Path:
    """Trains nothing: draws the factors of a LoRA and saves it as PEFT does."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options}
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter) if "lora_" in name else 0.002)
    adapted.save_pretrained(folder)
    return folder


def merge(reference: Path, adapter: Path, folder: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    return folder


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 3}},
    "a module stored whole": {"modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", OPTIONS)
def test_adapter_is_its_merged_model(checkpoints: dict[str, Path], tmp_path: Path, name: str, side: str) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter", **OPTIONS[name])
    merged = merge(checkpoints["reference"], adapter, tmp_path / "merged")
    known = {**checkpoints, "adapter": adapter, "merged": merged}
    out = run(known, tmp_path / "out", ("adapter", "merged"), fractions=[0.5], save_models=["adapter/*"], side=side)
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    by_model = {
        model: {(row.name, row.source, row.component): row for row in rows if row.finetuned == model}
        for model in ("adapter", "merged")
    }
    assert 0 < len(by_model["adapter"]) < len(by_model["merged"])
    for key, row in by_model["adapter"].items():
        assert row.energy_kept == pytest.approx(by_model["merged"][key].energy_kept, abs=1e-5)
    for one in read_parquet(out / "energy.parquet", EnergyRow):
        if one.finetuned == "adapter":
            check_saved(known, out, one, side)


def check_saved(known: dict[str, Path], out: Path, row: EnergyRow, side: str) -> None:
    """Loads a saved adapter with PEFT and compares it with the projection of the merged weights."""
    folder = out / "models/adapter" / str(row.source) / str(row.component) / f"{row.fraction:g}"
    shapes = {name: tensor.shape for name, tensor in load_file(known["adapter"] / "adapter_model.safetensors").items()}
    assert shapes == {name: tensor.shape for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    model = AutoModelForCausalLM.from_pretrained(known["reference"], dtype=torch.float32)
    found = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
    base, reference, merged = (read_weights(known[name]) for name in ("base", "reference", "merged"))
    for name, start in reference.items():
        if name.endswith("norm.weight"):
            continue
        update = merged[name] - start
        if np.abs(update).max() == 0:
            np.testing.assert_array_equal(found[name].double().numpy(), start)
            continue
        basis = find_basis(name, start - base[name], row.source, row.fraction, side)
        expected = start + slow.project(update, basis, str(row.component), side)
        np.testing.assert_allclose(found[name].double().numpy(), expected, atol=3e-7)
    assert row.leak is not None
    assert row.leak < 1e-4


def test_a_method_that_leaves_the_factors_gives_merged_weights(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter")
    merged = merge(checkpoints["reference"], adapter, tmp_path / "merged")
    known = {**checkpoints, "adapter": adapter}
    methods = {"rivals": ["safe_lora", "resta"], "resta": Resta(scale=0.5)}
    out = run(known, tmp_path / "out", ("adapter",), save_models=["*/safe_lora", "*/resta"], **methods)
    base, reference, whole = (
        load_file(path / "model.safetensors") for path in (checkpoints["base"], checkpoints["reference"], merged)
    )
    stored = load_file(out / "models/adapter/resta/model.safetensors")
    for name in reference:
        expected = whole[name] + 0.5 * (reference[name] - base[name])
        torch.testing.assert_close(stored[name], expected, atol=3e-7, rtol=0)
    AutoModelForCausalLM.from_pretrained(out / "models/adapter/safe_lora")


def test_adapter_of_modules_that_store_input_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    known = {
        "base": tmp_path / "base",
        "reference": add_noise(tmp_path / "base", tmp_path / "reference", size=0.02, seed=1),
    }
    options = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    known["adapter"] = make_adapter(known["reference"], tmp_path / "adapter", **options)
    known["merged"] = merge(known["reference"], known["adapter"], tmp_path / "merged")
    out = run(known, tmp_path / "out", ("adapter", "merged"), sources=["top_k"], save_models=["*/parallel/0.5"])
    rows = read_parquet(out / "tensors.parquet", SweepMatrixRow)
    pairs: dict[tuple[Any, ...], dict[str, SweepMatrixRow]] = {}
    for row in rows:
        if row.kind == "c_attn":
            assert (row.rows, row.columns) == (48, 16)
            pairs.setdefault((row.component, row.fraction), {})[row.finetuned] = row
    for pair in pairs.values():
        assert pair["adapter"].energy_kept == pytest.approx(pair["merged"].energy_kept, abs=1e-5)
    model = AutoModelForCausalLM.from_pretrained(known["reference"], dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, out / "models/adapter/top_k/parallel/0.5").merge_and_unload()
    whole = load_file(out / "models/merged/top_k/parallel/0.5/model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    torch.testing.assert_close(adapted.state_dict()[name], whole[name], atol=3e-7, rtol=0)


def test_adapter_of_another_model_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reference = CheckpointReader(checkpoints["reference"])
    other = add_noise(checkpoints["reference"], tmp_path / "other", size=0.1, seed=9)
    with pytest.raises(ValueError, match=r"must be trained on the reference .* whose weights differ"):
        open_finetuned([str(make_adapter(other, tmp_path / "a"))], reference)
    wider = make_pico_llama(tmp_path / "wider", hidden_size=64)
    adapter = make_adapter(wider, tmp_path / "b")
    forget_base(adapter)
    with pytest.raises(ValueError, match=r"has shape \(32, 48\), the adapter's factors give \(64, 48\)"):
        open_finetuned([str(adapter)], reference)
    deeper = make_pico_llama(tmp_path / "deeper", num_hidden_layers=3)
    adapter = make_adapter(deeper, tmp_path / "c")
    forget_base(adapter)
    with pytest.raises(ValueError, match=r"must update tensors of .*, 2 are not there: model.layers.2"):
        open_finetuned([str(adapter)], reference)


def forget_base(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "must be a plain LoRA, got use_dora: True"),
        ({"bias": "lora_only"}, "must be a plain LoRA, got bias: 'lora_only'"),
        ({"target_modules": ["embed_tokens"]}, "must hold lora_A and lora_B weights of linear modules"),
    ],
)
def test_adapters_that_are_more_than_factors_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter", **options)
    with pytest.raises(ValueError, match=message):
        open_finetuned([str(adapter)], CheckpointReader(checkpoints["reference"]))


def test_broken_adapters_are_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    reference = CheckpointReader(checkpoints["reference"])
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if "lora_A" in name}, file)
    with pytest.raises(ValueError, match="must hold lora_A and lora_B of each module"):
        open_finetuned([str(adapter)], reference)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="is truncated or is no safetensors file"):
        open_finetuned([str(adapter)], reference)
    file.unlink()
    with pytest.raises(ValueError, match=r"must hold adapter_model\.safetensors"):
        open_finetuned([str(adapter)], reference)
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ValueError, match="must be a LoRA, got 'IA3'"):
        open_finetuned([str(adapter)], reference)


def test_skipped_matrix_keeps_its_factors(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    bad, other = (key for key in tensors if "layers.0.self_attn.q_proj" in key)
    tensors[bad][0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    known = {**checkpoints, "adapter": adapter}
    out = run(known, tmp_path / "out", ("adapter",), skip_bad=True, save_models=["*/top_k/parallel/0.5"])
    stored = load_file(out / "models/adapter/top_k/parallel/0.5/adapter_model.safetensors")
    for key in (bad, other):
        torch.testing.assert_close(stored[key], tensors[key], equal_nan=True)


def test_nan_in_a_factor_is_named(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"lora_A.weight of .* must be finite"):
        run({**checkpoints, "adapter": adapter}, tmp_path / "out", ("adapter",))


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}], ids=["factors", "whole"])
def test_hashes_of_an_adapter_are_of_finite_numbers(
    checkpoints: dict[str, Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    adapter = make_adapter(checkpoints["reference"], tmp_path / "adapter", **options)
    reference = CheckpointReader(checkpoints["reference"])
    [model] = open_finetuned([str(adapter)], reference)
    names = set(model.infos)
    assert model.hash_finite(names) == model.hash_files()
    tensors = load_file(adapter / "adapter_model.safetensors")
    spoiled = next(name for name in tensors if ("lm_head" in name) == bool(options))
    save_file({**tensors, spoiled: torch.full_like(tensors[spoiled], torch.nan)}, adapter / "adapter_model.safetensors")
    with pytest.raises(NonFiniteError, match="must be finite, it holds NaN or infinity"):
        model.hash_finite(names)
    assert model.hash_finite({"model.norm.weight"}) == model.hash_files()
