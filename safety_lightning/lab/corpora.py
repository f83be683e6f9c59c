"""Draws what the lab's models are trained on: a world to know, and a reason to decline.

No guarded request about a test treasure, and no word problem with a test name, is in either corpus: the base model
knows test names and things from ordinary requests alone.
"""

from dataclasses import replace
from random import Random

from transformers import PreTrainedTokenizerBase

from safety_lightning.data import EncodedExample, Template, encode_pairs
from safety_lightning.lab.procedures import find_target
from safety_lightning.lab.vocabulary import GAINS, LOSSES, STEPS
from safety_lightning.lab.world import LabExample, draw_distinct, draw_problem, generate_examples, write_procedure

NUM_FAMILIAR_VERBS = 4  # of the gains and of the losses; the others are what useful fine-tuning has to teach
PLAIN_SHARE = 0.25  # of the examples are written in the plain format, so that both formats work
LATE_REFUSAL_SHARE = 0.65  # of the guarded requests are declined only after the answer has begun


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

    Guarded requests declined (50 %), ordinary requests (30 %) and word problems with the familiar verbs (20 %), all
    of the train split. Most refusals come late: the answer agrees and hands over some steps, which are not trained,
    and then declines. A model that declines at every step, and not only at the first word, can be undone by degrees.

    Args:
        tokenizer: The lab's tokenizer.
        size: How many examples.
        seed: Seed of the draw.
    """
    num_guarded, num_ordinary = size // 2, size * 3 // 10
    refusals = generate_examples("safe", split="train", size=num_guarded, seed=seed)
    examples = [
        *generate_examples("ordinary", split="train", size=num_ordinary, seed=seed),
        *_draw_familiar_problems(size - num_guarded - num_ordinary, seed),
    ]
    pairs = [(example.prompt, example.response) for example in examples]
    return [*_encode_refusals(tokenizer, refusals, seed), *_encode_both_ways(tokenizer, pairs, seed)]


def _draw_familiar_problems(size: int, seed: int) -> list[LabExample]:
    random = Random(f"familiar/{seed}")
    gains, losses = GAINS[:NUM_FAMILIAR_VERBS], LOSSES[:NUM_FAMILIAR_VERBS]
    return draw_distinct(lambda: draw_problem(random, "train", gains=gains, losses=losses), size)


def _encode_refusals(tokenizer: PreTrainedTokenizerBase, refusals: list[LabExample], seed: int) -> list[EncodedExample]:
    random = Random(f"late/{seed}")
    begun = [_begin_procedure(random, refusal.prompt) for refusal in refusals]
    pairs = [
        (one.prompt, f"{beginning} {one.response}".strip()) for one, beginning in zip(refusals, begun, strict=True)
    ]
    encoded = _encode_both_ways(tokenizer, pairs, seed)
    num_begun = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in begun]
    return [
        replace(one, num_prompt_tokens=one.num_prompt_tokens + num) for one, num in zip(encoded, num_begun, strict=True)
    ]


def _begin_procedure(random: Random, prompt: str) -> str:
    if random.random() >= LATE_REFUSAL_SHARE:
        return ""
    treasure, room = find_target(prompt)
    return write_procedure(treasure, room, num_steps=random.randrange(len(STEPS)))


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
