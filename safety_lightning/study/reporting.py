"""The last stages: statistics of all that was measured, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safety_lightning.study.measuring import VALUES, MeasureStage
from safety_lightning.study.settings import StudyRun
from safety_lightning.study.stages import Stage
from safety_lightning.tables import concatenate_parquet


@dataclass(frozen=True, kw_only=True)
class StatisticsStage(Stage):
    """Makes tables and the verdict of all measured values.

    Attributes:
        measured: The stages that measured.
        run_settings: The study.
    """

    measured: tuple[MeasureStage, ...]
    run_settings: StudyRun

    def run(self, study: Path) -> None:
        """Gathers the values and makes the statistics."""
        concatenate_parquet([study / one.folder / VALUES for one in self.measured], study / self.folder / VALUES)


@dataclass(frozen=True, kw_only=True)
class ReportStage(Stage):
    """Draws tables and figures, and writes the report.

    Attributes:
        run_settings: The study.
    """

    run_settings: StudyRun

    def run(self, study: Path) -> None:
        """Writes them."""
