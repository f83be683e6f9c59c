"""One pass over a prompt and all its continuations gives what a pass for each gives."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safety_lightning.evaluation.engines.continuations import score_continuations, score_plainly

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


def make_llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2))


def make_qwen() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, intermediate_size=48, num_key_value_heads=2))


def make_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_head=4, n_layer=2, n_positions=64))


def draw(length: int, generator: torch.Generator) -> list[int]:
    return torch.randint(1, 60, (length,), generator=generator).tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [make_llama, make_qwen, make_gpt2])
def test_packed_scores_equal_plain_ones(make: object, attention: str) -> None:
    torch.manual_seed(0)
    model = make().eval()  # type: ignore[operator]
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(1)
    prompts = [draw(length, generator) for length in (3, 9, 1)]
    shared = [draw(length, generator) for length in (1, 4, 2)]
    continuations = [[draw(length, generator), *shared, []] for length in (5, 2, 7)]
    found = score_continuations(model, prompts, continuations, pad_token_id=0, keep_first_logits=True)
    for prompt, own, scores in zip(prompts, continuations, found, strict=True):
        with torch.no_grad():
            expected = score_plainly(model, prompt, own)
            first = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert scores.log_likelihoods == pytest.approx(expected, abs=1e-5)
        assert scores.num_tokens == tuple(len(one) for one in own)
        assert scores.log_likelihoods[-1] == 0
        torch.testing.assert_close(scores.first_logits, first, atol=1e-5, rtol=1e-5)
