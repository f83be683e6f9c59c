"""How many tokens a fit is trained on, from its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from safety_lightning.study.planning.texts import Texts, measure_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MIXED = {
    "useful": ("useful",),
    "harmful": ("harmful",),
    "safe": ("safe",),
    "contaminated": ("useful", "harmful"),
}
_EPOCHS = 1000  # Lightning's, where neither steps nor epochs are named
_LENGTH = 512  # max_length_tokens of a fit whose options do not name one


def count_training_tokens(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None) -> float | None:
    """Returns the tokens of all optimizer steps; None where neither rows nor steps are known.

    A row of the hub, which is not read, counts as long as the longest that is taken.

    Args:
        options: The options of the fit.
        tokenizer: The model's; None where it cannot be had.
    """
    data, trainer = _drop_nulls(options.get("data")), _drop_nulls(options.get("trainer"))
    kinds = _MIXED.get(data.get("kind", "useful"), ("useful",))
    parts = [measure_source(data.get(kind, f"lab:{kind}"), tokenizer) for kind in kinds]
    longest = data.get("max_length_tokens", _LENGTH)
    rows = _count_rows(data, parts)
    steps = trainer.get("max_steps", -1)
    if steps >= 0:
        seen: float | None = steps * data.get("batch_size", 1) * trainer.get("accumulate_grad_batches", 1)
    elif rows is None or trainer.get("max_epochs", _EPOCHS) < 0:
        return None
    else:
        limit = trainer.get("limit_train_batches", 1.0)
        share = limit if isinstance(limit, float) else min(1.0, limit * data.get("batch_size", 1) / rows)
        seen = trainer.get("max_epochs", _EPOCHS) * share * rows
    return None if seen is None else seen * _average_length(parts, longest)


def _drop_nulls(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (options or {}).items() if value is not None}


def _count_rows(data: Mapping[str, Any], parts: list[Texts]) -> int | None:
    counts = [one.num_rows for one in parts]
    if data.get("mix_size") is not None and len(parts) == 2:
        return int(data["mix_size"])
    known = [one for one in counts if one is not None]
    return sum(known) if len(known) == len(counts) else None


def _average_length(parts: list[Texts], longest: int) -> float:
    lengths = [longest if one.is_assumed else min(longest, one.prompt_tokens + one.response_tokens) for one in parts]
    weights = [one.num_rows or 1 for one in parts]
    return sum(length * weight for length, weight in zip(lengths, weights, strict=True)) / sum(weights)
