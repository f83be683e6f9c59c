"""Says what a fine-tune will take before it begins, from the model's configuration alone, by the way of data.

settings    what of a fit's options decides its cost
options     reads it from them
data        how much data there is, at most
passes      a forward and backward pass over tensors that have shapes and no numbers: memory and work
memory      what a device holds under each strategy
plan        all of it, with steps, tokens and disk
report      prints a plan
"""

from safety_lightning.training.planning.data import DataCounts, count_data
from safety_lightning.training.planning.memory import DeviceMemory
from safety_lightning.training.planning.options import read_options
from safety_lightning.training.planning.plan import FitPlan, plan_fit
from safety_lightning.training.planning.report import print_plan
from safety_lightning.training.planning.settings import FitSettings, LargestBatch

__all__ = [
    "DataCounts",
    "DeviceMemory",
    "FitPlan",
    "FitSettings",
    "LargestBatch",
    "count_data",
    "plan_fit",
    "print_plan",
    "read_options",
]
