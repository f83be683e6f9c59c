"""What TensorBoard shows of a study: a run a fine-tune and subspace, and one with the verdict and the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from safety_lightning.files import atomic_path
from safety_lightning.study.report.figures import NAMES
from safety_lightning.study.statistics.settings import get_metric
from safety_lightning.study.statistics.tables import VariantRow
from safety_lightning.study.views import BOARD

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_SECTIONS = {"utility": "utility_higher_is_better", "harm": "harm_lower_is_better", "description": "described"}
_ENERGY = "energy/share_of_the_update_kept"
_GUIDE = """\
**How to read this board.** The horizontal axis (step) is a percentage: the fraction of directions that a subspace
spans, for `scale` the factor of the whole update. **Set smoothing to 0**: TensorBoard's own 0.6 bends curves of so few
points.

| run | shows |
|---|---|
| `KIND-SEED/reference`, `KIND-SEED/finetuned` | two levels: the model before and after this fine-tune |
| `KIND-SEED/top_k/orthogonal` | the update without its part in the safety subspace |
| `KIND-SEED/top_k/parallel` | that part alone |
| `KIND-SEED/random_k/...`, `KIND-SEED/random/...` | the same with other directions (means of draws) |
| `KIND-SEED/scale` | the whole update, weakened |

Put *useful* and *harmful* side by side: if safety had a subspace of its own, `top_k/orthogonal` would keep the utility
of the useful fine-tune and lose the harm of the harmful one, while `random/orthogonal` would lose both alike. Filter
runs by `orthogonal` to see no more than that.
"""


@dataclass(frozen=True)
class Point:
    """A value of a curve.

    Attributes:
        run: The run that it belongs to.
        tag: The chart.
        step: Where, in percent.
        value: The value.
    """

    run: str
    tag: str
    step: int
    value: float


def write_dashboard(study: Path, rows: Sequence[VariantRow], sentence: str) -> Path:
    """Writes the board of a study anew.

    Args:
        study: The study's folder, with the report's figures in it.
        rows: Every variant under every metric.
        sentence: The verdict, as a sentence.

    Returns:
        The folder that TensorBoard is to be given.
    """
    from torch.utils.tensorboard import SummaryWriter

    runs: dict[str, list[Point]] = {}
    for point in list_points(rows):
        runs.setdefault(point.run, []).append(point)
    board = study / BOARD
    with atomic_path(board) as partial:
        for run, points in runs.items():
            with SummaryWriter(str(partial / run)) as writer:
                for point in sorted(points, key=lambda one: (one.tag, one.step)):
                    writer.add_scalar(point.tag, point.value, point.step)
        with SummaryWriter(str(partial / "study")) as writer:
            writer.add_text("verdict", sentence)
            writer.add_text("how_to_read", _GUIDE)
            for name in NAMES:
                _add_figure(writer, study / "figures" / f"{name}.png")
    return board


def list_points(rows: Sequence[VariantRow]) -> list[Point]:
    """Lists the values of all curves, the mean over draws: of each metric, and of the energy that is kept.

    Args:
        rows: Every variant under every metric.
    """
    groups: dict[tuple[str, str, int, float | None], list[float]] = {}
    for row in rows:
        steps = [0, 100] if row.source in ("reference", "finetuned") else [_find_step(row)]
        for step in steps:
            for tag, value in _list_values(row):
                groups.setdefault((_name_run(row), tag, step, _find_share(row)), []).append(value)
    return [Point(run, tag, step, fmean(values)) for (run, tag, step, _), values in groups.items()]


def _list_values(row: VariantRow) -> Iterator[tuple[str, float]]:
    if row.value is not None and not row.metric.endswith("answer_kind"):  # a mean of kinds says nothing
        yield f"{_SECTIONS[get_metric(row.metric).purpose]}/{row.metric}", row.value
    if row.energy_kept is not None:
        yield _ENERGY, row.energy_kept


def _find_step(row: VariantRow) -> int:
    share = _find_share(row)
    return 0 if share is None else round(100 * share)


def _find_share(row: VariantRow) -> float | None:
    return row.fraction if row.fraction is not None else row.alpha


def _name_run(row: VariantRow) -> str:
    return "/".join([f"{row.finetuned}-{row.seed}", row.source, *([row.component] if row.component else [])])


def _add_figure(writer: SummaryWriter, file: Path) -> None:
    """Adds a figure of the report, where it was drawn."""
    if not file.is_file():
        return
    from PIL import Image

    with Image.open(file) as image:
        writer.add_image(f"figures/{file.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")
