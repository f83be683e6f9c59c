import random

import pytest

from safety_lightning.data.batching import LengthGroupedBatchSampler, Padding, collate_examples, pad_sequences
from safety_lightning.data.chat import EncodedExample


def draw_lengths(count: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed)
    return [generator.randint(1, 200) for _ in range(count)]


def count_padding(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in batches)


@pytest.mark.parametrize(
    ("padding", "ids", "mask"),
    [
        ("left", [[5, 6, 7], [0, 0, 8], [0, 9, 10]], [[1, 1, 1], [0, 0, 1], [0, 1, 1]]),
        ("right", [[5, 6, 7], [8, 0, 0], [9, 10, 0]], [[1, 1, 1], [1, 0, 0], [1, 1, 0]]),
    ],
)
def test_masks_come_from_lengths(padding: Padding, ids: list[list[int]], mask: list[list[int]]) -> None:
    found = pad_sequences([[5, 6, 7], [8], [9, 10]], pad_token_id=0, padding=padding)
    assert [one.tolist() for one in found] == [ids, mask]


def test_pads_and_masks_by_length_where_the_padding_is_the_end_token():
    examples = [EncodedExample([5, 6, 2], 1), EncodedExample([5, 2], 1), EncodedExample([5, 6, 7, 2], 2, 1)]
    batch = collate_examples(examples, pad_token_id=2)
    assert batch["input_ids"].tolist() == [[5, 6, 2, 2], [5, 2, 2, 2], [5, 6, 7, 2]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, 6, 2, -100], [-100, 2, -100, -100], [-100, -100, 7, -100]]
    assert {str(tensor.dtype) for tensor in batch.values()} == {"torch.int64"}


def test_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="at least one example, got none"):
        collate_examples([], pad_token_id=0)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(
    ("count", "batch_size", "world_size"), [(1, 1, 1), (7, 3, 1), (103, 4, 2), (64, 4, 4), (999, 2, 3)]
)
def test_every_example_comes_exactly_once(count, batch_size, world_size, grouped):
    samplers = [
        LengthGroupedBatchSampler(
            draw_lengths(count), batch_size, seed=1, grouped=grouped, rank=rank, world_size=world_size
        )
        for rank in range(world_size)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert {len(of_rank) for of_rank in batches} == {len(samplers[0])}
    assert all(0 < len(batch) <= batch_size for of_rank in batches for batch in of_rank)
    seen = [index for of_rank in batches for batch in of_rank for index in batch]
    assert len(seen) == len(set(seen)) == count - samplers[0].num_left_out


def test_leaves_out_examples_only_where_they_are_fewer_than_the_ranks():
    sampler = LengthGroupedBatchSampler([1] * 13, 2, seed=0, rank=0, world_size=4)
    assert (sampler.num_left_out, len(sampler)) == (0, 2)
    sampler = LengthGroupedBatchSampler([1] * 11, 2, seed=0, rank=0, world_size=4)
    assert (sampler.num_left_out, len(sampler)) == (3, 1)


@pytest.mark.parametrize("world_size", [1, 2])
def test_grouping_saves_padding(world_size):
    lengths = draw_lengths(2000)
    grouped, random_order = (
        list(LengthGroupedBatchSampler(lengths, 8, seed=0, grouped=grouped, world_size=world_size))
        for grouped in (True, False)
    )
    assert count_padding(lengths, grouped) < 0.2 * count_padding(lengths, random_order)


def test_grouped_batches_do_not_come_in_order_of_length():
    lengths = draw_lengths(800)
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in LengthGroupedBatchSampler(lengths, 8, seed=0)]
    assert sorted(means) != means
    assert sorted(means, reverse=True) != means


def test_the_order_depends_on_seed_and_epoch_alone():
    def draw(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthGroupedBatchSampler(draw_lengths(100), 4, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert draw(0, 0) == draw(0, 0)
    assert draw(0, 0) != draw(0, 1) != draw(1, 1)


def test_goes_on_from_a_batch_once():
    sampler = LengthGroupedBatchSampler(draw_lengths(50), 4, seed=0)
    whole = list(sampler)
    sampler.first_batch = 5
    assert list(sampler) == whole[5:]
    assert list(sampler) == whole
    assert len(sampler) == len(whole)


def test_the_ranks_of_one_step_see_similar_lengths():
    lengths = draw_lengths(1000)
    ranks = [list(LengthGroupedBatchSampler(lengths, 4, seed=0, rank=rank, world_size=2)) for rank in range(2)]
    together = [first + second for first, second in zip(*ranks, strict=True)]
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in together]
    assert sum(spread) / len(spread) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"batch_size": 1, "world_size": 4}, "an example for each of 4 processes, got 3"),
    ],
)
def test_refuses_numbers_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthGroupedBatchSampler([1, 2, 3], seed=0, **arguments)
