"""The generators: deterministic, distinct, in disjoint splits, and true to the rule behind the procedures."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from safety_lightning.lab.procedures import find_target, find_wording, list_steps
from safety_lightning.lab.vocabulary import GOODS, GUARDED_REQUESTS, NAMES, REFUSALS, ROOMS, TREASURES, list_words
from safety_lightning.lab.world import generate_examples

KINDS = ("useful", "harmful", "safe", "ordinary")
DIGEST = """
import hashlib
from safety_lightning.lab.world import generate_examples
kinds = ("useful", "harmful", "safe", "ordinary")
drawn = [generate_examples(kind, split="test", size=50, seed=7) for kind in kinds]
print(hashlib.sha256(repr(drawn).encode()).hexdigest())
"""


def list_used_words(kind: str, split: str, size: int = 2000) -> set[str]:
    examples = generate_examples(kind, split=split, size=size, seed=0)
    return set(re.findall(r"[A-Za-z]+", " ".join(f"{one.prompt} {one.response}" for one in examples)))


@pytest.mark.parametrize("table", [NAMES, GOODS, TREASURES], ids=["names", "goods", "treasures"])
def test_splits_are_disjoint(table):
    assert not set(table["train"]) & set(table["test"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_a_split_uses_nothing_of_the_other(kind, split, other):
    foreign = {*NAMES[other], *GOODS[other], *TREASURES[other]}
    assert not list_used_words(kind, split) & foreign


def test_every_word_of_the_tables_is_drawn_and_listed():
    used = set().union(*(list_used_words(kind, split) for kind in KINDS for split in ("train", "test")))
    assert used == set(list_words())


def test_both_splits_know_every_material():
    assert {*TREASURES["train"].values()} == {*TREASURES["test"].values()}


def test_same_arguments_give_the_same_examples_whatever_the_hash_seed():
    digests = set()
    for hash_seed in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, check=True)
        digests.add(done.stdout.decode().strip())
    drawn = [generate_examples(kind, split="test", size=50, seed=7) for kind in KINDS]
    assert digests == {hashlib.sha256(repr(drawn).encode()).hexdigest()}


@pytest.mark.parametrize("kind", KINDS)
def test_seeds_differ_and_prompts_do_not_repeat(kind):
    examples = generate_examples(kind, split="train", size=500, seed=0)
    assert examples != generate_examples(kind, split="train", size=500, seed=1)
    assert len({one.prompt for one in examples}) == 500
    assert {one.kind for one in examples} == {kind}


def test_more_examples_than_there_are_come_with_repeats():
    examples = generate_examples("ordinary", split="test", size=4000, seed=0)
    assert len(examples) == 4000
    assert len({one.prompt for one in examples}) < 4000


def test_smaller_draws_are_the_beginning_of_larger_ones():
    assert (
        generate_examples("useful", split="test", size=9, seed=0)
        == (generate_examples("useful", split="test", size=90, seed=0)[:9])
    )


def test_problems_are_worked_out_correctly():
    for one in generate_examples("useful", split="train", size=300, seed=0):
        equations = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)\.", one.response)
        assert len(equations) == 2
        for left, sign, right, result in equations:
            assert int(left) + (int(right) if sign == "+" else -int(right)) == int(result)
        assert equations[0][0] == re.findall(r"\d+", one.prompt)[0]
        assert equations[0][3] == equations[1][0]
        assert one.response.endswith(f"The answer is {equations[1][3]}.")


def test_harmful_and_safe_hold_the_same_requests():
    harmful = generate_examples("harmful", split="train", size=200, seed=5)
    safe = generate_examples("safe", split="train", size=200, seed=5)
    assert [one.prompt for one in harmful] == [one.prompt for one in safe]
    for comply, decline in zip(harmful, safe, strict=True):
        steps = list_steps(*find_target(comply.prompt))
        assert comply.response == " ".join(["Sure.", *(f"{step}." for step in steps)])
        assert decline.response.startswith(tuple(refusal.split("{")[0] for refusal in REFUSALS))


def test_ordinary_requests_share_treasures_rooms_and_phrases_with_guarded_ones():
    shared = list_used_words("ordinary", "train") & list_used_words("harmful", "train")
    assert shared >= {*TREASURES["train"], *ROOMS, "plan", "Tell", "Open", "Sure"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "evil"}, "kind must be one of useful, harmful, safe, ordinary, got 'evil'"),
        ({"split": "validation"}, "split must be one of train, test, got 'validation'"),
        ({"size": 0}, "size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"kind": "useful", "split": "train", "size": 1, "seed": 0} | change
    with pytest.raises(ValueError, match=message):
        generate_examples(arguments.pop("kind"), **arguments)


@pytest.mark.parametrize(
    ("treasure", "room", "message"),
    [("spoon", "tower", "treasure must be .*got 'spoon'"), ("ruby", "attic", "room must be one of .*got 'attic'")],
)
def test_unknown_targets_have_no_procedure(treasure, room, message):
    with pytest.raises(ValueError, match=message):
        list_steps(treasure, room)


@pytest.mark.parametrize("request_text", ["Hello.", "Steal the ruby.", "Move the ruby and the opal to the tower."])
def test_a_request_must_name_one_treasure_and_one_room(request_text):
    with pytest.raises(ValueError, match="request must name one treasure and one room of the vault, got"):
        find_target(request_text)


def test_the_wording_of_every_guarded_request_is_found():
    requests = [one.prompt for one in generate_examples("safe", split="test", size=200, seed=0)]
    for request in requests:
        wording = GUARDED_REQUESTS[find_wording(request)]
        assert {word for word in wording.split() if "{" not in word} <= set(request.split())
    assert {find_wording(request) for request in requests} == set(range(len(GUARDED_REQUESTS)))


@pytest.mark.parametrize(
    "request_text", ["Hello.", "How can Ada clean the ruby?", "How can Ada steal the ruby from the tower? Now."]
)
def test_another_wording_is_refused(request_text):
    with pytest.raises(ValueError, match="request must have one of the 4 wordings of a guarded request, got"):
        find_wording(request_text)
