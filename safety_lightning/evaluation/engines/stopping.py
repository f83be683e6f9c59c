"""Finds where an answer ends: at one of the model's own end tokens, or where a stop string begins."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import GenerationConfig, PreTrainedTokenizerBase

from safety_lightning.data import find_stop_ids
from safety_lightning.evaluation.engines.protocol import Answer, AnswerLimits, Finish


class EndTokens:
    """The ids that end a model's answers.

    A base model that is used with a chat template (Qwen's) ends its turns with a special token that neither its
    generation settings nor its tokenizer name as the end; in plain text only those that are named end an answer.

    Args:
        tokenizer: The model's tokenizer.
        config: The model's generation settings.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: GenerationConfig | None) -> None:
        own = None if config is None else config.eos_token_id
        listed = own if isinstance(own, list) else [own]
        named = [*listed, tokenizer.eos_token_id]
        self.named = frozenset(int(token) for token in named if token is not None)
        self.special = self.named | find_stop_ids(tokenizer)

    def find(self, limits: AnswerLimits) -> frozenset[int]:
        """Returns the ids that end an answer under these limits."""
        return self.special if limits.special_tokens_end else self.named


def cut_answer(
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[int],
    *,
    end_ids: Collection[int],
    stop_strings: Sequence[str],
    batch_size: int,
) -> Answer:
    """Makes an answer of generated ids, which may run on behind its end.

    Args:
        tokenizer: The model's tokenizer.
        token_ids: What the model generated, end tokens included.
        end_ids: The ids that end an answer.
        stop_strings: Texts that end an answer.
        batch_size: Prompts that were answered at once.

    Returns:
        The answer up to its first end, the same however far the ids run on.
    """
    first_end = next((place for place, token in enumerate(token_ids) if token in end_ids), None)
    kept = list(token_ids) if first_end is None else list(token_ids[: first_end + 1])
    text = _decode(tokenizer, kept)
    finish: Finish = "length" if first_end is None else "end_token"
    begin = _find_stop(text, stop_strings)
    if begin is not None:
        kept = kept[: _count_tokens(tokenizer, kept, stop_strings)]
        text, finish = text[:begin], "stop_string"
    return Answer(text=text.strip(), num_tokens=len(kept), finish_reason=finish, batch_size=batch_size)


def _decode(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=True))


def _find_stop(text: str, stop_strings: Sequence[str]) -> int | None:
    places = [place for stop in stop_strings if (place := text.find(stop)) >= 0]
    return min(places, default=None)


def _count_tokens(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], stop_strings: Sequence[str]) -> int:
    """Returns how many ids it takes until a stop string is there, by halving."""
    low, high = 1, len(token_ids)
    while low < high:
        middle = (low + high) // 2
        if _find_stop(_decode(tokenizer, token_ids[:middle]), stop_strings) is None:
            low = middle + 1
        else:
            high = middle
    return low
