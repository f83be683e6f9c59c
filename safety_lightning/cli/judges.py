"""Keeps a judge from inheriting the settings of one of another class; jsonargparse has a private name for that."""

from __future__ import annotations

from typing import Any

from jsonargparse import _typehints

from safety_lightning.evaluation.judges import Judge

_discard_unknown = _typehints.discard_init_args_on_class_path_change


def separate_judges() -> None:
    """Makes the parser drop every setting of the judge before where another class is given.

    jsonargparse 4.53 keeps what the new class takes too: LocalJudge over a config with OpenAIJudge got its ``model``,
    ``gpt-4o-mini``.
    """
    _typehints.discard_init_args_on_class_path_change = _discard


def _discard(parser_or_action: Any, prev_val: Any, value: Any) -> None:
    _discard_unknown(parser_or_action, prev_val, value)
    if not prev_val or "init_args" not in prev_val or prev_val["class_path"] == value["class_path"]:
        return
    found = _typehints.import_object(value["class_path"])
    if Judge in getattr(found, "__mro__", ()):  # a protocol takes no issubclass
        for key in list(prev_val["init_args"].keys()):
            del prev_val["init_args"][key]
