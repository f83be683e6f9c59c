"""Prints the plan of a fit."""

from __future__ import annotations

from rich.console import Console

from safety_lightning.printing import PlainTable, open_console, show_line, show_table
from safety_lightning.system.disks import format_bytes
from safety_lightning.training.planning.memory import DeviceMemory
from safety_lightning.training.planning.plan import FitPlan

_COLUMNS = ("weights", "gathered", "gradients", "moments", "activations", "reference", "bases", "passing", "host")


def print_plan(plan: FitPlan, console: Console | None = None) -> None:
    """Prints memory by strategy, and what the fit takes in all."""
    console = open_console(console)
    _print_memory(plan, console)
    share = f", {plan.num_trained / plan.num_weights:.2%} of them trained" if plan.settings.lora else ""
    _show(console, "Parameters", f"{plan.num_weights:,}{share}; {plan.num_matrices} matrices are projected")
    largest = plan.data.largest
    _show(
        console,
        "Batch",
        f"{largest.num_examples} {'in a row of' if largest.is_flat else 'x'} {largest.num_tokens} tokens at most, "
        f"{largest.num_scored} of {'it' if largest.is_flat else 'each'} scored; "
        f"{plan.settings.accumulate} a step on each device",
    )
    if plan.data.bound is not None:
        _show(console, "Data", f"counted as {plan.data.bound}")
    unknown = "unknown: neither data nor options bound them"
    _show(console, "Steps", unknown if plan.num_steps is None else f"{plan.num_steps:,} optimizer steps")
    if plan.num_tokens is not None:
        bound = "" if plan.data.bound is None else " at most"
        _show(console, "Tokens", f"{plan.num_tokens:,}{bound}")
    if plan.pass_work is not None:
        share = f", of which projection {plan.projection_work / (plan.pass_work + plan.projection_work):.1%}"
        work = plan.pass_work + plan.projection_work
        _show(console, "Work", f"{work:.3g} floating-point operations{share if plan.num_matrices else ''}")
    if plan.settings.uncounted:
        _show(console, "Not counted", ", ".join(plan.settings.uncounted))
    _show(console, "Disk", f"{format_bytes(plan.disk_bytes)} of checkpoints, models and subspace")


def _print_memory(plan: FitPlan, console: Console) -> None:
    """Prints a line a strategy, in GB, or MB where the model is small."""
    unit, name = (1e9, "GB") if max(one.peak for one in plan.devices) > 5e9 else (1e6, "MB")
    shown = [column for column in _COLUMNS if any(getattr(one, column) for one in plan.devices)]
    title = f"memory a device by strategy, {name}; the first is this fit's"
    table = PlainTable(title, names=["strategy"], numbers=[*(_fold(one) for one in shown), "peak"])
    for one in plan.devices:
        label = one.sharing if one.num_devices == 1 else f"{one.sharing} x {one.num_devices}"
        table.add_line(label, *(_format(_read(one, column) / unit) for column in (*shown, "peak")))
    show_table(console, table)


def _read(one: DeviceMemory, column: str) -> float:
    return float(getattr(one, column))


def _format(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.1f}"


def _fold(column: str) -> str:
    """Breaks a long header, so that eleven columns fit a terminal."""
    return column if len(column) < 7 else f"{column[:4]}-\n{column[4:]}"


def _show(console: Console, name: str, text: str) -> None:
    show_line(console, f"{name:<12} {text}")
