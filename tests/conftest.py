"""Pico models made once a session, without any network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the user's caches out of the tests."""
    monkeypatch.setenv("SAFETY_LIGHTNING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path_factory.getbasetemp() / "assets"))


def make_pico_llama(folder: Path, *, seed: int = 0, **overrides: object) -> Path:
    """Writes a Llama of 2 layers and hidden size 32."""
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "vocab_size": 48,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    LlamaForCausalLM(LlamaConfig(**(settings | overrides))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pico_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama with tied embeddings, float32."""
    return make_pico_llama(tmp_path_factory.mktemp("pico") / "base")


@pytest.fixture(scope="session")
def pico_aligned(pico_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico base plus a rank-2 delta in every matrix and a shift in every norm."""
    generator = torch.Generator().manual_seed(1)

    def add_delta(name: str, weights: torch.Tensor) -> torch.Tensor:
        if weights.ndim == 1:
            return weights + 0.01 * torch.randn(weights.shape, generator=generator)
        left, right = (torch.randn(size, 2, generator=generator) for size in weights.shape)
        return weights + 0.01 * left @ right.mT

    return copy_checkpoint(pico_base, tmp_path_factory.mktemp("pico") / "aligned", add_delta)


def copy_checkpoint(source: Path, target: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """Copies a model folder with every tensor changed."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (target / file.name).write_bytes(file.read_bytes())
    tensors = {
        name: change(name, tensor).contiguous() for name, tensor in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target
