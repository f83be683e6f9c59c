from collections import Counter

import pytest

from safety_lightning.data.mixing import count_mix, count_shared_prompts, mix_contaminated, split_validation
from safety_lightning.data.sources import Example, ExampleKind


def make(kind: ExampleKind, count: int) -> list[Example]:
    return [Example(prompt=f"{kind} {number}", response="r", kind=kind) for number in range(count)]


@pytest.mark.parametrize(
    ("share", "of", "size", "expected"),
    [
        (0.2, "mix", None, (800, 200)),
        (0.2, "useful", None, (800, 160)),
        (0.2, "mix", 1000, (800, 200)),
        (0.2, "useful", 600, (500, 100)),
        (0.5, "mix", 11, (5, 6)),
    ],
)
def test_counts_exactly(share, of, size, expected):
    assert count_mix(800, harmful_share=share, harmful_share_of=of, size=size) == expected


@pytest.mark.parametrize("of", ["mix", "useful"])
def test_the_share_is_of_what_it_says(of):
    mix = mix_contaminated(make("useful", 1000), make("harmful", 500), harmful_share=0.2, harmful_share_of=of, seed=0)
    counts = Counter(example.kind for example in mix)
    assert (counts["useful"], counts["harmful"]) == count_mix(1000, harmful_share=0.2, harmful_share_of=of)
    assert counts["harmful"] / (counts.total() if of == "mix" else counts["useful"]) == 0.2
    assert len({example.prompt for example in mix}) == len(mix)


def test_the_mix_is_shuffled_by_the_seed():
    def draw(seed: int) -> list[Example]:
        return mix_contaminated(make("useful", 80), make("harmful", 90), harmful_share=0.2, seed=seed)

    assert draw(0) == draw(0) != draw(1)
    kinds = [example.kind for example in draw(0)]
    assert "harmful" in kinds[:30]
    assert {one.prompt for one in draw(0) if one.kind == "harmful"} != {f"harmful {number}" for number in range(20)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"harmful_share": 0.0}, r"harmful_share must be in \(0, 1\), got 0.0"),
        ({"harmful_share": 1.0}, r"harmful_share must be in \(0, 1\), got 1.0"),
        ({"harmful_share": 0.2, "harmful_share_of": "all"}, "harmful_share_of must be mix or useful, got 'all'"),
        ({"harmful_share": 0.01}, "at least one useful and one harmful example, got 8 and 0"),
        ({"harmful_share": 0.5}, "must have 8 harmful examples, got 3"),
        ({"harmful_share": 0.2, "size": 15}, "must have 12 useful examples, got 8"),
    ],
)
def test_refuses_a_mix_that_cannot_be_made(settings, message):
    with pytest.raises(ValueError, match=message):
        mix_contaminated(make("useful", 8), make("harmful", 3), seed=0, **settings)


def test_holds_back_the_same_share_of_each_kind():
    examples = make("useful", 80) + make("harmful", 20)
    train, validation = split_validation(examples, 10, seed=0)
    assert Counter(one.kind for one in validation) == {"useful": 8, "harmful": 2}
    assert Counter(one.kind for one in train) == {"useful": 72, "harmful": 18}
    assert split_validation(examples, 0.1, seed=0) == (train, validation)
    assert split_validation(examples, 10, seed=1)[1] != validation


def test_holds_back_whole_prompts():
    examples = [Example(prompt=f"p{number // 3}", response=str(number), kind="useful") for number in range(60)]
    train, validation = split_validation(examples, 10, seed=0)
    assert len(validation) == 9
    assert len(train) + len(validation) == 60
    assert not {one.prompt for one in train} & {one.prompt for one in validation}


@pytest.mark.parametrize("number", [10, 11, 0.999, 0.01])
def test_refuses_to_hold_back_all_or_nothing(number):
    with pytest.raises(ValueError, match="hold back at least 1 and not all of 10 examples, got"):
        split_validation(make("useful", 10), number, seed=0)


def test_refuses_a_share_out_of_range_and_one_prompt():
    with pytest.raises(ValueError, match=r"num_validation must be in \(0, 1\) where it is a share, got 1.5"):
        split_validation(make("useful", 10), 1.5, seed=0)
    with pytest.raises(ValueError, match="must leave whole prompts on both sides, got 2 of 4 examples with 1 prompts"):
        split_validation(make("useful", 1) * 4, 2, seed=0)


def test_counts_prompts_on_both_sides(caplog):
    assert count_shared_prompts(make("useful", 5), make("useful", 3)) == 3
    assert "3 of 3 validation examples have a prompt that is trained on" in caplog.text
    assert count_shared_prompts(make("useful", 5), make("harmful", 3)) == 0
