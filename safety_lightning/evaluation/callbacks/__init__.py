"""Callbacks that measure a model while it is fine-tuned.

compare_models       the reference, the finetuned and the projected model
evaluate_behaviour   the model every so many optimizer steps
fine_tune            what both share: measures the model that is being fine-tuned, in its precision and processes
"""

from safety_lightning.evaluation.callbacks.compare_models import CompareModels, check_validation
from safety_lightning.evaluation.callbacks.evaluate_behaviour import EvaluateBehaviour

__all__ = ["CompareModels", "EvaluateBehaviour", "check_validation"]
