"""Measures what a model does: answers, utility, harmfulness, and how sure of each we are. In the order of a test:

tasks, cases           what is asked, and prompts as the model reads them, in batches
engines, grading       answers, and what came of each by rule, by a judge (judges) or by its likelihood (likelihoods)
measurement, summary   numbers with intervals (statistics) of many outcomes; prompt_outcomes adds up over processes
records, report        the files that are left, and the tables that show them
module, datamodule     run it under the Trainer; evaluate from Python; callbacks during a fit; loss on held-out data
live                   measures models in memory again and again, without a Trainer

The names below are imported when they are first used, so that the judges import light.
"""

from __future__ import annotations

import importlib
from typing import Any

_PLACES = {
    "CompareModels": "callbacks",
    "EvaluateBehaviour": "callbacks",
    "Evaluation": "measurement",
    "EvaluationData": "datamodule",
    "EvaluationModule": "module",
    "LiveEvaluation": "live",
    "Measurement": "measurement",
    "MetricSpec": "measurement",
    "Outcome": "measurement",
    "PromptValues": "measurement",
    "ResultFile": "records",
    "check_validation": "callbacks",
    "evaluate_model": "evaluate",
    "measure_loss": "loss",
    "print_comparisons": "report",
    "print_summary": "report",
    "read_results": "records",
    "summarise_loss": "loss",
}

__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    """Imports a public name on first use."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
