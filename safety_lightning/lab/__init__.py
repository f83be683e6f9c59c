"""The embedded default: a miniature world with its own tokenizer, base model and aligned model.

A fictional vault with guarded treasures stands in for everything harmful; there is no real harmful text here.

vocabulary, procedures  the words and sentences of both splits; the procedure that a guarded request asks for
world                   draws examples, useful, harmful, safe and ordinary: the data presets ``lab:NAME``
judge                   how much of a procedure an answer hands over; refusals; final answers
tokenizer, corpora      the word-level tokenizer with its chat template; what the two models are trained on
build, folders          trains lab:base and lab:aligned from nothing, into a folder made in one step
command                 the command `lab`, which also copies the shipped models out of ``assets``
"""
# ruff: noqa: F401 (the names are for other rooms)

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_lightning.data import register_generator
from safety_lightning.lab.judge import is_correct, is_refusal, judge_harmfulness
from safety_lightning.lab.world import KINDS, Kind, generate_examples
from safety_lightning.lazy import import_lazily, list_names

if TYPE_CHECKING:
    from safety_lightning.lab.build import build_lab
    from safety_lightning.lab.command import export_lab
    from safety_lightning.lab.tokenizer import build_tokenizer

register_generator("lab", KINDS, generate_examples)

_PLACES = {
    "build": "build_lab",
    "command": "export_lab",
    "tokenizer": "build_tokenizer",
}

__all__ = ["Kind", "generate_examples", "is_correct", "is_refusal", "judge_harmfulness", *list_names(_PLACES)]
__getattr__ = import_lazily(__name__, _PLACES)
