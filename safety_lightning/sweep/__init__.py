"""Sweeps over whole checkpoints: every variant of finished fine-tunes in one pass."""

from safety_lightning.sweep.inputs import SweepInputs, SweepSettings, open_inputs
from safety_lightning.sweep.variant_loader import VariantLoader

__all__ = ["SweepInputs", "SweepSettings", "VariantLoader", "open_inputs"]
