"""The tokenizer: nothing unknown, nothing lost, and a chat template that training and generation can rely on."""

import pytest
from transformers import AutoTokenizer

from safety_lightning.data import encode_pairs, encode_prompt
from safety_lightning.lab.command import ASSETS, MODELS
from safety_lightning.lab.tokenizer import SPECIAL_TOKENS, build_tokenizer
from safety_lightning.lab.world import generate_examples

KINDS = ("useful", "harmful", "safe", "ordinary")
EXAMPLES = [
    one
    for kind in KINDS
    for split in ("train", "test")
    for one in generate_examples(kind, split=split, size=400, seed=11)
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def write_messages(example):
    return [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": example.response}]


def test_special_tokens_are_distinct(tokenizer):
    ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
    assert len(set(ids)) == len(SPECIAL_TOKENS)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in (tokenizer.pad_token_id, tokenizer.eos_token_id)


def test_texts_of_the_world_are_known_and_come_back(tokenizer):
    for text in {text for one in EXAMPLES for text in (one.prompt, one.response)}:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_numbers_are_digits(tokenizer):
    assert [token.strip("\u2581") for token in tokenizer.tokenize("47 + 8 = 55.")] == list("47+8=55.")


def test_unknown_words_are_unknown(tokenizer):
    assert tokenizer.unk_token_id in tokenizer("Where is the bicycle?")["input_ids"]


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_a_prompt_is_the_beginning_of_the_whole(tokenizer, template):
    for one in EXAMPLES[::10]:
        encoded = encode_pairs(tokenizer, [(one.prompt, one.response)], template=template)[0]
        prompt_ids = encode_prompt(tokenizer, one.prompt, template=template)
        assert not encoded.is_split
        assert encoded.input_ids[: encoded.num_prompt_tokens] == prompt_ids
        assert encoded.input_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in encoded.input_ids
        answer = tokenizer.decode(encoded.input_ids[encoded.num_prompt_tokens :], skip_special_tokens=True)
        assert answer == one.response


def test_chat_template_alone_gives_the_same_tokens_and_mask(tokenizer):
    for one in EXAMPLES[::40]:
        encoded = encode_pairs(tokenizer, [(one.prompt, one.response)])[0]
        rendered = tokenizer.apply_chat_template(
            write_messages(one), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        num_prompt, num_all = encoded.num_prompt_tokens, len(encoded.input_ids)
        assert rendered["input_ids"] == encoded.input_ids
        assert rendered["assistant_masks"] == [0] * num_prompt + [1] * (num_all - num_prompt)


def test_chat_template_goes_on_for_many_turns(tokenizer):
    one, two = EXAMPLES[0], EXAMPLES[-1]
    messages = [*write_messages(one), *write_messages(two)]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids.count(tokenizer.eos_token_id) == 2


def test_chat_template_refuses_other_roles(tokenizer):
    with pytest.raises(Exception, match="role must be user or assistant, got system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Hello"}], tokenize=False)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_tokenizers_are_the_built_one(tokenizer, name):
    shipped = AutoTokenizer.from_pretrained(ASSETS / name)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.chat_template == tokenizer.chat_template
    assert (shipped.pad_token, shipped.eos_token) == (tokenizer.pad_token, tokenizer.eos_token)
    for one in EXAMPLES[::40]:
        assert shipped(one.prompt)["input_ids"] == tokenizer(one.prompt)["input_ids"]
