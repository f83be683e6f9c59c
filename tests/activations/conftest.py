"""Pico decoders of four architectures, and batches padded on either side."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from safety_lightning.activations.datamodule import PromptData
from safety_lightning.activations.writer import ActivationWriter
from safety_lightning.data import InstructionSource
from safety_lightning.lab import build_tokenizer
from tests.conftest import make_pico_llama

VOCABULARY, HIDDEN_SIZE, NUM_LAYERS = 50, 32, 3
LENGTHS = [3, 9, 5, 1]
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2),
    "gpt2": GPT2Config(**SHAPE),
    "gpt_neox": GPTNeoXConfig(**SHAPE),
}


def make_decoder(name: str, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name]).to(dtype).eval()


@pytest.fixture(params=CONFIGS)
def decoder(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_decoder(request.param)


def draw_sequences(lengths: list[int] = LENGTHS, *, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico Llama with the lab's tokenizer and chat template, and a context of 64 tokens."""
    tokenizer = build_tokenizer()
    folder = make_pico_llama(
        tmp_path_factory.mktemp("activations") / "model",
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_position_embeddings=64,
    )
    tokenizer.save_pretrained(folder)
    return folder


SETS: dict[str, str | InstructionSource] = {
    "useful": InstructionSource(preset="lab:useful", split="test", size=11),
    "harmful": InstructionSource(preset="lab:harmful", split="test", size=7),
}


def make_trainer(folder: Path | None, *, shard_megabytes: float = 0.0016, **options: object) -> L.Trainer:
    """Makes a Trainer for `predict`; by default a shard holds 4 prompts of the pico model."""
    callbacks = [ActivationWriter(str(folder), shard_megabytes=shard_megabytes)] if folder else []
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "callbacks": callbacks,
    }
    return L.Trainer(**(settings | options))


def make_data(model_folder: Path, sets: dict[str, str | InstructionSource] | None = None, **options: Any) -> PromptData:
    return PromptData(str(model_folder), SETS if sets is None else sets, **({"batch_size": 2} | options))
