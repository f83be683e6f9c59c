"""Captured vectors are those of the prompt alone, whatever the padding, the batch and the architecture."""

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from safety_lightning.activations.capture import (
    HiddenCapture,
    Pool,
    find_decoder_layers,
    find_last_attended,
    pool_mean,
    pool_minus_one,
    pool_position,
)
from safety_lightning.data import Padding, pad_sequences
from tests.activations.conftest import CONFIGS, HIDDEN_SIZE, LENGTHS, NUM_LAYERS, draw_sequences, make_decoder

SIDES: list[Padding] = ["left", "right"]
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}  # kept in float32


def run_batch(model: PreTrainedModel, sequences: list[list[int]], padding: Padding = "right") -> torch.Tensor:
    input_ids, mask = pad_sequences(sequences, pad_token_id=0, padding=padding)
    return HiddenCapture(model).run(input_ids, mask, pool_position(find_last_attended(mask)))


def run_alone(model: PreTrainedModel, sequences: list[list[int]]) -> torch.Tensor:
    return torch.cat([run_batch(model, [sequence]) for sequence in sequences])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("padding", SIDES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_gives_what_each_prompt_gives_alone(name: str, padding: Padding, dtype: torch.dtype) -> None:
    model = make_decoder(name, dtype=dtype)
    sequences = draw_sequences()
    found = run_batch(model, sequences, padding)
    assert found.dtype == torch.float32
    assert found.shape == (len(sequences), NUM_LAYERS + 1, HIDDEN_SIZE)
    expected = run_alone(model, sequences)
    torch.testing.assert_close(found, expected, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])
    assert (expected[1:] - expected[:1]).abs().amax(dim=2).min() > 1e-2  # the prompts do differ


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_any_batch_size_gives_the_same(decoder: PreTrainedModel, batch_size: int) -> None:
    sequences = draw_sequences([2, 8, 5, 5, 11, 1, 3])
    found = [run_batch(decoder, sequences[at : at + batch_size], "left") for at in range(0, 7, batch_size)]
    torch.testing.assert_close(torch.cat(found), run_alone(decoder, sequences), atol=1e-6, rtol=1e-6)


def test_layers_are_those_of_transformers_but_for_the_final_norm(decoder: PreTrainedModel) -> None:
    (sequence,) = draw_sequences([6])
    expected = decoder(torch.tensor([sequence]), output_hidden_states=True).hidden_states
    found = run_batch(decoder, [sequence])
    for layer in range(NUM_LAYERS):
        torch.testing.assert_close(found[0, layer], expected[layer][0, -1], atol=1e-6, rtol=1e-6)
    norms = {"norm", "ln_f", "final_layer_norm"}
    (final_norm,) = [module for name, module in decoder.base_model.named_children() if name in norms]
    torch.testing.assert_close(final_norm(found[0, -1]), expected[-1][0, -1], atol=1e-5, rtol=1e-5)
    assert (found[0, -1] - expected[-1][0, -1]).abs().max() > 0.1


@pytest.mark.parametrize("padding", SIDES)
def test_mean_is_over_the_marked_positions(decoder: PreTrainedModel, padding: Padding) -> None:
    sequences = draw_sequences([6, 3])
    input_ids, mask = pad_sequences(sequences, pad_token_id=0, padding=padding)
    member = pad_sequences([[0, 0, 1, 1, 1, 1], [0, 1, 1]], pad_token_id=0, padding=padding)[0]
    found = HiddenCapture(decoder).run(input_ids, mask, pool_mean(member))
    for row, (sequence, start) in enumerate(zip(sequences, (2, 1), strict=True)):
        hidden = decoder(torch.tensor([sequence]), output_hidden_states=True).hidden_states
        expected = torch.stack([one[0, start:].mean(dim=0) for one in hidden[:-1]])
        torch.testing.assert_close(found[row, :-1], expected, atol=1e-6, rtol=1e-6)


def test_position_minus_one_is_padding_on_the_right(decoder: PreTrainedModel) -> None:
    sequences = draw_sequences()
    expected = run_alone(decoder, sequences)

    def find_errors(padding: Padding) -> torch.Tensor:
        input_ids, mask = pad_sequences(sequences, pad_token_id=0, padding=padding)
        found = HiddenCapture(decoder).run(input_ids, mask, pool_minus_one())
        return (found - expected).abs().amax(dim=(1, 2))

    assert find_errors("left").max() < 1e-6
    errors = find_errors("right")
    longest = LENGTHS.index(max(LENGTHS))
    assert errors[longest] < 1e-6
    assert errors[[row for row in range(len(LENGTHS)) if row != longest]].min() > 1e-2


@pytest.mark.parametrize(
    "pool", [pool_position(torch.zeros(2, dtype=torch.int64)), pool_minus_one(), pool_mean(torch.ones(2, 700))]
)
def test_what_is_kept_holds_no_other_positions(pool: Pool) -> None:
    kept = pool(torch.zeros(2, 700, 8))
    assert kept.shape == (2, 8)
    assert kept.untyped_storage().nbytes() == 2 * 8 * 4


def test_no_logits_are_made_and_no_hook_is_left(decoder: PreTrainedModel) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the output layer ran")

    decoder.get_output_embeddings().register_forward_pre_hook(fail)
    run_batch(decoder, draw_sequences())
    hooks = [module for module in decoder.base_model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert hooks == []


def test_hooks_go_when_the_decoder_fails(decoder: PreTrainedModel) -> None:
    with pytest.raises(IndexError):
        run_batch(decoder, [[10_000]])
    assert not any(module._forward_hooks for module in decoder.modules())


def test_refuses_a_model_without_decoder_layers() -> None:
    with pytest.raises(ValueError, match="must have a list of 3 decoder layers, Sequential has none"):
        find_decoder_layers(nn.Sequential(nn.Linear(2, 2)), 3)


def test_refuses_a_decoder_that_leaves_a_layer_out_or_runs_one_twice() -> None:
    model = make_decoder("llama")
    capture = HiddenCapture(model)
    layers = model.base_model.layers
    model.base_model.layers = nn.ModuleList([layers[0], layers[1]])
    model.base_model.config.num_hidden_layers = 2
    arguments = torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64), pool_minus_one()
    with pytest.raises(ValueError, match="must run each of its 3 layers, it ran 2"):
        capture.run(*arguments)
    model.base_model.layers = nn.ModuleList([layers[0], layers[1], layers[1]])
    model.base_model.config.num_hidden_layers = 3
    with pytest.raises(ValueError, match="must run each layer once, it ran layer 2 twice"):
        capture.run(*arguments)
