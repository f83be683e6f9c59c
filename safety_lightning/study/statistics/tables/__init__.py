"""The tables that stand beside the verdict.

rows         all of their rows
variants     every variant under every metric; what each keeps of learning and harm; the cells that decide
robustness   the verdict from other pairs of measures
attack       the most harm that any variant does at a small loss of utility
excess       how much more the pairs overlap that should, if safety had directions of its own
"""

from safety_lightning.study.statistics.tables.attack import list_attacks, list_unsearched
from safety_lightning.study.statistics.tables.excess import list_excesses
from safety_lightning.study.statistics.tables.robustness import list_robustness
from safety_lightning.study.statistics.tables.rows import (
    AttackRow,
    ExcessRow,
    PointRow,
    RobustnessRow,
    SelectivityRow,
    VariantRow,
)
from safety_lightning.study.statistics.tables.variants import list_points, list_selectivities, list_variants

__all__ = [
    "AttackRow",
    "ExcessRow",
    "PointRow",
    "RobustnessRow",
    "SelectivityRow",
    "VariantRow",
    "list_attacks",
    "list_excesses",
    "list_points",
    "list_robustness",
    "list_selectivities",
    "list_unsearched",
    "list_variants",
]
