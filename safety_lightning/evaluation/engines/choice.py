"""Which engine answers with a model in memory."""

from __future__ import annotations

from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safety_lightning.evaluation.engines.continuous_engine import ContinuousEngine
from safety_lightning.evaluation.engines.transformers_engine import TransformersEngine

LiveEngineName = Literal["transformers", "continuous"]


def choose_engine(device: torch.device) -> LiveEngineName:
    """Chooses continuous batching on a GPU, whose kernels it is made for, and the plain engine elsewhere."""
    return "continuous" if device.type == "cuda" else "transformers"


def make_engine(
    name: LiveEngineName,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int,
    dtype: str | None = None,
) -> TransformersEngine:
    """Makes an engine of its name; see `TransformersEngine` for the arguments, and for what it raises."""
    engine = ContinuousEngine if name == "continuous" else TransformersEngine
    return engine(model, tokenizer, batch_size=batch_size, dtype=dtype)
