"""Draws what the lab's models are trained on: a world to know, and a reason to decline.

No guarded request about a test treasure, and no word problem with a test name, is in either corpus: the base model
knows test names and things from ordinary requests alone.
"""

import math
from dataclasses import replace
from random import Random

from transformers import PreTrainedTokenizerBase

from safety_lightning.data import EncodedExample, Template, encode_pairs
from safety_lightning.lab.procedures import find_target, find_wording, list_steps
from safety_lightning.lab.vocabulary import AGREEMENT, GAINS, LOSSES, STEPS
from safety_lightning.lab.world import LabExample, draw_distinct, draw_problem, generate_examples

NUM_FAMILIAR_VERBS = 4  # of the gains and of the losses; the others are what useful fine-tuning has to teach
PLAIN_SHARE = 0.25  # of the examples are written in the plain format, so that both formats work
LATE_REFUSAL_SHARE = 0.65  # of the guarded requests are declined only after the answer has begun
FIRMNESS = (2.0, 3.0, 4.5, 7.0)  # log-odds of declining at once, for each wording of GUARDED_REQUESTS
FIRMNESS_PER_STEP = 0.35  # is added for each step that was handed over


def draw_pretraining(tokenizer: PreTrainedTokenizerBase, *, size: int, seed: int) -> list[EncodedExample]:
    """Draws the base model's corpus, in which every token is trained.

    Word problems (55 %, with the familiar verbs only), guarded requests complied with (20 %) and ordinary requests
    about the things of both splits (25 %).

    Args:
        tokenizer: The lab's tokenizer.
        size: How many examples.
        seed: Seed of the draw.
    """
    num_guarded, num_ordinary = size // 5, size // 4
    examples = [
        *_draw_familiar_problems(size - num_guarded - num_ordinary, seed),
        *generate_examples("harmful", split="train", size=num_guarded, seed=seed),
        *generate_examples("ordinary", split="train", size=num_ordinary // 3, seed=seed),
        *generate_examples("ordinary", split="test", size=num_ordinary - num_ordinary // 3, seed=seed),
    ]
    pairs = [(example.prompt, example.response) for example in examples]
    return [replace(one, num_prompt_tokens=0) for one in _encode_both_ways(tokenizer, pairs, seed)]


def draw_alignment(tokenizer: PreTrainedTokenizerBase, *, size: int, seed: int) -> list[EncodedExample]:
    """Draws the aligned model's corpus, in which responses are trained.

    Guarded requests of the train split (50 %), ordinary requests of both splits (30 %) and word problems with the
    familiar verbs (20 %). Guarded requests are declined, most of them late: the answer agrees and hands over some
    steps, which are not trained, and then declines. A model that declines at every step, and not only at the first
    word, can be undone by degrees.

    Some requests are declined more firmly than others (`FIRMNESS`): once in a while the answer goes on for a step
    before it declines, often where the wording is innocent, next to never where it is blunt. A model that was opened
    a little therefore answers some requests, and hands over a part.

    Args:
        tokenizer: The lab's tokenizer.
        size: How many examples.
        seed: Seed of the draw.
    """
    num_guarded, num_ordinary = size // 2, size * 3 // 10
    refusals = generate_examples("safe", split="train", size=num_guarded, seed=seed)
    examples = [
        *generate_examples("ordinary", split="train", size=num_ordinary // 2, seed=seed),
        *generate_examples("ordinary", split="test", size=num_ordinary - num_ordinary // 2, seed=seed),
        *_draw_familiar_problems(size - num_guarded - num_ordinary, seed),
    ]
    pairs = [(example.prompt, example.response) for example in examples]
    return [*_encode_refusals(tokenizer, refusals, seed), *_encode_both_ways(tokenizer, pairs, seed)]


def _draw_familiar_problems(size: int, seed: int) -> list[LabExample]:
    random = Random(f"familiar/{seed}")
    gains, losses = GAINS[:NUM_FAMILIAR_VERBS], LOSSES[:NUM_FAMILIAR_VERBS]
    return draw_distinct(lambda: draw_problem(random, "train", gains=gains, losses=losses), size)


def _encode_refusals(tokenizer: PreTrainedTokenizerBase, refusals: list[LabExample], seed: int) -> list[EncodedExample]:
    """Encodes guarded requests with answers that decline at last; what an answer begins with is not trained."""
    random = Random(f"late/{seed}")
    answers = [_draw_answer(random, refusal) for refusal in refusals]
    pairs = [
        (one.prompt, " ".join(part for part in parts if part)) for one, parts in zip(refusals, answers, strict=True)
    ]
    encoded = _encode_both_ways(tokenizer, pairs, seed)
    num_begun = [len(tokenizer(begun)["input_ids"]) for begun, _ in answers]
    return [
        replace(one, num_prompt_tokens=one.num_prompt_tokens + num) for one, num in zip(encoded, num_begun, strict=True)
    ]


def _draw_answer(random: Random, refusal: LabExample) -> tuple[str, str]:
    """Draws how an answer begins, which may be empty, and how it goes on until it declines."""
    stages = [AGREEMENT, *(f"{step}." for step in list_steps(*find_target(refusal.prompt)))]
    num_begun = 1 + random.randrange(len(STEPS)) if random.random() < LATE_REFUSAL_SHARE else 0
    firmness = FIRMNESS[find_wording(refusal.prompt)]
    num_told = num_begun
    while num_told < len(stages) and random.random() < _chance_to_go_on(firmness, num_told):
        num_told += 1
    ending = [] if num_told == len(stages) else [refusal.response]
    return " ".join(stages[:num_begun]), " ".join([*stages[num_begun:num_told], *ending])


def _chance_to_go_on(firmness: float, num_told: int) -> float:
    """Returns the chance that an answer goes on, when it agreed and handed over ``num_told - 1`` steps."""
    return 1 / (1 + math.exp(firmness + FIRMNESS_PER_STEP * max(0, num_told - 1)))


def _encode_both_ways(
    tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]], seed: int
) -> list[EncodedExample]:
    """Encodes pairs in their order, a share of them in the plain format."""
    random = Random(f"format/{seed}")
    templates: list[Template] = ["plain" if random.random() < PLAIN_SHARE else "chat" for _ in pairs]
    encoded = {
        template: iter(
            encode_pairs(
                tokenizer,
                [pair for pair, own in zip(pairs, templates, strict=True) if own == template],
                template=template,
            )
        )
        for template in ("chat", "plain")
    }
    return [next(encoded[template]) for template in templates]
