"""The command `report`: the schema of its options, and what it does with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from safety_lightning.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReportRun:
    """Make the report of a study anew from its results alone, or set studies side by side.

    Attributes:
        study: Folder of a study whose statistics are done.
        compare: Folders of two studies or more, which are printed side by side.
    """

    study: Path | None = None
    compare: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        if (self.study is None) == (not self.compare):
            raise UserError("report must be given --study DIR, or --compare DIR1 DIR2, got both or none")


def report(run: ReportRun) -> None:
    """Runs the command."""
    from safety_lightning.printing import open_console, show_line
    from safety_lightning.study.report.comparison import compare
    from safety_lightning.study.report.results import read_results
    from safety_lightning.study.report.write import write_report

    if run.study is None:
        compare(run.compare)
        return
    page, *_ = write_report(run.study)
    console = open_console()
    show_line(console, read_results(run.study).verdict.sentence)
    show_line(console, f"Report: {page}")
