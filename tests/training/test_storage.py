"""Models saved tensor by tensor have the names and numbers of the files that they were loaded from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)
from transformers.core_model_loading import Chunk, WeightConverter

from safety_lightning.checkpoints import load_model
from safety_lightning.errors import UserError
from safety_lightning.projection import locate
from safety_lightning.training.callbacks import SaveModel
from safety_lightning.training.lora import LoraSettings
from safety_lightning.training.storage import check_names, save_model, save_shared_model
from tests.training.conftest import draw_batches, fit, make_module

SIZES = {"vocab_size": 48, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    """Its files hold each expert's matrices, the live model stacks of them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(**SIZES, **sizes, num_key_value_heads=1, num_local_experts=3)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixtral")
    return tmp_path / "mixtral"


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """Its files name tensors without the prefix of the live model, as those on the hub."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=16, n_layer=1, n_head=2, n_positions=32))
    model.transformer.config.architectures = ["GPT2LMHeadModel"]
    model.transformer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def save_by_tensor(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    check_names(model)
    save_shared_model(model, None, folder, dtype=torch.float32, find=locate, writes=True)
    AutoModelForCausalLM.from_pretrained(folder)
    return read(folder)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def test_experts_are_stored_as_they_were(mixtral: Path, tmp_path: Path) -> None:
    assert any(".experts.2.w3." in name for name in read(mixtral))
    model = load_model(mixtral, dtype=torch.float32)
    assert_equal(save_by_tensor(model, tmp_path / "saved"), read(mixtral))
    save_model(model, None, tmp_path / "whole", dtype=torch.float32)
    assert_equal(read(tmp_path / "whole"), read(mixtral))


def test_names_without_a_prefix_are_the_same_in_both_ways(gpt2: Path, tmp_path: Path) -> None:
    model = load_model(gpt2, dtype=torch.float32)
    save_model(model, None, tmp_path / "whole", dtype=torch.float32)
    assert_equal(save_by_tensor(model, tmp_path / "saved"), read(tmp_path / "whole"))


def test_merged_mixture_has_its_references_names(
    mixtral: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety_lightning.training.callbacks.save_model.load_tokenizer", lambda reference: None)
    module = make_module(mixtral, lora=LoraSettings(r=2, target_modules=["q_proj"]))
    fit(module, draw_batches(2), tmp_path, callbacks=[SaveModel(str(tmp_path / "run"), merge=True)])
    start, merged = read(mixtral), read(tmp_path / "run" / "model")
    adapted = {name: tensor for name, tensor in merged.items() if "q_proj" in name}
    assert adapted
    assert not any(torch.equal(tensor, start[name]) for name, tensor in adapted.items())
    assert_equal(merged, start | adapted)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")


def test_tensors_joined_in_the_files_are_refused_before_training(
    pico_aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = WeightConverter(["mlp.both_proj.weight"], ["mlp.gate_proj.weight", "mlp.up_proj.weight"], [Chunk(dim=0)])
    module = make_module(pico_aligned, lora=LoraSettings(r=2, target_modules=["q_proj"]))
    load = module.configure_model

    def configure_model() -> None:
        load()
        module.model._weight_conversions = [joined]

    monkeypatch.setattr(module, "configure_model", configure_model)
    with pytest.raises(UserError, match=r"one live tensor each, model\.layers\.0\.mlp\.both_proj\.weight is made of"):
        fit(module, draw_batches(2), tmp_path, callbacks=[SaveModel(str(tmp_path / "run"), merge=True)])
    assert not (tmp_path / "run").exists()
