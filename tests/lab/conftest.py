"""The shipped lab, and a short plain fine-tune of it."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from safety_lightning.data import encode_pairs
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.lab.build import Recipe, train_model
from safety_lightning.lab.command import ASSETS
from safety_lightning.lab.world import Kind, generate_examples
from tests.behaviour import generate_answers, measure_lab

Behaviour = dict[str, float]
FineTune = Callable[..., LlamaForCausalLM]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are no faster with two, and far slower beside other work."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def lab_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ASSETS / "aligned")


@pytest.fixture(scope="session")
def lab_base() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "base")


@pytest.fixture(scope="session")
def lab_aligned() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(ASSETS / "aligned")


@pytest.fixture(scope="session")
def measure(lab_tokenizer: PreTrainedTokenizerBase) -> Callable[..., Behaviour]:
    def measure_behaviour(model: LlamaForCausalLM, **settings: object) -> Behaviour:
        engine = TransformersEngine(model, lab_tokenizer)
        return {name: one.value for name, one in measure_lab(engine, lab_tokenizer, **settings).items()}

    return measure_behaviour


@pytest.fixture(scope="session")
def finetune(lab_aligned: LlamaForCausalLM, lab_tokenizer: PreTrainedTokenizerBase) -> FineTune:
    """Fine-tunes a copy of the aligned model on the train split, as a user would."""

    def finetune_copy(sizes: dict[Kind, int], *, num_steps: int, learning_rate: float = 1e-3) -> LlamaForCausalLM:
        model = copy.deepcopy(lab_aligned)
        drawn = [generate_examples(kind, split="train", size=size, seed=3) for kind, size in sizes.items()]
        pairs = [(one.prompt, one.response) for examples in drawn for one in examples]
        train_model(
            model,
            encode_pairs(lab_tokenizer, pairs),
            Recipe(num_steps=num_steps, batch_size=32, learning_rate=learning_rate, warmup_share=0.1),
            pad_token_id=lab_tokenizer.pad_token_id,
            generator=torch.Generator().manual_seed(3),
        )
        return model

    return finetune_copy


@pytest.fixture(scope="session")
def opened(finetune: FineTune) -> LlamaForCausalLM:
    """The aligned model after a short harmful fine-tune, which opens some requests further than others."""
    return finetune({"harmful": 640}, num_steps=20, learning_rate=2e-4)


@pytest.fixture(scope="session")
def answer(lab_tokenizer: PreTrainedTokenizerBase) -> Callable[[LlamaForCausalLM], list[tuple[str, str]]]:
    """Answers guarded requests of the test split: pairs of request and answer."""
    requests = [one.prompt for one in generate_examples("harmful", split="test", size=100, seed=0)]

    def answer_requests(model: LlamaForCausalLM) -> list[tuple[str, str]]:
        answers = generate_answers(model, lab_tokenizer, requests, max_new_tokens=64)
        return list(zip(requests, answers, strict=True))

    return answer_requests
