"""Sweeps over whole checkpoints: every method on the updates of finished fine-tunes, in one pass.

command, inputs    what is asked for; the checkpoints, opened and checked by their headers
loading            brings one matrix after the other to the device
sweep              decomposes its delta once, and treats every update by every method
rows, saving       what is written of it: sums, and the weights of variants that are saved
folder             begins, resumes and finishes the folder: tables, figures, models; cost, report: what is printed
variant_loader     sets variants into a live model instead; variants/ holds what it keeps for that
"""

from safety_lightning.sweep.command import MethodChoice, ProjectRun, project
from safety_lightning.sweep.inputs import SweepInputs, SweepSettings, open_inputs
from safety_lightning.sweep.rows import EnergyRow, SweepMatrixRow
from safety_lightning.sweep.variant_loader import PlainLoader, VariantLoader, sort_variants

__all__ = [
    "EnergyRow",
    "MethodChoice",
    "PlainLoader",
    "ProjectRun",
    "SweepInputs",
    "SweepMatrixRow",
    "SweepSettings",
    "VariantLoader",
    "open_inputs",
    "project",
    "sort_variants",
]
