"""The names of a checkpoint's tensors in a live model: with or without the prefix of its base model, or in wrappers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from torch import nn

_PEFT = "base_model.model."


def match_names(names: Iterable[str], live: Collection[str], model: nn.Module) -> dict[str, str]:
    """Finds the live name behind each tensor name of a checkpoint; those without one are left out.

    Args:
        names: Names of the checkpoint's tensors.
        live: Names in the model, without wrappers.
        model: The model; its ``base_model_prefix`` may be in the live names alone, or in the checkpoint's.
    """
    inner = getattr(model, "_orig_mod", model)  # of what torch.compile wraps, then DDP
    inner = getattr(inner, "module", inner)
    get_base_model = getattr(inner, "get_base_model", None)  # of PEFT, whose own prefix is another
    prefix = getattr(get_base_model() if get_base_model else inner, "base_model_prefix", "") + "."
    candidates: list[Callable[[str], str]] = [str, lambda n: prefix + n, lambda n: n.removeprefix(prefix)]
    found = {}
    for name in names:
        match = next((rename(name) for rename in candidates if rename(name) in live), None)
        if match is not None:
            found[name] = match
    return found


def strip_wrappers(name: str) -> str:
    """Returns a live name without what `torch.compile`, DDP and PEFT put into it."""
    return name.replace("_orig_mod.", "").removeprefix("module.").removeprefix(_PEFT)
