import os

import pytest
import torch

from safety_lightning.data import encoding
from safety_lightning.data.chat import EncodedExample, encode_pairs
from safety_lightning.data.dataset import compute_key, find_cache_folder, load_encoded
from safety_lightning.data.encoding import EncodingOptions, check_example, encode_dataset
from safety_lightning.data.sources import Example
from tests.data.conftest import CHAT_TEMPLATE, make_tokenizer


@pytest.fixture
def count_encoding(monkeypatch):
    """Counts how often anything is encoded."""
    calls = []
    encode_pairs = encoding.encode_pairs

    def count(*args, **kwargs):
        calls.append(1)
        return encode_pairs(*args, **kwargs)

    monkeypatch.setattr(encoding, "encode_pairs", count)
    return calls


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("train_eos", [True, False])
def test_encodes_as_single_examples_are(tokenizer, examples, template, train_eos):
    options = EncodingOptions(template=template, train_eos=train_eos)
    encoded = encode_dataset(tokenizer, examples, options)
    expected = [
        encode_pairs(tokenizer, [(one.prompt, one.response)], template=template, train_eos=train_eos)[0]
        for one in examples
    ]
    assert [encoded.dataset[index] for index in range(len(encoded.dataset))] == expected
    assert encoded.dataset.lengths == [len(one.input_ids) for one in expected]
    assert encoded.dataset.num_trained_tokens == sum(one.num_trained_tokens for one in expected)


def test_truncates_and_counts(tokenizer, examples):
    whole = encode_dataset(tokenizer, examples, EncodingOptions()).dataset
    limit = whole.lengths[5]
    encoded = encode_dataset(tokenizer, examples, EncodingOptions(max_length_tokens=limit, train_eos=False))
    assert encoded.summarize() == {
        "num_examples": 12,
        "num_kept": 12,
        "num_truncated": 6,
        "num_dropped": 0,
        "num_without_response": 0,
        "num_split_at_border": 0,
        "num_tokens": sum(min(length, limit) for length in whole.lengths),
        "num_trained_tokens": sum(range(1, 7)) + sum(limit - int(n) for n in whole.prompt_lengths[6:]),
        "longest_tokens": limit,
    }
    last = encoded.dataset[11]
    assert last.is_truncated
    assert last.labels[-1] == last.input_ids[-1] == tokenizer.convert_tokens_to_ids("x")


def test_drops_and_counts(tokenizer, examples, caplog):
    limit = encode_dataset(tokenizer, examples, EncodingOptions()).dataset.lengths[5]
    encoded = encode_dataset(tokenizer, examples, EncodingOptions(max_length_tokens=limit, too_long="drop"))
    assert (len(encoded.dataset), encoded.num_dropped, encoded.num_truncated) == (6, 6, 0)
    assert encoded.dataset.positions.tolist() == list(range(6))
    assert "6 of 12 examples are left out: 6 longer than" in caplog.text


def test_leaves_out_examples_whose_prompt_fills_the_length(tokenizer, examples):
    long = Example(prompt="Q" * 100, response="x", kind="useful")
    encoded = encode_dataset(tokenizer, [long, *examples], EncodingOptions(max_length_tokens=60))
    assert encoded.num_without_response == 1
    assert encoded.dataset.positions.tolist() == list(range(1, 13))


@pytest.mark.parametrize("too_long", ["truncate", "drop"])
def test_refuses_data_that_is_all_truncated_away(tokenizer, examples, too_long, tmp_path):
    options = EncodingOptions(max_length_tokens=10, too_long=too_long)
    with pytest.raises(ValueError, match=r"must leave room for responses .* got 10: the shortest of 12 examples has"):
        encode_dataset(tokenizer, examples, options, cache_folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length_tokens": 1}, "max_length_tokens must be at least 2, got 1"),
        ({"too_long": "wrap"}, "too_long must be truncate or drop, got 'wrap'"),
        ({"template": "alpaca"}, "template must be chat or plain, got 'alpaca'"),
    ],
)
def test_refuses_unknown_options(settings, message):
    with pytest.raises(ValueError, match=message):
        EncodingOptions(**settings)


