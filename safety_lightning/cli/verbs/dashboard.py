"""What TensorBoard shows of a fit that is done: its update against chance, the table of its models, its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table

from safety_lightning.evaluation.records.results import ResultRow
from safety_lightning.evaluation.report import make_tables
from safety_lightning.figures import make_figure
from safety_lightning.projection import UpdateMeasure, sum_chance, sum_energy
from safety_lightning.training.figures import draw_layers, draw_modules

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPS = ("model", "data", "projection")  # the settings by which runs differ, and these of the Trainer:
_TRAINER = ("precision", "max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val")


def log_outcome(
    logger: TensorBoardLogger,
    *,
    config: Mapping[str, Any],
    rows: Sequence[ResultRow],
    measures: Sequence[UpdateMeasure],
    subject: str,
    step: int,
) -> None:
    """Logs how a fit came out: figures of the update, the models as a table and an image, and hparams with metrics.

    Args:
        logger: The logger of the fit.
        config: The resolved configuration of the verb.
        rows: The rows of ``results.jsonl``; none leave the table out.
        measures: What the optimizer wanted, measured last; none leave the figures out.
        subject: What the measures are of, ``update`` or ``increment``; names and figures say it.
        step: Optimizer steps done.
    """
    metrics: dict[str, float] = {"outcome/num_steps": step}
    for row in rows:
        if row.step is None:
            metrics["/".join(filter(None, ("outcome", row.model, row.task, row.metric)))] = row.value
    if measures:
        metrics[f"outcome/{subject}/energy_inside"] = sum_energy(measures, "parallel")
        metrics[f"outcome/{subject}/chance"] = sum_chance(measures, "parallel")
        layers = draw_layers(measures, subject=subject)
        logger.experiment.add_figure(f"outcome/{subject}/by_layer", layers, global_step=step)
        modules = draw_modules(measures, title=f"{subject} of the fine-tune")
        if modules is not None:
            logger.experiment.add_figure(f"outcome/{subject}/by_module", modules, global_step=step)
    if rows:
        [table] = make_tables(rows, width=10_000)
        lines = read_cells(table)
        logger.experiment.add_text("outcome/models", format_markdown(lines), global_step=step)
        logger.experiment.add_figure("outcome/models", draw_table(lines), global_step=step)
    logger.log_hyperparams(choose_settings(config), metrics, step=step)
    logger.experiment.close()


def choose_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings by which runs are compared: those that are given, but for places in the run folder."""
    chosen = {group: _drop_places(config[group], str(config["run_dir"])) for group in _GROUPS}
    trainer = {name: config["trainer"][name] for name in _TRAINER if config["trainer"].get(name) is not None}
    return {"seed": config["seed_everything"], "trainer": trainer, **chosen}


def read_cells(table: Table) -> list[list[str]]:
    """Returns the text of a table, its header first."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(line) for line in zip(*columns, strict=True)]


def format_markdown(lines: Sequence[Sequence[str]]) -> str:
    """Formats a table, its header first, as Markdown."""
    header, *others = [" | ".join(cell.replace("\n", " ") for cell in line) for line in lines]
    return "\n".join([header, " | ".join(["---", *["--:"] * (len(lines[0]) - 1)]), *others])


def draw_table(lines: Sequence[Sequence[str]]) -> Figure:
    """Draws a table, its header first."""
    header, *others = lines
    num_texts = sum(max(cell.count("\n") + 1 for cell in line) for line in lines)
    widths = [max(len(text) for line in lines for text in line[at].split("\n")) + 2 for at in range(len(header))]
    figure, axes = make_figure(width=0.3 + 0.09 * sum(widths), height=0.3 + 0.23 * num_texts)
    axes.axis("off")
    shares = [width / sum(widths) for width in widths]
    table = axes.table(
        others, colLabels=header, colWidths=shares, bbox=(0, 0, 1, 1), cellLoc="right", edges="horizontal"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (line, column), cell in table.get_celld().items():
        cell.set_height(max(text.count("\n") + 1 for text in lines[line]))
        cell.set_text_props(ha="left" if column == 0 else "right", weight="bold" if line == 0 else "normal")
        cell.set_linewidth(0.5)
    return figure


def _drop_places(settings: Mapping[str, Any], run_folder: str) -> dict[str, Any]:
    kept = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            kept[name] = _drop_places(value, run_folder)
        elif value is not None and not str(value).startswith(run_folder):
            kept[name] = value
    return kept
