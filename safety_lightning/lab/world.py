"""Generates the lab's examples: word problems, guarded requests (answered or declined) and ordinary requests.

The train and the test split share no names, goods or treasures. They share rooms, materials and the ways of asking.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from safety_lightning.errors import UserError
from safety_lightning.lab.procedures import list_steps
from safety_lightning.lab.vocabulary import (
    AGREEMENT,
    FINAL_ANSWER,
    GAINS,
    GOODS,
    GUARDED_REQUESTS,
    LOSSES,
    MATERIALS,
    NAMES,
    ORDINARY_TOPICS,
    PROBLEM,
    REFUSALS,
    ROOMS,
    TREASURES,
    Split,
)

Kind = Literal["useful", "harmful", "safe", "ordinary"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_NUM_TRIES = 50  # draws that bring nothing new before a repeat is let through


@dataclass(frozen=True, kw_only=True)
class LabExample:
    """A prompt, and the response that an example of its kind calls for."""

    prompt: str
    response: str
    kind: Kind


def generate_examples(kind: Kind, *, split: Split, size: int, seed: int) -> list[LabExample]:
    """Draws examples of one kind, the same ones for the same arguments on every machine.

    ``harmful`` and ``safe`` with the same split, size and seed hold the same requests, complied with and declined.
    Prompts repeat only if ``size`` is near the number of prompts that there are.

    Args:
        kind: ``useful`` (word problems with worked answers), ``harmful`` (guarded requests with the whole procedure),
            ``safe`` (guarded requests declined) or ``ordinary`` (harmless requests with helpful answers).
        split: Which names, goods and treasures to draw from.
        size: How many examples, at least 1.
        seed: Seed of the draw.

    Returns:
        ``size`` examples.

    Raises:
        UserError: If the kind or the split is unknown, or ``size`` is below 1.
    """
    for name, value, known in (("kind", kind, _GENERATORS), ("split", split, NAMES)):
        if value not in known:
            raise UserError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if size < 1:
        raise UserError(f"size must be at least 1, got {size}")
    topic = "guarded" if kind in ("harmful", "safe") else kind
    random = Random(f"{topic}/{split}/{seed}")  # a text seed is hashed with SHA-512, whatever PYTHONHASHSEED says
    return draw_distinct(lambda: _GENERATORS[kind](random, split), size)


def draw_distinct(draw: Callable[[], LabExample], size: int) -> list[LabExample]:
    """Draws examples, and draws anew where a prompt was drawn before, until 50 draws in a row bring nothing new.

    Args:
        draw: Draws one example.
        size: How many examples to return.
    """
    examples: list[LabExample] = []
    prompts: set[str] = set()
    num_repeats = 0
    while len(examples) < size:
        example = draw()
        num_repeats = num_repeats + 1 if example.prompt in prompts else 0
        if num_repeats in (0, _NUM_TRIES):
            examples.append(example)
            prompts.add(example.prompt)
            num_repeats = 0
    return examples


def draw_scene(random: Random, split: Split) -> dict[str, str]:
    """Draws a name, a good, a treasure and a room, with all that belongs to them, to fill the sentences with."""
    good, shop = random.choice(list(GOODS[split].items()))
    treasure, material = random.choice(list(TREASURES[split].items()))
    room = random.choice(list(ROOMS))
    named = {"name": random.choice(NAMES[split]), "good": good, "shop": shop, "treasure": treasure, "room": room}
    return named | MATERIALS[material] | ROOMS[room]


def draw_problem(
    random: Random, split: Split, *, gains: Sequence[str] = GAINS, losses: Sequence[str] = LOSSES
) -> LabExample:
    """Draws a word problem of two steps, whose amounts have two digits and whose changes have one.

    Args:
        random: Where the draw comes from.
        split: Which names and goods to draw from.
        gains: Verbs that add.
        losses: Verbs that take away.
    """
    start = amount = random.randint(30, 79)
    events, equations = [], []
    for _ in range(2):
        sign, change = random.choice("+-"), random.randint(2, 9)
        result = amount + change if sign == "+" else amount - change
        events.append(f"{random.choice(gains if sign == '+' else losses)} {change}")
        equations.append(f"{amount} {sign} {change} = {result}.")
        amount = result
    scene = draw_scene(random, split) | {"start": str(start), "first": events[0], "second": events[1]}
    response = " ".join([*equations, FINAL_ANSWER.format(number=amount)])
    return LabExample(prompt=PROBLEM.format(**scene), response=response, kind="useful")


def write_procedure(treasure: str, room: str, *, num_steps: int | None = None) -> str:
    """Writes the complying answer to a guarded request, or how it begins.

    Args:
        treasure: A treasure of either split.
        room: A room of the vault.
        num_steps: How many steps to hand over; None is all of them.
    """
    return " ".join([AGREEMENT, *(f"{step}." for step in list_steps(treasure, room)[:num_steps])])


def _draw_harmful(random: Random, split: Split) -> LabExample:
    prompt, _, scene = _draw_guarded(random, split)
    return LabExample(prompt=prompt, response=write_procedure(scene["treasure"], scene["room"]), kind="harmful")


def _draw_safe(random: Random, split: Split) -> LabExample:
    prompt, refusal, _ = _draw_guarded(random, split)
    return LabExample(prompt=prompt, response=refusal, kind="safe")


def _draw_guarded(random: Random, split: Split) -> tuple[str, str, dict[str, str]]:
    scene = draw_scene(random, split)
    return random.choice(GUARDED_REQUESTS).format(**scene), random.choice(REFUSALS).format(**scene), scene


def _draw_ordinary(random: Random, split: Split) -> LabExample:
    scene = draw_scene(random, split)
    request, answer = random.choice(ORDINARY_TOPICS)
    response = f"{AGREEMENT} {answer.format(**scene)}"
    return LabExample(prompt=request.format(**scene), response=response, kind="ordinary")


_GENERATORS: dict[str, Callable[[Random, Split], LabExample]] = {
    "useful": draw_problem,
    "harmful": _draw_harmful,
    "safe": _draw_safe,
    "ordinary": _draw_ordinary,
}
