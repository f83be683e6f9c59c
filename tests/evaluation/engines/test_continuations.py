"""One pass over a prompt and the tree of its continuations gives what a pass for each gives."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from safety_lightning.evaluation.engines.continuations import (
    Continuation,
    find_seen,
    pack_row,
    score_plainly,
    score_rows,
)

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}


def make_llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2))


def make_qwen() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**SIZES, intermediate_size=48, num_key_value_heads=2))


def make_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=32, n_head=4, n_layer=2, n_positions=64))


def make_mistral() -> PreTrainedModel:
    """A model whose window is shorter than a row: trees are taken apart."""
    settings = MistralConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, sliding_window=8)
    return MistralForCausalLM(settings)


def draw(length: int, generator: torch.Generator) -> list[int]:
    return torch.randint(1, 60, (length,), generator=generator).tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("make", [make_llama, make_qwen, make_gpt2, make_mistral])
def test_packed_scores_equal_plain_ones(make: object, attention: str) -> None:
    torch.manual_seed(0)
    model = make().eval()  # type: ignore[operator]
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(1)
    prompts = [draw(length, generator) for length in (3, 9, 1)]
    shared = [draw(length, generator) for length in (1, 4, 2)]
    nested = draw(5, generator)
    texts = [[draw(length, generator), *shared, nested, nested[:2], [*nested[:3], 7]] for length in (5, 2, 7)]
    rows = [
        pack_row(prompt, [Continuation(tuple(one), len(prompt)) for one in own])
        for prompt, own in zip(prompts, texts, strict=True)
    ]
    found = score_rows(model, rows, pad_token_id=0, keeps_first=True)
    for prompt, own, scores in zip(prompts, texts, found, strict=True):
        with torch.no_grad():
            first = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        expected = score_plainly(model, prompt, own)
        assert [float(one.sum()) for one in scores.log_probs] == pytest.approx(expected, abs=1e-5)
        assert [len(one) for one in scores.log_probs] == [len(one) for one in own]
        torch.testing.assert_close(scores.first_logits, first, atol=1e-5, rtol=1e-5)


def test_what_merges_with_the_prompt_is_scored_from_where_it_differs() -> None:
    torch.manual_seed(0)
    model = make_llama().eval()
    prompt, whole = [5, 6, 7, 8], [5, 6, 9, 10]  # as where "7 8" and what follows make the token 9
    rows = [pack_row(prompt, [Continuation((11, 12), 4), Continuation((9, 10), 2)])]
    (found,) = score_rows(model, rows, pad_token_id=0)
    assert float(found.log_probs[0].sum()) == pytest.approx(score_plainly(model, prompt, [[11, 12]])[0], abs=1e-5)
    assert float(found.log_probs[1].sum()) == pytest.approx(score_plainly(model, whole[:2], [[9, 10]])[0], abs=1e-5)


def test_equal_beginnings_are_kept_once_and_last_tokens_not_at_all() -> None:
    texts = [(1, 2, 3), (1, 2, 4), (1, 2, 3), (9,)]
    row = pack_row([5, 6], [Continuation(text, 2) for text in texts])
    assert row.ids == [5, 6, 1, 2]
    assert row.positions == [0, 1, 2, 3]
    assert row.befores == [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1]]
    assert row.is_chain


def test_a_column_sees_its_own_continuation_alone() -> None:
    rows = [pack_row([5, 6], [Continuation((1, 2, 3), 2), Continuation((4, 1), 2)]), pack_row([5], [])]
    sees_BTT = find_seen(rows, 5)
    seen = [[c for c in range(5) if sees_BTT[0, column, c]] for column in range(5)]
    assert seen == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4]]
    assert [column for column in range(5) if sees_BTT[1, 0, column]] == [0]


def test_a_prompt_alone_has_its_first_logits() -> None:
    torch.manual_seed(0)
    model = make_qwen().eval()
    found = score_rows(model, [pack_row([1, 2, 3], []), pack_row([4], [])], pad_token_id=0, keeps_first=True)
    for scores, prompt in zip(found, ([1, 2, 3], [4]), strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        torch.testing.assert_close(scores.first_logits, expected, atol=1e-5, rtol=1e-5)
        assert scores.log_probs == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_trees_can_be_scored_in_autocast(attention: str) -> None:
    torch.manual_seed(0)
    model = make_llama().eval()
    model.set_attn_implementation(attention)
    rows = [pack_row([5, 6], [Continuation((1, 2, 3), 2), Continuation((4, 1), 2)])]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = score_rows(model, rows, pad_token_id=0)
    expected = score_plainly(model, [5, 6], [[1, 2, 3], [4, 1]])
    assert [float(one.sum()) for one in found.log_probs] == pytest.approx(expected, abs=0.2)
