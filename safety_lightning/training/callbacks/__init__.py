"""Lightning callbacks of a fine-tune, in the order in which they act.

project_update    keeps the update in one component, after every optimizer step or once at the end
penalize_update   penalizes the other component instead
monitor_update    logs what the running update is made of
progress          counts optimizer steps on the screen
save_model        saves the result as a Hugging Face folder
"""

from safety_lightning.training.callbacks.monitor_update import MonitorUpdate
from safety_lightning.training.callbacks.penalize_update import PenalizeUpdate
from safety_lightning.training.callbacks.progress import StepProgressBar
from safety_lightning.training.callbacks.project_update import ProjectUpdate
from safety_lightning.training.callbacks.save_model import SaveModel

__all__ = ["MonitorUpdate", "PenalizeUpdate", "ProjectUpdate", "SaveModel", "StepProgressBar"]
