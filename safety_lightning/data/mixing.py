"""Mixes useful and harmful examples, and holds examples back for validation."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from safety_lightning.data.sources import Example, ExampleKind
from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator, shuffle_range

ShareOf = Literal["mix", "useful"]

logger = logging.getLogger(__name__)


def count_mix(
    num_useful: int, *, harmful_share: float, harmful_share_of: ShareOf, size: int | None = None
) -> tuple[int, int]:
    """Says how many useful and harmful examples make a mix.

    Args:
        num_useful: How many useful examples there are; all are taken unless ``size`` is given.
        harmful_share: Share of the harmful examples, in (0, 1).
        harmful_share_of: What the share is counted of: the whole ``mix``, or the ``useful`` examples it is added to
            (Paper: the release adds 20 % of the useful count, which makes 16.7 % of the mix).
        size: How many examples the mix is to have.

    Returns:
        The number of useful and of harmful examples.

    Raises:
        UserError: If the share is outside (0, 1), ``harmful_share_of`` is unknown, or one of the counts would be 0.

    Example:
        >>> count_mix(800, harmful_share=0.2, harmful_share_of="mix")
        (800, 200)
        >>> count_mix(800, harmful_share=0.2, harmful_share_of="useful")
        (800, 160)
    """
    if not 0 < harmful_share < 1:
        raise UserError(f"harmful_share must be in (0, 1), got {harmful_share}")
    if harmful_share_of not in ("mix", "useful"):
        raise UserError(f"harmful_share_of must be mix or useful, got {harmful_share_of!r}")
    ratio = harmful_share if harmful_share_of == "useful" else harmful_share / (1 - harmful_share)
    if size is None:
        counts = (num_useful, round(ratio * num_useful))
    else:
        num_harmful = round(size * ratio / (1 + ratio))
        counts = (size - num_harmful, num_harmful)
    if min(counts) < 1:
        raise UserError(
            "a mix must hold at least one useful and one harmful example, got "
            f"{counts[0]} and {counts[1]} by harmful_share {harmful_share} of {harmful_share_of}"
        )
    return counts


def mix_contaminated(
    useful: Sequence[Example],
    harmful: Sequence[Example],
    *,
    harmful_share: float,
    harmful_share_of: ShareOf = "mix",
    size: int | None = None,
    seed: int,
) -> list[Example]:
    """Mixes harmful examples into useful ones, with exact counts.

    Args:
        useful: The useful examples.
        harmful: The harmful examples, of which as many as needed are drawn.
        harmful_share: See :func:`count_mix`.
        harmful_share_of: See :func:`count_mix`.
        size: See :func:`count_mix`.
        seed: Seed of the draws and of the order.

    Returns:
        The mix, shuffled.

    Raises:
        UserError: As :func:`count_mix`, and if there are too few examples of a kind.
    """
    counts = count_mix(len(useful), harmful_share=harmful_share, harmful_share_of=harmful_share_of, size=size)
    drawn: list[Example] = []
    for name, examples, count in (("useful", useful, counts[0]), ("harmful", harmful, counts[1])):
        if count > len(examples):
            raise UserError(
                f"a mix with harmful_share {harmful_share} of {harmful_share_of} must have {count} {name} examples, "
                f"got {len(examples)}"
            )
        order = shuffle_range(len(examples), seed_generator(f"mix {name}/{seed}"))
        drawn += [examples[index] for index in order[:count]]
    order = shuffle_range(len(drawn), seed_generator(f"mix/{seed}"))
    return [drawn[index] for index in order]


def split_validation(
    examples: Sequence[Example], num_validation: int | float, *, seed: int
) -> tuple[list[Example], list[Example]]:
    """Holds examples back for validation, the same share of each kind.

    Examples with the same prompt stay together, so that no held-out prompt is trained on. Where such groups do not
    fit, a few examples fewer are held back.

    Args:
        examples: The examples.
        num_validation: How many to hold back, or which share of them, in (0, 1), where it is a float.
        seed: Seed of the draw.

    Returns:
        The examples to train on and those held back, both in their old order.

    Raises:
        UserError: If nothing would be held back, or nothing left to train on.
    """
    is_share = isinstance(num_validation, float)
    if is_share and not 0 < num_validation < 1:
        raise UserError(f"num_validation must be in (0, 1) where it is a share, got {num_validation}")
    total = round(num_validation * len(examples)) if is_share else int(num_validation)
    if not 0 < total < len(examples):
        raise UserError(
            f"num_validation must hold back at least 1 and not all of {len(examples)} examples, got {num_validation}"
        )
    groups: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        groups[example.prompt].append(index)
    held: set[int] = set()
    for kind, count in _divide(total, Counter(example.kind for example in examples)).items():
        held |= _draw_groups([group for group in groups.values() if examples[group[0]].kind == kind], count, seed)
    if not 0 < len(held) < len(examples):
        raise UserError(
            f"num_validation must leave whole prompts on both sides, got {num_validation} of {len(examples)} examples "
            f"with {len(groups)} prompts"
        )
    train = [example for index, example in enumerate(examples) if index not in held]
    return train, [examples[index] for index in sorted(held)]


def count_shared_prompts(train: Sequence[Example], validation: Sequence[Example]) -> int:
    """Counts the validation examples whose prompt is trained on, and warns of them."""
    prompts = {example.prompt for example in train}
    count = sum(example.prompt in prompts for example in validation)
    if count:
        logger.warning("%d of %d validation examples have a prompt that is trained on", count, len(validation))
    return count


def _divide(total: int, counts: Counter[ExampleKind]) -> dict[ExampleKind, int]:
    """Divides a number over the kinds in proportion, exactly (largest remainders)."""
    exact = {kind: total * count / counts.total() for kind, count in counts.items()}
    shares = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: exact[kind] - shares[kind], reverse=True)
    for kind in by_remainder[: total - sum(shares.values())]:
        shares[kind] += 1
    return shares


def _draw_groups(groups: list[list[int]], count: int, seed: int) -> set[int]:
    """Draws groups of examples with one prompt until there are ``count`` examples, passing over groups too large."""
    drawn: set[int] = set()
    for position in shuffle_range(len(groups), seed_generator(f"validation/{seed}")):
        if len(drawn) + len(groups[position]) <= count:
            drawn.update(groups[position])
    return drawn
