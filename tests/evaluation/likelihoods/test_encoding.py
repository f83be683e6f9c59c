"""Texts behind prompts: written by the template, tokenised with the prompt, and refused where that cannot be."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.data import InstructionSource, render_prompt
from safety_lightning.evaluation import LiveEvaluation
from safety_lightning.evaluation.likelihoods import encode_continuations, encode_openings
from safety_lightning.evaluation.tasks import HarmfulRequests, Lab, TaskSuite
from safety_lightning.lab import build_tokenizer

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}%s{% else %}{{ m.content }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(written: str = "{{ m.content }}") -> PreTrainedTokenizerFast:
    """Characters as tokens, of which ``>S`` merge."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: at for at, token in enumerate(["<unk>", *letters, ">S"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[(">", "S")], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="\n", pad_token="\n")
    tokenizer.chat_template = CHAT.replace("%s", written)
    return tokenizer


def encode(tokenizer, text: str, prompt_format: str = "chat"):
    prompt = render_prompt(tokenizer, "Hi") if prompt_format == "chat" else "Hi"
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return ids, encode_continuations(tokenizer, ["Hi"], [ids], [[text]], prompt_format=prompt_format)[0][0]


def test_a_text_stands_behind_the_whole_prompt() -> None:
    tokenizer = make_tokenizer()
    ids, found = encode(tokenizer, "No.")
    assert found.num_shared == len(ids)
    assert tokenizer.decode(found.ids).replace(" ", "") == "No."
    ids, found = encode(tokenizer, "7.", prompt_format="raw")
    assert tokenizer.convert_ids_to_tokens(list(found.ids)) == [" ", "7", "."]


def test_tokens_that_merge_with_the_prompt_are_found_and_scored_by_the_whole(caplog) -> None:
    tokenizer = make_tokenizer()
    with caplog.at_level("WARNING"):
        ids, found = encode(tokenizer, "Sure")
    assert found.num_shared == len(ids) - 1
    assert tokenizer.convert_ids_to_tokens(list(found.ids)) == [">S", "u", "r", "e"]
    assert "1 of 1 continuations merge tokens with their prompt" in caplog.text


def test_what_a_template_writes_before_an_answer_belongs_to_the_prompt() -> None:
    tokenizer = make_tokenizer("(think) {{ m.content }}")
    ids, _ = encode(tokenizer, "No.")
    (opened,) = encode_openings(tokenizer, ["Hi"], [ids], prompt_format="chat")
    assert "".join(tokenizer.convert_ids_to_tokens(opened[len(ids) :])) == "(think) "
    ((found,),) = encode_continuations(tokenizer, ["Hi"], [opened], [["No."]], prompt_format="chat")
    assert found.num_shared == len(opened)
    assert "".join(tokenizer.convert_ids_to_tokens(list(found.ids))) == "No."
    for prompt_format in ("plain", "raw"):
        assert encode_openings(tokenizer, ["Hi"], [ids], prompt_format=prompt_format) == [ids]


def test_likelihoods_are_of_the_text_alone_behind_what_the_template_writes() -> None:
    """A prompt that ends in the call for an answer, and one whose template writes the call before each answer."""
    measures = ["target_token_probability", "refusal_log_odds", "drift", "solution_probability"]
    model, tokenizer = load_model("lab:base", dtype=torch.float32), load_tokenizer("lab:base")
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=3, measures=measures), clusters="none")
    found = []
    for call in ("{{- '<|assistant|>' -}}", ""):
        tokenizer.chat_template = tokenizer.chat_template.replace(
            "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}",
            "{%- if add_generation_prompt -%}" + call,
        )
        live = LiveEvaluation(tokenizer, suite)
        live.take_reference(load_model("lab:aligned", dtype=torch.float32))
        found.append(live.measure(model))
    assert len(live.plan.cases[0].opened_ids) == len(live.plan.cases[0].token_ids) + 1
    assert set(found[0].values) == set(measures)
    for name, one in found[0].values.items():
        assert one.values.tolist() == pytest.approx(found[1].values[name].values.tolist(), abs=1e-6)


def test_a_target_that_the_template_swallows_is_named() -> None:
    tokenizer = make_tokenizer("{{ m.content | replace('Sure', '') }}")
    with pytest.raises(ValueError, match="must write what the model says, of 'Sure, here' it writes"):
        encode(tokenizer, "Sure, here")


def measure(tmp_path, text: str, **settings) -> LiveEvaluation:
    file = tmp_path / "requests.csv"
    file.write_text(text)
    source = InstructionSource(path=str(file), prompt="goal", response="target")
    clusters = settings.pop("clusters", "none")
    suite = TaskSuite(tasks=["harmful"], harmful=HarmfulRequests(source=source, **settings), clusters=clusters)
    return LiveEvaluation(build_tokenizer(), suite)


def test_a_missing_column_of_targets_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="must have a column 'target'"):
        measure(tmp_path, "goal\nOpen the case.\n", measures=["target_token_probability"])
    measure(tmp_path, "goal\nOpen the case.\n", measures=["refusal_token_probability"])  # needs none


def test_clusters_of_one_prompt_are_refused(tmp_path) -> None:
    settings = {"measures": ["target_token_probability"]}
    with pytest.raises(ValueError, match="clusters must be none where there are not two of them, the 1 prompts of"):
        measure(tmp_path, "goal,target\nOpen the case.,Sure.\n", clusters="twins", **settings)
    live = measure(tmp_path, "goal,target\nOpen the case.,Sure.\n", clusters=None, **settings)
    assert live.plan.list_clusters(live.plan.tasks[0]) is None


def test_refusals_that_the_tokenizer_does_not_know_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"refusal .* must begin with a token that the tokenizer of"):
        measure(tmp_path, "goal,target\nOpen the case.,Sure.\n", measures=["refusal_log_odds"])


@pytest.mark.parametrize("measures", [[], ["harmfulness", "harmfulness"], ["utility"]])
def test_measures_that_there_are_not_are_refused(measures) -> None:
    with pytest.raises(ValueError, match="measures of harmful must be one or more of harmfulness, answer_kinds"):
        HarmfulRequests(measures=measures)
