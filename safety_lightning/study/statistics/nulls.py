"""Counts how often a random subspace is called separable: each draw in turn takes the safety subspace's place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from safety_lightning.errors import UserError
from safety_lightning.study.statistics.cells import make_cells
from safety_lightning.study.statistics.resampling import Resamples
from safety_lightning.study.statistics.selectivity import measure_outcomes
from safety_lightning.study.statistics.settings import StatisticsSettings
from safety_lightning.study.statistics.values import RANDOM, SAFETY, Values, ValueTable, VariantKey
from safety_lightning.study.statistics.verdict import make_verdict

NULLS = "tables/null.csv"
"""The file of a study that holds its null."""


@dataclass(frozen=True, kw_only=True)
class NullRow:
    """What a study says when a random subspace takes the place of the safety subspace.

    Attributes:
        draw: Which draw.
        verdict: ``separable`` is false here.
        reason: Why.
        selectivity: The selectivity that decides; None where there is none.
        low: Lower end of its band.
        high: Upper end.
    """

    draw: int
    verdict: str
    reason: str
    selectivity: float | None
    low: float | None
    high: float | None


def count_nulls(values: Values, settings: StatisticsSettings, *, num_blunt: int) -> list[NullRow]:
    """Makes a verdict for each draw of ``random`` in the safety subspace's place.

    Args:
        values: Values with draws of ``random``.
        settings: How a verdict is made.
        num_blunt: How many of the other draws, the next ones in turn, the blunt frontier is made of.

    Raises:
        UserError: If there are not more draws than that.
    """
    draws = sorted({key.draw for table in values.tables.values() for key in table.variants if key.source == RANDOM})
    if len(draws) <= num_blunt:
        raise UserError(f"a null must have more than {num_blunt} draws of random subspaces, got {len(draws)}")
    rows = []
    for place, draw in enumerate(draws):
        others = [draws[(place + step) % len(draws)] for step in range(1, num_blunt + 1)]
        replaced = put_in_place(values, draw, others)
        resamples = Resamples(replaced, num_resamples=settings.num_resamples, seed=settings.seed)
        outcomes = measure_outcomes(replaced, resamples, settings)
        verdict = make_verdict(outcomes, make_cells(outcomes, "orthogonal", level=settings.level), settings)
        found = (verdict.selectivity, verdict.low, verdict.high)
        rows.append(
            NullRow(
                draw=draw,
                verdict=verdict.verdict,
                reason=verdict.reason,
                selectivity=found[0],
                low=found[1],
                high=found[2],
            )
        )
    return rows


def put_in_place(values: Values, draw: int, others: Sequence[int]) -> Values:
    """Returns values in which a draw stands where the safety subspace stood, and a few others are all there are.

    Args:
        values: The values.
        draw: The draw that takes its place.
        others: The draws that stay, numbered anew.
    """
    numbers = {other: number for number, other in enumerate(others)}

    def rename(key: VariantKey) -> VariantKey | None:
        if key.source == SAFETY:
            return None
        if key.source != RANDOM:
            return key
        if key.draw == draw:
            return key._replace(source=SAFETY, draw=0)
        return key._replace(draw=numbers[key.draw]) if key.draw in numbers else None

    tables = {}
    for place, table in values.tables.items():
        renamed = [(at, new) for at, key in enumerate(table.variants) if (new := rename(key)) is not None]
        tables[place] = ValueTable(tuple(new for _, new in renamed), table.values_VP[[at for at, _ in renamed]])
    return dataclasses.replace(values, tables=tables)
