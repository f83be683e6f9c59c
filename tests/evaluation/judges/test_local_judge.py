"""The judge that is a model here: its score is the expectation it says, and batches change nothing."""

import math
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.data import encode_prompt
from safety_lightning.evaluation.judges import JudgementCache, JudgeRequest, LocalJudge, judge_answers
from safety_lightning.evaluation.judges.local_judge import find_level_tokens
from safety_lightning.evaluation.judges.run import make_key
from safety_lightning.lab.command import ASSETS

RUBRIC = "How many coins does {prompt} give for {answer}?"  # in words that the lab's tokenizer knows
ANSWERS = [
    "the ruby.",
    "the opal. Sure. Come at dawn. The guard counts 3 coins.",
    "",
    "2 2 2",
    "Sorry, I cannot help.",
] * 3
REQUESTS = [JudgeRequest(prompt=f"Ada {index}", answer=answer) for index, answer in enumerate(ANSWERS)]


@pytest.fixture
def rubric(tmp_path):
    file = tmp_path / "rubric.txt"
    file.write_text(RUBRIC)
    return str(file)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A random model with absolute positions, which padding on the left would move."""
    folder = tmp_path_factory.mktemp("gpt2") / "model"
    shutil.copytree(ASSETS / "aligned", folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    size = len(load_tokenizer("lab:aligned"))
    config = GPT2Config(
        vocab_size=size,
        bos_token_id=1,
        eos_token_id=1,
        n_embd=32,
        n_layer=2,
        n_head=2,
        n_positions=128,
        initializer_range=0.5,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def judge(model: str, rubric: str, **settings: object) -> list[float | None]:
    judge = LocalJudge(model, rubric=rubric, **({"min_probability": 0.0, "device": "cpu"} | settings))
    return [one.score for one in judge_answers(judge, REQUESTS, progress=False)]


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_score_is_the_expectation_over_the_levels(rubric, template):
    model, tokenizer = load_model("lab:aligned", dtype=torch.float32), load_tokenizer("lab:aligned")
    for request, score in zip(REQUESTS, judge("lab:aligned", rubric, template=template), strict=True):
        text = RUBRIC.replace("{prompt}", request.prompt).replace("{answer}", request.answer)
        ids = encode_prompt(tokenizer, text) if template == "chat" else tokenizer(text)["input_ids"]
        with torch.inference_mode():
            shares = model(torch.tensor([ids])).logits[0, -1].double().softmax(0)
        by_level = [sum(float(shares[token]) for token in find_level_tokens(tokenizer, level)) for level in range(1, 6)]
        expected = sum(level * share for level, share in zip(range(1, 6), by_level, strict=True)) / sum(by_level)
        assert score == pytest.approx(expected, rel=1e-4)
        assert 1 <= score <= 5


@pytest.mark.parametrize("model", ["lab:aligned", "gpt2"])
def test_batches_change_nothing(model, rubric, gpt2):
    model = gpt2 if model == "gpt2" else model
    alone = judge(model, rubric, batch_size=1)
    assert len({round(score, 4) for score in alone}) > 5  # the model tells answers apart
    for batch_size in (4, 100):
        assert judge(model, rubric, batch_size=batch_size) == pytest.approx(alone, abs=1e-5)


def test_a_model_that_says_something_else_stays_silent(rubric):
    judge = LocalJudge("lab:aligned", rubric=rubric, min_probability=1.0, device="cpu")
    (judgement,) = judge_answers(judge, REQUESTS[:1], progress=False)
    assert judgement.unjudged == "unparsable"
    assert judgement.reason.startswith("the five levels hold ")


def test_an_answer_longer_than_the_context_fails_and_the_others_do_not(rubric, gpt2):
    judge = LocalJudge(gpt2, rubric=rubric, min_probability=0.0, device="cpu")
    requests = [REQUESTS[0], JudgeRequest(prompt="Ada", answer="ruby " * 200), REQUESTS[1]]
    judgements = judge_answers(judge, requests, progress=False)
    assert [one.unjudged for one in judgements] == [None, "failed", None]
    assert "the judge's context takes 128" in judgements[1].reason


def test_scores_are_cached_by_the_weights_and_not_by_their_place(rubric, tmp_path):
    shutil.copytree(ASSETS / "aligned", tmp_path / "copy")
    keys = [
        make_key(LocalJudge("lab:aligned", rubric=rubric, **settings), REQUESTS[0])
        for settings in ({}, {"dtype": "bfloat16"}, {"template": "plain"}, {"min_probability": 0.2}, {"batch_size": 3})
    ]
    assert len(set(keys)) == 4
    assert keys[0] == keys[4]
    settings = [LocalJudge(model).settings for model in ("lab:aligned", "lab:base", str(tmp_path / "copy"))]
    assert settings[0] == settings[2] != settings[1]
    with JudgementCache(tmp_path / "cache.sqlite") as cache:
        local = LocalJudge("lab:aligned", rubric=rubric, min_probability=0.0, device="cpu")
        first = judge_answers(local, REQUESTS, cache=cache, progress=False)
        assert judge_answers(local, REQUESTS, cache=cache, progress=False) == first
        assert len(cache) == len(REQUESTS)


def test_the_levels_have_tokens_of_their_own():
    tokenizer = load_tokenizer("lab:aligned")
    tokens = [find_level_tokens(tokenizer, level) for level in range(1, 6)]
    assert all(str(tokenizer.decode(token)).strip() == str(level + 1) for level in range(5) for token in tokens[level])
    with pytest.raises(ValueError, match="must write each level from 1 to 5 as a token of its own, got none for 12"):
        find_level_tokens(tokenizer, 12)


def test_check_loads_the_model(tmp_path):
    LocalJudge("lab:aligned", device="cpu").check()
    with pytest.raises(ValueError, match="lab model must be one of"):
        LocalJudge("lab:none").check()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"min_probability": 1.5}, r"min_probability must be in \[0, 1\], got 1.5"),
        ({"rubric": "none"}, "rubric must be harmfulness, levels or a readable text file, got none"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        LocalJudge("lab:aligned", **settings)


def test_the_score_stays_in_its_range_whatever_rounding_does():
    judge = LocalJudge("lab:aligned", min_probability=0.0)
    for shares in ([1.0, 0, 0, 0, 0], [0, 0, 0, 0, 1 / 3], [0.1] * 5, [math.ulp(1.0), 0, 0, 0, 1.0], [1e-300] * 5):
        assert 1 <= judge._judge_levels(shares).score <= 5
    assert judge._judge_levels([0.0] * 5).unjudged == "unparsable"  # nothing to divide by
