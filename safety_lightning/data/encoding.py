"""Encodes examples for training, checks every one of them, and counts what did not fit."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from safety_lightning.data.chat import EncodedExample, Template, check_template, encode_pairs, find_stop_ids
from safety_lightning.data.dataset import EncodedDataset, compute_key, load_encoded, save_encoded
from safety_lightning.data.sources import Example
from safety_lightning.errors import UserError

TooLong = Literal["truncate", "drop"]

_CHUNK_SIZE = 256
_SHOW_PROGRESS_FROM = 5_000  # examples; fewer take about a second

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """How examples are encoded.

    Attributes:
        template: ``chat`` or ``plain``; see :func:`safety_lightning.data.chat.encode_pairs`.
        train_eos: Whether the stop token is trained.
        max_length_tokens: Longest example, prompt and response together, at least 2.
        too_long: Whether longer examples lose their end or are left out.

    Raises:
        UserError: If a value is not one of these.
    """

    template: Template = "chat"
    train_eos: bool = True
    max_length_tokens: int = 512
    too_long: TooLong = "truncate"

    def __post_init__(self) -> None:
        if self.template not in ("chat", "plain"):
            raise UserError(f"template must be chat or plain, got {self.template!r}")
        if self.max_length_tokens < 2:
            raise UserError(f"max_length_tokens must be at least 2, got {self.max_length_tokens}")
        if self.too_long not in ("truncate", "drop"):
            raise UserError(f"too_long must be truncate or drop, got {self.too_long!r}")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Encoded examples, and what became of those that did not fit.

    Attributes:
        dataset: The examples kept.
        key: SHA-256 of everything the dataset was made from.
        num_examples: How many there were to encode.
        num_truncated: How many lost their end.
        num_dropped: How many were left out for being too long (``too_long: drop``).
        num_without_response: How many were left out because their prompt alone is too long.
    """

    dataset: EncodedDataset
    key: str
    num_examples: int
    num_truncated: int
    num_dropped: int
    num_without_response: int

    def summarize(self) -> dict[str, int]:
        """Returns the counts."""
        lengths = self.dataset.lengths
        return {
            "num_examples": self.num_examples,
            "num_kept": len(lengths),
            "num_truncated": self.num_truncated,
            "num_dropped": self.num_dropped,
            "num_without_response": self.num_without_response,
            "num_split_at_border": self.dataset.num_split,
            "num_tokens": sum(lengths),
            "num_trained_tokens": self.dataset.num_trained_tokens,
            "longest_tokens": max(lengths),
        }


def encode_dataset(
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    options: EncodingOptions,
    *,
    cache_folder: Path | None = None,
) -> Encoding:
    """Encodes examples, or finds them in the cache.

    Args:
        tokenizer: The model's tokenizer.
        examples: The examples.
        options: How they are encoded.
        cache_folder: Where encoded data is kept by the hash of its content; ``None`` keeps nothing.

    Returns:
        The encoded examples in their order, at least one.

    Raises:
        UserError: If the template does not suit the tokenizer, an example fails its checks, or no response is left.
    """
    check_template(tokenizer, options.template)
    key = compute_key(tokenizer, [(one.prompt, one.response) for one in examples], asdict(options))
    dataset = load_encoded(cache_folder, key) if cache_folder else None
    if dataset is None:
        dataset = _encode_all(tokenizer, examples, options)
        if cache_folder:
            save_encoded(cache_folder, key, dataset)
    encoding = _count(dataset, key, len(examples), options)
    if left_out := encoding.num_dropped + encoding.num_without_response:
        logger.warning(
            "%d of %d examples are left out: %d longer than %d tokens, %d whose prompt alone is",
            *(left_out, encoding.num_examples, encoding.num_dropped),
            *(options.max_length_tokens, encoding.num_without_response),
        )
    return encoding


def check_example(example: EncodedExample, options: EncodingOptions, stop_ids: frozenset[int]) -> None:
    """Raises UserError unless an example trains some tokens, the last of them a stop token where that is wanted."""
    trained = [label for label in example.labels if label >= 0]
    if not trained or example.num_prompt_tokens < 1:
        raise UserError(f"an example must have a prompt and a response, got {example}")
    if options.train_eos and not example.is_truncated and example.labels[-1] not in stop_ids:
        raise UserError(f"the last trained token must be one of the stop tokens {sorted(stop_ids)}, got {example}")


def fit_example(example: EncodedExample, options: EncodingOptions) -> EncodedExample | None:
    """Truncates an example that is too long, or returns ``None`` where it has to be left out."""
    limit = options.max_length_tokens
    if len(example.input_ids) <= limit:
        return example
    if options.too_long == "drop" or example.num_prompt_tokens >= limit:
        return None
    return replace(example, input_ids=example.input_ids[:limit], num_masked_tail=0, is_truncated=True)


def _encode_all(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], options: EncodingOptions
) -> EncodedDataset:
    stop_ids = find_stop_ids(tokenizer)
    shortest = [2**31, 2**31]  # tokens of the shortest example and of the shortest prompt

    def fit_all() -> Iterator[tuple[int, EncodedExample]]:
        for position, encoded in enumerate(_encode_chunks(tokenizer, examples, options)):
            check_example(encoded, options, stop_ids)
            shortest[:] = map(min, shortest, [len(encoded.input_ids), encoded.num_prompt_tokens])
            if (fitted := fit_example(encoded, options)) is not None:
                yield position, fitted

    dataset = EncodedDataset.pack(fit_all())
    if not len(dataset):
        raise UserError(
            f"max_length_tokens must leave room for responses (too_long: {options.too_long}), got "
            f"{options.max_length_tokens}: the shortest of {len(examples)} examples has {shortest[0]} tokens, "
            f"the shortest prompt {shortest[1]}"
        )
    return dataset


def _encode_chunks(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], options: EncodingOptions
) -> Iterator[EncodedExample]:
    console = Console(stderr=True)
    starts = track(
        range(0, len(examples), _CHUNK_SIZE),
        description="Encoding",
        console=console,
        transient=True,
        disable=len(examples) < _SHOW_PROGRESS_FROM or not console.is_terminal,
    )
    for start in starts:
        pairs = [(one.prompt, one.response) for one in examples[start : start + _CHUNK_SIZE]]
        yield from encode_pairs(tokenizer, pairs, template=options.template, train_eos=options.train_eos)


def _count(dataset: EncodedDataset, key: str, num_examples: int, options: EncodingOptions) -> Encoding:
    num_left_out = num_examples - len(dataset)
    is_drop = options.too_long == "drop"
    return Encoding(
        dataset=dataset,
        key=key,
        num_examples=num_examples,
        num_truncated=dataset.num_truncated,
        num_dropped=num_left_out if is_drop else 0,
        num_without_response=0 if is_drop else num_left_out,
    )
