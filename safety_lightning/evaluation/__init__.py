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

from safety_lightning.lazy import import_lazily, list_names

_PLACES = {
    "callbacks": "CompareModels EvaluateBehaviour check_validation",
    "datamodule": "EvaluationData",
    "evaluate": "evaluate_model",
    "live": "LiveEvaluation",
    "loss": "measure_loss summarise_loss",
    "measurement": "Evaluation Measurement MetricSpec Outcome PromptValues",
    "module": "EvaluationModule",
    "records": "ResultFile read_results",
    "report": "print_comparisons print_summary",
}

__all__ = list_names(_PLACES)
__getattr__ = import_lazily(__name__, _PLACES)
