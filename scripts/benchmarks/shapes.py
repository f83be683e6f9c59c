"""The shapes that are measured, written out as numbers: weights are random, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

Shape = Mapping[str, Any]

SMOLLM2: Shape = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SHALLOW_QWEN: Shape = {  # Qwen2.5-0.5B with two of its 24 layers and a small vocabulary
    "model_type": "qwen2",
    "vocab_size": 8000,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN_1_5B: Shape = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
QWEN_7B: Shape = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
TOY: Shape = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_config(shape: Shape) -> PreTrainedConfig:
    """Makes the configuration of a shape, of Llama's or of Qwen2's architecture."""
    settings = dict(shape)
    kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[settings.pop("model_type")]
    return kind(**settings)


def make_model(
    shape: Shape, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Makes a model with random weights where it will be used.

    Args:
        shape: Its shape.
        seed: Seed of the weights.
        device: Where they are made.
        dtype: Their dtype.
    """
    torch.manual_seed(seed)
    with torch.device(device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(make_config(shape), dtype=dtype)
    return model.train()


def list_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's tensors by name, tied ones once; no weights are made."""
    return {name: tuple(one.shape) for name, one in make_model(shape, device="meta").named_parameters()}
