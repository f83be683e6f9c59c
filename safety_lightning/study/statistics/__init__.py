"""Answers from the values of a study: retained learning and harm, the blunt frontier, selectivity, and a verdict.

values, resampling    what was measured, prompt by prompt; prompts and draws drawn anew, the same for all variants
retained, frontier    shares of learning and harm; how far blunt treatments bring them apart
selectivity, cells    how much further the safety subspace does, by experiment, seed and fraction, with `bands`
verdict, skipped      the rule that was fixed before, and the sentence; what could not be compared
write, tables         all that is written: the verdict and the tables that stand beside it
"""
# ruff: noqa: F401 (the names are for other rooms)

from __future__ import annotations

from typing import TYPE_CHECKING

from safety_lightning.lazy import import_lazily, list_names

if TYPE_CHECKING:
    from safety_lightning.study.statistics.settings import StatisticsSettings
    from safety_lightning.study.statistics.verdict import Verdict
    from safety_lightning.study.statistics.write import write_statistics

_PLACES = {"settings": "StatisticsSettings", "verdict": "Verdict", "write": "write_statistics"}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
