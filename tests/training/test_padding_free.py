"""Batches without padding: the losses and gradients of padded ones, and models that cannot are named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from safety_lightning.data import EncodedExample, collate_examples
from safety_lightning.data.batching import flatten_examples
from safety_lightning.errors import UserError
from safety_lightning.training.loss import Pace, check_apart, sum_token_losses
from tests.training.conftest import fit, make_module, read_weights

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "resid_pdrop": 0.0, "attn_pdrop": 0.0},
    "phi3": {},
}


def draw_examples(number: int, *, seed: int = 0) -> list[EncodedExample]:
    """Examples of 3 to 11 tokens."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(number):
        length = int(torch.randint(3, 12, (), generator=generator))
        ids = torch.randint(3, 48, (length,), generator=generator).tolist()
        prompt = int(torch.randint(1, length, (), generator=generator))
        examples.append(EncodedExample(input_ids=ids, num_prompt_tokens=prompt))
    return examples


def pad(examples: list[EncodedExample]) -> dict[str, Tensor]:
    return collate_examples(examples, pad_token_id=0)


def make_model(kind: str, attention: str = "sdpa", **settings: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SIZES | KINDS.get(kind, {}) | settings))
    # In float64 the eager form makes NaN of a padded row whose window is all padding.
    dtype = torch.float64 if attention == "sdpa" else torch.float32
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_those_of_padded_batches(kind: str, attention: str) -> None:
    model, examples = make_model(kind, attention).eval(), draw_examples(5)
    found = []
    for batch in (pad(examples), flatten_examples(examples)):
        model.zero_grad()
        loss_sum, num_tokens = sum_token_losses(model, batch)
        loss_sum.backward()
        gradients = {name: one.grad.clone() for name, one in model.named_parameters()}
        found.append((loss_sum.detach(), num_tokens, gradients))
    assert found[0][1] == found[1][1] == sum(one.num_trained_tokens for one in examples)
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)  # losses are taken in float32
    for name, gradient in found[0][2].items():
        torch.testing.assert_close(found[1][2][name], gradient, atol=1e-5, rtol=1e-4)


def test_examples_that_see_each_other_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    check_apart(model)
    assert model.training
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    with pytest.raises(UserError, match=r"data\.padding_free must have .* llama with attention sdpa does not"):
        check_apart(model)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}),  # takes positions and lets examples see each other
        ("bloom", {"n_head": 4, "n_layer": 2}),  # takes none
        ("mamba", {"state_size": 4}),
    ],
)
def test_models_that_mix_the_examples_of_a_row_are_named(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"by their positions, {kind} with attention eager does not"):
        check_apart(make_model(kind, "eager", **settings))


def test_fit_gives_the_weights_of_padded_batches(pico_base: Path, tmp_path: Path) -> None:
    groups = [draw_examples(size, seed=size) for size in (2, 3, 4, 1, 5)]
    found = []
    for collate in (pad, flatten_examples):
        module = make_module(pico_base)
        batches = [collate(group) for group in groups]
        fit(module, batches, tmp_path, accumulate_grad_batches=2, gradient_clip_val=0.5)
        found.append(read_weights(module.model))
    for name, weights in found[0].items():
        torch.testing.assert_close(found[1][name], weights, atol=5e-6, rtol=1e-5)


def test_pace_counts_what_is_trained_on() -> None:
    examples, paces = draw_examples(4), [Pace(), Pace()]
    for pace, batch in zip(paces, (pad(examples), flatten_examples(examples)), strict=True):
        pace.add(batch)
        pace.add(batch)
    for pace in paces:
        assert int(pace._num_tokens) == 2 * sum(len(one.input_ids) for one in examples)
        assert pace._num_samples == 8
