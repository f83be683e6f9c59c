"""Tasks: what is asked of a model, and how answers are graded. In the order in which they come to be:

suite      which tasks, each with its settings
gsm8k (final_numbers), harmful, ordinary, lab   the tasks: word problems, requests to be declined, and not to be
reading    prompt files, of which no row may be dropped in silence
answer_kinds   declined, answered, empty, degenerate or cut off
protocol   what all tasks give: prompts, and metrics that say what grades an answer
"""

from safety_lightning.evaluation.tasks.gsm8k import GSM8K
from safety_lightning.evaluation.tasks.harmful import HarmfulRequests, JudgedRequests
from safety_lightning.evaluation.tasks.lab import Lab
from safety_lightning.evaluation.tasks.ordinary import OrdinaryRequests
from safety_lightning.evaluation.tasks.protocol import Prompt, PromptFormat, Task
from safety_lightning.evaluation.tasks.suite import Clusters, TaskName, TaskSuite

__all__ = [
    "GSM8K",
    "Clusters",
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
