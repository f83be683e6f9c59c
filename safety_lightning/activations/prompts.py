"""Reads sets of prompts: distinct ones, as many as asked for, with their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from safety_lightning.data import (
    AdvBenchPrompts,
    InstructionSource,
    Template,
    encode_pairs,
    encode_prompt,
    is_generated,
    read_advbench_prompts,
    read_source,
    resolve_source,
)
from safety_lightning.errors import UserError
from safety_lightning.system.randomness import seed_generator, shuffle_range

Pair = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt of a set, encoded.

    Attributes:
        id: Its set's name and its place among the distinct prompts that were read.
        set: The name of its set.
        text: What the user says.
        input_ids: The tokens up to the point where the model has to answer.
        response_ids: The tokens of the set's own response without the stop token, where they are asked for.
    """

    id: str
    set: str
    text: str
    input_ids: list[int]
    response_ids: list[int] | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens the prompt has, without a response."""
        return len(self.input_ids)

    @property
    def length(self) -> int:
        """How many tokens the model is given: prompt and own response."""
        return self.num_tokens + len(self.response_ids or [])

    def hash_text(self) -> str:
        """Returns the SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """The prompts of a set.

    Attributes:
        name: The set's name.
        prompts: The prompts, no text twice.
        num_read: How many texts were read.
        num_repeated: How many of them had come before, and were left out.
        num_blank: How many rows had no text, and were left out before.
    """

    name: str
    prompts: list[EncodedPrompt]
    num_read: int
    num_repeated: int
    num_blank: int = 0


def read_set(
    name: str,
    source: str | InstructionSource,
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: Template = "chat",
    num_prompts: int | None = None,
    with_responses: bool = False,
    advbench_prompts: AdvBenchPrompts = "whole",
    seed: int,
) -> PromptSet:
    """Reads and encodes one set; repeats of a prompt (BeaverTails has several responses to each) are left out.

    Args:
        name: The set's name.
        source: A file, a data set on the hub, the lab or a preset. Its ``size`` overrides ``num_prompts``.
        tokenizer: The model's tokenizer.
        template: ``chat`` is the model's own chat template, ``plain`` a plain instruction text.
        num_prompts: How many distinct prompts to take; None takes all.
        with_responses: Whether to read and encode the set's own responses too.
        advbench_prompts: How the preset ``advbench`` is read.
        seed: Seed of the draw, and of what the lab makes. A smaller draw is the beginning of a larger one.

    Raises:
        UserError: If the source cannot be read or is empty, has fewer distinct prompts than asked for, or the
            template does not suit the tokenizer.
    """
    source = resolve_source(source)
    wanted = source.size or num_prompts
    pairs, num_blank = _read_pairs(source, wanted, with_responses, advbench_prompts, seed)
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair[0], pair)
    distinct = list(first.values())
    taken = _take(distinct, wanted, name, source, seed)
    return PromptSet(
        name=name,
        prompts=_encode(name, taken, tokenizer, template),
        num_read=len(pairs),
        num_repeated=len(pairs) - len(distinct),
        num_blank=num_blank,
    )


def check_set_names(names: Collection[str]) -> None:
    """Raises UserError if there is no set, or a name cannot be that of a folder."""
    if not names:
        raise UserError("sets must name at least one prompt set, got none")
    for name in names:
        if not name or name != name.strip() or any(sign in name for sign in "/\\") or name.startswith("."):
            raise UserError(f"a prompt set's name must be that of a folder, got {name!r}")


def _read_pairs(
    source: InstructionSource, wanted: int | None, with_responses: bool, advbench_prompts: AdvBenchPrompts, seed: int
) -> tuple[list[Pair], int]:
    """Reads all texts of a source, and counts the rows without text; a generator makes the wanted number."""
    is_made = is_generated(str(source.path))
    source = replace(source, size=wanted if is_made else None)
    is_cut = source.preset == "advbench" and advbench_prompts == "cut"
    if is_cut and with_responses:
        raise UserError("advbench_prompts must be whole where the sets' own responses are read, got cut")
    if is_cut:
        return [(text, None) for text in read_advbench_prompts(source, advbench_prompts="cut")], 0
    reading = read_source(source, seed=seed, kind="useful", with_responses=with_responses)
    pairs: list[Pair] = [(one.prompt, one.response if with_responses else None) for one in reading.examples]
    return pairs, reading.num_blank


def _take(
    distinct: list[Pair], wanted: int | None, name: str, source: InstructionSource, seed: int
) -> list[tuple[int, Pair]]:
    """Takes as many pairs as asked for, each with its place."""
    if wanted is not None and wanted > len(distinct):
        raise UserError(
            f"prompt set {name} must hold the {wanted} prompts asked for, got {len(distinct)} distinct ones in "
            f"{source.path}"
        )
    if wanted is None or source.pick == "first" or wanted == len(distinct):
        return list(enumerate(distinct[:wanted]))
    order = shuffle_range(len(distinct), seed_generator(f"sample/{seed}"))
    return [(index, distinct[index]) for index in order[:wanted]]


def _encode(
    name: str, taken: Sequence[tuple[int, Pair]], tokenizer: PreTrainedTokenizerBase, template: Template
) -> list[EncodedPrompt]:
    prompts = []
    for index, (text, response) in taken:
        input_ids, response_ids = _encode_pair(text, response, tokenizer, template)
        if not input_ids:
            raise UserError(f"prompt {name}-{index:05d} must have at least one token, got none from {text!r}")
        prompts.append(
            EncodedPrompt(id=f"{name}-{index:05d}", set=name, text=text, input_ids=input_ids, response_ids=response_ids)
        )
    return prompts


def _encode_pair(
    text: str, response: str | None, tokenizer: PreTrainedTokenizerBase, template: Template
) -> tuple[list[int], list[int] | None]:
    if response is None:
        return encode_prompt(tokenizer, text, template=template), None
    (whole,) = encode_pairs(tokenizer, [(text, response)], template=template)
    ids, num = whole.input_ids, whole.num_prompt_tokens
    return ids[:num], ids[num:-1] or ids[num:]  # the last is the stop token, unless the response is nothing else