def test_checks_every_example():
    check_example(EncodedExample([1, 2, 9], 1), EncodingOptions(), frozenset({9}))
    check_example(EncodedExample([1, 2, 3], 1, is_truncated=True), EncodingOptions(), frozenset({9}))
    check_example(EncodedExample([1, 2, 9], 1, 1), EncodingOptions(train_eos=False), frozenset({9}))
    with pytest.raises(ValueError, match=r"last trained token must be one of the stop tokens \[9\]"):
        check_example(EncodedExample([1, 2, 3], 1), EncodingOptions(), frozenset({9}))
    with pytest.raises(ValueError, match=r"last trained token must be one of the stop tokens \[9\]"):
        check_example(EncodedExample([1, 2, 9], 1, 1), EncodingOptions(), frozenset({9}))
    for prompt_tokens in (0, 3):
        with pytest.raises(ValueError, match="must have a prompt and a response"):
            check_example(EncodedExample([1, 2, 9], prompt_tokens), EncodingOptions(), frozenset({9}))


def test_counts_examples_that_were_split():
    merging = Example(prompt="Hi", response="\nFive", kind="useful")
    encoded = encode_dataset(make_tokenizer(merges=True), [merging] * 3, EncodingOptions())
    assert encoded.summarize()["num_split_at_border"] == 3
    assert encoded.dataset[2].is_split


def test_finds_encoded_data_in_the_cache(tokenizer, examples, tmp_path, count_encoding):
    options = EncodingOptions(max_length_tokens=54)
    first = encode_dataset(tokenizer, examples, options, cache_folder=tmp_path)
    second = encode_dataset(tokenizer, examples, options, cache_folder=tmp_path)
    assert len(count_encoding) == 1
    assert second.summarize() == first.summarize()
    assert [second.dataset[index] for index in range(12)] == [first.dataset[index] for index in range(12)]
    assert os.listdir(tmp_path) == [f"{first.key}.safetensors"]


def test_the_key_depends_on_all_that_matters_and_on_nothing_else(tokenizer):
    pairs = [("a", "b"), ("c", "d")]
    key = compute_key(tokenizer, pairs, {"template": "chat"})
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=2)  # leaves its settings in the tokenizer
    assert compute_key(make_tokenizer(), pairs, {"template": "chat"}) == key
    assert compute_key(tokenizer, pairs, {"template": "chat"}) == key
    others = [
        compute_key(tokenizer, pairs[::-1], {"template": "chat"}),
        compute_key(tokenizer, [("a", "bc"), ("", "d")], {"template": "chat"}),
        compute_key(tokenizer, pairs, {"template": "plain"}),
        compute_key(make_tokenizer(chat_template=CHAT_TEMPLATE + " "), pairs, {"template": "chat"}),
        compute_key(make_tokenizer(eos="</s>"), pairs, {"template": "chat"}),
        compute_key(make_tokenizer(merges=True), pairs, {"template": "chat"}),
    ]
    assert len({key, *others}) == 7


@pytest.mark.parametrize("damage", ["cut", "changed", "emptied", "garbage"])
def test_makes_a_damaged_cache_file_again(tokenizer, examples, tmp_path, count_encoding, caplog, damage):
    first = encode_dataset(tokenizer, examples, EncodingOptions(), cache_folder=tmp_path)
    path = tmp_path / f"{first.key}.safetensors"
    content = path.read_bytes()
    middle = len(content) - 100
    damaged = {
        "cut": content[:middle],
        "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "emptied": b"",
        "garbage": b"x" * 1000,
    }
    path.write_bytes(damaged[damage])
    second = encode_dataset(tokenizer, examples, EncodingOptions(), cache_folder=tmp_path)
    assert "Damaged cache file" in caplog.text
    assert len(count_encoding) == 2
    assert torch.equal(second.dataset.input_ids, first.dataset.input_ids)
    assert path.read_bytes() == content


def test_a_crash_while_writing_leaves_no_cache_file(tokenizer, examples, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(tokenizer, examples, EncodingOptions(), cache_folder=tmp_path)
    assert list(tmp_path.glob("*.safetensors")) == []


def test_goes_on_where_the_cache_cannot_be_written(tokenizer, examples, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in the way")
    encoded = encode_dataset(tokenizer, examples, EncodingOptions(), cache_folder=tmp_path / "cache")
    assert len(encoded.dataset) == 12
    assert "Encoded data is not kept" in caplog.text


def test_there_is_no_cache_file_for_an_unknown_key(tmp_path):
    assert load_encoded(tmp_path, "0" * 64) is None


def test_the_cache_folder_is_the_one_given_or_that_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAFETY_LIGHTNING_CACHE", str(tmp_path))
    assert find_cache_folder() == tmp_path / "encoded"
    assert find_cache_folder("/elsewhere") == find_cache_folder("/elsewhere").parent / "elsewhere"
    monkeypatch.delenv("SAFETY_LIGHTNING_CACHE")
    assert find_cache_folder().parts[-3:] == (".cache", "safety_lightning", "encoded")
