"""Generation in batches equals generation alone; intervals equal scipy's."""

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from safety_lightning.checkpoints import load_tokenizer, resolve_reference
from safety_lightning.evaluation.generation import generate_answers
from safety_lightning.evaluation.statistics import bootstrap_interval, wilson_interval
from safety_lightning.lab.world import generate_examples


@pytest.fixture(scope="module")
def aligned() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(resolve_reference("lab:aligned"))


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_answer_equals_the_one_given_alone(aligned: torch.nn.Module, template: str) -> None:
    tokenizer = load_tokenizer("lab:aligned")
    prompts = [
        example.prompt
        for kind in ("useful", "harmful", "ordinary")
        for example in generate_examples(kind, split="test", size=8, seed=0)
    ]
    settings = {"template": template, "max_new_tokens": 40}
    together = generate_answers(aligned, tokenizer, prompts, batch_size=7, **settings)
    alone = [generate_answers(aligned, tokenizer, [prompt], batch_size=1, **settings)[0] for prompt in prompts]
    assert together == alone
    assert all(together)
    assert len(set(together)) > 8


def test_mode_is_put_back_and_length_is_kept(aligned: torch.nn.Module) -> None:
    tokenizer = load_tokenizer("lab:aligned")
    prompt = generate_examples("useful", split="test", size=1, seed=0)[0].prompt
    aligned.train()
    (answer,) = generate_answers(aligned, tokenizer, [prompt], max_new_tokens=3)
    assert aligned.training
    aligned.eval()
    assert len(tokenizer(answer, add_special_tokens=False)["input_ids"]) <= 3
    assert generate_answers(aligned, tokenizer, [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 1, "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(aligned: torch.nn.Module, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_answers(aligned, load_tokenizer("lab:aligned"), ["x"], **settings)


@pytest.mark.parametrize(("num_successes", "num_total"), [(0, 10), (3, 10), (10, 10), (1, 1), (180, 200)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_interval_equals_that_of_scipy(num_successes: int, num_total: int, confidence: float) -> None:
    expected = stats.binomtest(num_successes, num_total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(num_successes, num_total, confidence=confidence) == pytest.approx(tuple(expected))


def test_bootstrap_interval_equals_that_of_scipy() -> None:
    values = np.random.default_rng(0).integers(1, 6, 150).astype(float)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=9000, rng=1).confidence_interval
    found = bootstrap_interval(values.tolist(), num_resamples=9000)
    assert found == pytest.approx(tuple(expected), abs=0.03)
    assert bootstrap_interval(values.tolist()) == bootstrap_interval(values.tolist())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson_interval(3, 2), r"num_successes must be between 0 and num_total \(2\), got 3"),
        (lambda: wilson_interval(0, 0), "num_total must be at least 1, got 0"),
        (lambda: wilson_interval(1, 2, confidence=1.0), r"confidence must be in \(0, 1\), got 1.0"),
        (lambda: bootstrap_interval([]), "values must be one or more finite numbers"),
        (lambda: bootstrap_interval([float("nan")]), "values must be one or more finite numbers"),
        (lambda: bootstrap_interval([1.0], num_resamples=0), "num_resamples must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
