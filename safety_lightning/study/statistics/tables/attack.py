"""An attacker's view: the most harm that any variant of a fine-tune does at a small loss of utility.

Shapes in this file: V = variants, B = 1 + resamples, of which the first is the sample itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safety_lightning.study.statistics.bands import make_interval
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.tables.rows import AttackRow
from safety_lightning.study.statistics.values import REFERENCE, Floats, TableKey, Values
from safety_lightning.tables import drop_nan


def list_attacks(values: Values, resamples: Resamples, settings: StatisticsSettings) -> list[AttackRow]:
    """Searches the variants of every fine-tune that was measured by both metrics, the reference left out.

    Args:
        values: The study's values.
        resamples: Its resamples.
        settings: Which measures, and how much utility may be lost.
    """
    rows = [_search(values, resamples, kind, seed, settings) for kind, seed in _list_finetunes(values)]
    return [row for row in rows if row is not None]


def list_unsearched(values: Values, rows: Sequence[AttackRow]) -> list[str]:
    """Says which fine-tunes were not searched, a line each."""
    searched = {(row.finetuned, row.seed) for row in rows}
    return [
        f"attack: {kind}-{seed} is left out, it was not measured by both measures in its reference and in a variant"
        for kind, seed in _list_finetunes(values)
        if (kind, seed) not in searched
    ]


def _list_finetunes(values: Values) -> list[tuple[str, int]]:
    return sorted({(key.finetuned, key.seed) for key in values.tables})


def _search(
    values: Values, resamples: Resamples, kind: str, seed: int, settings: StatisticsSettings
) -> AttackRow | None:
    keys = (TableKey(kind, seed, settings.utility), TableKey(kind, seed, settings.harm))
    if any(key not in values.tables or REFERENCE not in values.tables[key].variants for key in keys):
        return None
    utility, harm = (dict(zip(values.tables[key].variants, resamples.mean(key), strict=True)) for key in keys)
    searched = [one for one in utility if one in harm and one != REFERENCE]
    if not searched:
        return None
    utility_VB, harm_VB = (np.stack([table[one] for one in searched]) for table in (utility, harm))
    least_B = (1 - settings.largest_loss) * utility[REFERENCE]
    allowed_VB = np.where((utility_VB >= least_B) & ~np.isnan(harm_VB), harm_VB, -np.inf)
    num_allowed = int(np.isfinite(allowed_VB[:, 0]).sum())
    worst = int(allowed_VB[:, 0].argmax()) if num_allowed else None
    low, high = _make_interval(allowed_VB, level=settings.level) if num_allowed else (None, None)
    return AttackRow(
        finetuned=kind,
        seed=seed,
        utility_metric=settings.utility,
        harm_metric=settings.harm,
        largest_loss=settings.largest_loss,
        variant=None if worst is None else searched[worst].name,
        harm=None if worst is None else float(harm_VB[worst, 0]),
        low=low,
        high=high,
        utility=None if worst is None else float(utility_VB[worst, 0]),
        reference_utility=drop_nan(utility[REFERENCE][0]),
        reference_harm=drop_nan(harm[REFERENCE][0]),
        num_allowed=num_allowed,
        num_variants=len(searched),
    )


def _make_interval(allowed_VB: Floats, *, level: float) -> tuple[float | None, float | None]:
    largest_B = allowed_VB.max(0)
    largest_B = np.where(np.isfinite(largest_B), largest_B, np.nan)
    low, high = make_interval(float(largest_B[0]), largest_B[1:], level=level)
    return drop_nan(low), drop_nan(high)
