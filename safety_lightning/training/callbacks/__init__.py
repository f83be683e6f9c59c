"""Lightning callbacks: project the update, monitor it, save the result."""

from safety_lightning.training.callbacks.monitor_update import MonitorUpdate
from safety_lightning.training.callbacks.progress import StepProgressBar
from safety_lightning.training.callbacks.project_update import ProjectUpdate
from safety_lightning.training.callbacks.save_model import SaveModel

__all__ = ["MonitorUpdate", "ProjectUpdate", "SaveModel", "StepProgressBar"]
