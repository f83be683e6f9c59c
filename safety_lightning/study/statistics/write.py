"""Makes the tables and the verdict of a study from the values that its measurements left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safety_lightning.errors import UserError
from safety_lightning.files import write_atomically
from safety_lightning.study.statistics.cells import make_cells
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import measure_outcomes
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.skipped import list_skipped
from safety_lightning.study.statistics.tables import (
    AttackRow,
    ExcessRow,
    PointRow,
    RobustnessRow,
    SelectivityRow,
    VariantRow,
    list_attacks,
    list_excesses,
    list_points,
    list_robustness,
    list_selectivities,
    list_unsearched,
    list_variants,
)
from safety_lightning.study.statistics.values import Values, read_values
from safety_lightning.study.statistics.verdict import Verdict, make_verdict
from safety_lightning.tables import write_csv, write_parquet

VALUES, VERDICT = "values.parquet", "verdict.json"
"""Files of a study: what was measured, and what it answers."""

RESULTS = (
    *(VERDICT, "variants.csv", "variants.parquet", "selectivity.csv"),
    *(f"tables/{name}.csv" for name in ("retained", "robustness", "attack", "overlap_excess")),
)
"""The files of a study that `write_statistics` writes."""


def write_statistics(study: Path, settings: StatisticsSettings | None = None) -> Verdict:
    """Writes variants, selectivities and the verdict of a study, and the tables that stand beside them.

    Args:
        study: The study's folder, which holds ``values.parquet`` and, where overlaps were measured,
            ``overlap_weights.csv`` and ``overlap_activations.csv``.
        settings: How the verdict is made; None takes the defaults.

    Returns:
        The verdict, which also lies in ``verdict.json``.

    Raises:
        UserError: If values or overlaps cannot be read, or no value is of a stated measure. Nothing has been written
            then.
    """
    settings = settings or StatisticsSettings()
    values = read_values(study / VALUES)
    _check_measures(values, settings, study)
    resamples = Resamples(values, num_resamples=settings.num_resamples, seed=settings.seed)
    outcomes = measure_outcomes(values, resamples, settings)
    cells = make_cells(outcomes, "orthogonal", level=settings.level)
    skipped = list_skipped(values, outcomes, settings)
    attacks = list_attacks(values, resamples, settings)
    verdict = make_verdict(outcomes, cells, settings, skipped=skipped)
    verdict = dataclasses.replace(verdict, skipped=[*skipped, *list_unsearched(values, attacks)])
    variants = list_variants(values, resamples, level=settings.level)
    tables: dict[str, tuple[type, list[Any]]] = {
        "variants.csv": (VariantRow, variants),
        "selectivity.csv": (SelectivityRow, list_selectivities(outcomes, cells, settings)),
        "tables/retained.csv": (PointRow, list_points(outcomes, cells, level=settings.level)),
        "tables/robustness.csv": (RobustnessRow, list_robustness(values, resamples, settings)),
        "tables/attack.csv": (AttackRow, attacks),
        "tables/overlap_excess.csv": (ExcessRow, list_excesses(study)),
    }
    answer = json.dumps(dataclasses.asdict(verdict), indent=2, ensure_ascii=False, allow_nan=False)
    for name, (row_class, rows) in tables.items():
        write_csv(study / name, row_class, rows)
    write_parquet(study / "variants.parquet", VariantRow, variants)
    write_atomically(study / VERDICT, answer + "\n")
    return verdict


def _check_measures(values: Values, settings: StatisticsSettings, study: Path) -> None:
    missing = [one for one in (settings.utility, settings.harm) if one not in values.prompts]
    if missing:
        known = ", ".join(values.list_metrics())
        raise UserError(f"{study / VALUES} must hold the measure {missing[0]} of the verdict, it holds {known}")
