"""Tasks: what is asked of a model, and how answers are graded. In the order in which they come to be:

suite      which tasks, each with its settings
gsm8k (final_numbers), math500 (final_expressions), mmlu   problems and questions, whose answers are known
harmful, ordinary, lab   requests to be declined, requests not to be, and the lab's
reading    prompt files, of which no row may be dropped in silence
answer_kinds   declined, answered, empty, degenerate or cut off
protocol   what all tasks give: prompts, and metrics that say what grades an answer
"""

from safety_lightning.evaluation.tasks.gsm8k import GSM8K
from safety_lightning.evaluation.tasks.harmful import HarmfulRequests, JudgedRequests
from safety_lightning.evaluation.tasks.lab import Lab
from safety_lightning.evaluation.tasks.math500 import MATH500
from safety_lightning.evaluation.tasks.mmlu import MMLU
from safety_lightning.evaluation.tasks.ordinary import OrdinaryRequests
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat, Task
from safety_lightning.evaluation.tasks.suite import HARMLESS_TASKS, TaskName, TaskSuite

__all__ = [
    "GSM8K",
    "HARMLESS_TASKS",
    "MATH500",
    "MMLU",
    "HarmfulRequests",
    "JudgedRequests",
    "Lab",
    "OrdinaryRequests",
    "Prompt",
    "PromptFormat",
    "Task",
    "TaskName",
    "TaskSuite",
]
