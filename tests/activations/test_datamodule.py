"""Prompts as batches: planned the same way always, matched in length, counted."""

from pathlib import Path
from typing import Any

import pytest

from safety_lightning.activations.prompts import EncodedPrompt
from safety_lightning.activations.shards import count_shard_prompts, plan_shards
from safety_lightning.data import InstructionSource
from tests.activations.conftest import make_data

LENGTHS = {"a": [5, 2, 9, 2, 7, 1, 3], "b": [4, 4, 1]}


@pytest.fixture
def prompts() -> list[EncodedPrompt]:
    return [
        EncodedPrompt(id=f"{name}-{at}", set=name, text=f"{name}{at}", input_ids=[1] * length)
        for name, lengths in LENGTHS.items()
        for at, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("sort_by_length", [True, False])
@pytest.mark.parametrize(("batch_size", "shard_prompts"), [(2, 4), (3, 1), (1, 2), (50, 50), (2, 5)])
def test_every_prompt_is_in_one_batch_of_one_shard(
    prompts: list[EncodedPrompt], batch_size: int, shard_prompts: int, sort_by_length: bool
) -> None:
    shards = plan_shards(prompts, batch_size=batch_size, shard_prompts=shard_prompts, sort_by_length=sort_by_length)
    assert sorted(index for shard in shards for index in shard.members) == list(range(len(prompts)))
    for shard in shards:
        assert {prompts[index].set for index in shard.members} == {shard.set}
        assert len(shard.members) <= max(shard_prompts, batch_size)
        assert all(len(batch) == batch_size for batch in shard.batches[:-1])
    for name in LENGTHS:
        own = [shard for shard in shards if shard.set == name]
        assert [shard.number for shard in own] == list(range(len(own)))
        order = [index for shard in own for index in shard.members]
        lengths = [prompts[index].length for index in order]
        assert lengths == (sorted(lengths) if sort_by_length else LENGTHS[name])


def test_a_shard_has_a_bounded_size() -> None:
    num_prompts = count_shard_prompts(28, 1536, shard_megabytes=16)
    assert num_prompts * 29 * 1536 * 4 <= 16e6 < (num_prompts + 1) * 29 * 1536 * 4
    assert count_shard_prompts(80, 8192, shard_megabytes=0.1) == 1


def test_batches_are_padded_on_the_side_asked_for(model_folder: Path) -> None:
    for padding in ("left", "right"):
        data = make_data(model_folder, padding=padding)
        data.prepare()
        batch = data.collate(list(range(18)))
        assert batch.response_mask is None
        for index, ids, mask in zip(batch.indices, batch.input_ids, batch.attention_mask, strict=True):
            prompt = data.prompts[index]
            assert ids[mask.bool()].tolist() == prompt.input_ids
            padded = mask.flip(0) if padding == "left" else mask
            assert padded.tolist() == sorted(padded.tolist(), reverse=True)
            assert (ids[~mask.bool()] == batch.pad_token_id).all()


def test_responses_are_marked(model_folder: Path) -> None:
    data = make_data(model_folder, with_responses=True, padding="left")
    data.prepare()
    for batch in data.predict_dataloader():
        for row, index in enumerate(batch.indices):
            prompt = data.prompts[index]
            assert batch.input_ids[row][batch.response_mask[row].bool()].tolist() == prompt.response_ids


def test_matched_sets_are_as_many_and_as_long_as_each_other(model_folder: Path) -> None:
    sets = {
        "harmful": InstructionSource(preset="lab:harmful", size=60),
        "ordinary": InstructionSource(preset="lab:ordinary", size=80),
    }
    data = make_data(model_folder, sets, match_lengths=True, match_tolerance_tokens=1, num_prompts=10)
    data.prepare()
    summary = data.summary()
    for name, num_read in (("harmful", 60), ("ordinary", 80)):
        counts = summary[name]
        assert (counts["num_read"], counts["num_prompts"]) == (num_read, 10)
        assert counts["num_matched"] + counts["num_unmatched"] == num_read
        assert counts["num_matched"] > 10
    harmful, ordinary = data.prompts[:10], data.prompts[10:]
    for one, other in zip(harmful, ordinary, strict=True):
        assert abs(one.num_tokens - other.num_tokens) <= 1
    again = make_data(model_folder, sets, match_lengths=True, match_tolerance_tokens=1, num_prompts=10)
    again.prepare()
    assert again.input_hashes() == data.input_hashes()
    other_seed = make_data(model_folder, sets, match_lengths=True, match_tolerance_tokens=1, num_prompts=10, seed=1)
    other_seed.prepare()
    assert other_seed.input_hashes() != data.input_hashes()
    assert "num_matched" not in make_summary(model_folder)["useful"]


def make_summary(model_folder: Path) -> dict[str, Any]:
    data = make_data(model_folder)
    data.prepare()
    return data.summary()


def test_summary_counts_tokens(model_folder: Path) -> None:
    summary = make_summary(model_folder)
    assert {name: counts["num_prompts"] for name, counts in summary.items()} == {"useful": 11, "harmful": 7}
    for counts in summary.values():
        assert counts["shortest_tokens"] <= counts["mean_tokens"] <= counts["longest_tokens"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
        ({"padding": "both"}, "padding must be left or right, got 'both'"),
        ({"match_tolerance_tokens": -1}, "match_tolerance_tokens must be at least 0, got -1"),
        ({"match_lengths": True, "sets": {"a": "lab:useful"}}, "must have at least two sets to match, got 1"),
    ],
)
def test_refuses_settings_out_of_range(model_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_data(model_folder, **options)
