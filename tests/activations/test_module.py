"""Which token's vector is kept, whatever the padding and the batch: prompt, generated, mean."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from safety_lightning.activations.datamodule import PromptData
from safety_lightning.activations.module import ActivationModule
from safety_lightning.checkpoints import load_model
from safety_lightning.data import InstructionSource, find_stop_ids
from safety_lightning.evaluation.engines import AnswerLimits, TransformersEngine
from safety_lightning.lab import build_tokenizer
from tests.activations.conftest import draw_sequences, make_data, make_decoder

NUM_TOKENS = 5


def capture_all(module: ActivationModule, data: PromptData) -> torch.Tensor:
    """Runs every prompt, and returns the vectors in the prompts' order."""
    module.configure_model()
    data.prepare()
    found: dict[int, torch.Tensor] = {}
    for batch in data.predict_dataloader():
        for index, hidden in zip(batch.indices, module.predict_step(batch), strict=True):
            found[index] = hidden
    assert sorted(found) == list(range(len(data.prompts)))
    return torch.stack([found[index] for index in range(len(found))])


@lru_cache
def load_once(model_folder: Path) -> PreTrainedModel:
    return load_model(model_folder, dtype=torch.float32)


def run_reference(model_folder: Path, ids: list[int]) -> torch.Tensor:
    """All positions of one sequence in all layers but the last (which transformers gives behind the norm)."""
    model = load_once(model_folder)
    with torch.no_grad():
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack([one[0] for one in hidden[:-1]])


def generate_alone(model_folder: Path, ids: list[int]) -> list[int]:
    """Ends where a turn of a chat ends, as an answer of `test` does: the model's own end token is one such token."""
    model = load_once(model_folder)
    ends = find_stop_ids(build_tokenizer()) | {model.generation_config.eos_token_id}
    whole = model.generate(torch.tensor([ids]), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=list(ends))
    response = whole[0].tolist()[len(ids) :]
    length = next((at for at, token in enumerate(response) if token in ends), len(response))
    return response[: max(1, length)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
@pytest.mark.parametrize("token", ["prompt", "generated", "mean"])
def test_vectors_are_those_of_each_prompt_alone(model_folder: Path, token: Any, batch_size: int, padding: Any) -> None:
    data = make_data(model_folder, batch_size=batch_size, padding=padding)
    found = capture_all(ActivationModule(str(model_folder), token=token, max_new_tokens=NUM_TOKENS), data)
    for prompt, hidden in zip(data.prompts, found, strict=True):
        ids = prompt.input_ids
        response = generate_alone(model_folder, ids) if token != "prompt" else []
        all_positions = run_reference(model_folder, ids + response)
        expected = all_positions[:, -len(response) :].mean(dim=1) if token == "mean" else all_positions[:, -1]
        torch.testing.assert_close(hidden[:-1], expected, atol=1e-5, rtol=1e-5)


def test_mean_over_given_responses(model_folder: Path) -> None:
    sets = {"useful": InstructionSource(preset="lab:useful", size=5)}
    module = ActivationModule(str(model_folder), token="mean", response="given")
    data = make_data(model_folder, sets, with_responses=True, batch_size=3)
    found = capture_all(module, data)
    for prompt, hidden in zip(data.prompts, found, strict=True):
        assert prompt.response_ids
        all_positions = run_reference(model_folder, prompt.input_ids + prompt.response_ids)
        expected = all_positions[:, prompt.num_tokens :].mean(dim=1)
        torch.testing.assert_close(hidden[:-1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("token", ["prompt", "generated"])
def test_position_minus_one_depends_on_the_padding(model_folder: Path, token: Any) -> None:
    def capture(position: Any, padding: Any) -> torch.Tensor:
        module = ActivationModule(str(model_folder), token=token, token_position=position, max_new_tokens=NUM_TOKENS)
        return capture_all(module, make_data(model_folder, batch_size=18, sort_by_length=False, padding=padding))

    expected = capture("last_attended", "right")
    torch.testing.assert_close(capture("minus_one", "left"), expected, atol=1e-5, rtol=1e-5)
    assert (capture("minus_one", "right") - expected).abs().amax(dim=(1, 2)).max() > 1e-2


def test_weights_are_loaded_in_the_dtype_asked_for(model_folder: Path) -> None:
    data = make_data(model_folder)
    module = ActivationModule(str(model_folder), dtype="bfloat16")
    found = capture_all(module, data)
    assert module.model.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, capture_all(ActivationModule(str(model_folder)), data), atol=0.05, rtol=0.05)


def complete(model: PreTrainedModel, prompts: list[list[int]], *, end_ids: list[int]) -> list[list[int]]:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    own = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=end_ids or None)
    engine = TransformersEngine(model, tokenizer)
    model.generation_config = own
    return engine.generate(prompts, AnswerLimits(max_new_tokens=6, special_tokens_end=False))


def test_the_end_token_is_no_part_of_a_response_unless_it_is_all_of_it() -> None:
    model = make_decoder("llama")
    prompts = draw_sequences([4, 7])
    free = complete(model, prompts, end_ids=[])
    assert [len(response) for response in free] == [6, 6]
    end = free[0][2]
    first = free[0].index(end)
    (cut,) = complete(model, prompts[:1], end_ids=[end])
    assert cut == free[0][: max(first, 1)]
    assert complete(model, prompts[:1], end_ids=[free[0][0]]) == [free[0][:1]]


def test_generation_leaves_the_settings_of_the_model_alone() -> None:
    model = make_decoder("llama")
    model.generation_config.repetition_penalty = 5.0
    own = model.generation_config
    (response,) = complete(model, draw_sequences([4]), end_ids=[])
    assert model.generation_config is own
    own.repetition_penalty = 1.0
    assert complete(model, draw_sequences([4]), end_ids=[]) == [response]


@pytest.mark.parametrize(("template", "ends"), [("chat", True), ("plain", False)])
def test_special_tokens_end_responses_in_a_chat_alone(model_folder: Path, template: Any, ends: bool) -> None:
    data = make_data(model_folder, template=template)
    data.prepare()
    assert data.collate([0]).special_tokens_end is ends


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "last"}, "token must be prompt, generated or mean, got 'last'"),
        ({"token_position": "first"}, "token_position must be last_attended or minus_one, got 'first'"),
        ({"response": "made"}, "response must be generated or given, got 'made'"),
        ({"response": "given"}, r"response must be generated where token is prompt, got given"),
        ({"token": "generated", "response": "given"}, "response must be generated where token is generated"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationModule("lab:base", **options)
