"""Prints the plan of a sweep and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safety_lightning.methods import Variant
from safety_lightning.printing import PlainTable, format_seconds, open_console, show_line, show_table
from safety_lightning.profiles import name_profile
from safety_lightning.sweep.cost import MatrixCost, SweepCost, list_fractions
from safety_lightning.sweep.rows import EnergyRow
from safety_lightning.system.disks import format_bytes


def print_cost(plan: SweepCost, variants: Sequence[Variant], console: Console | None = None) -> None:
    """Prints what a sweep would do: a line a shape and kind of matrix, and the sums."""
    console = open_console(console)
    fractions = ", ".join(f"{fraction:g}" for fraction in list_fractions(variants))
    title = f"matrices by kind and shape, ranks at most at fractions {fractions}"
    table = PlainTable(title, names=["kind", "ranks"], numbers=["shape", "number", "Gflop each"])
    groups: dict[tuple[str, int, int], list[MatrixCost]] = {}
    for cost in plan.costs:
        groups.setdefault((cost.slot.kind, cost.slot.rows, cost.slot.columns), []).append(cost)
    for (kind, rows, columns), costs in groups.items():
        work = costs[0].gram_work + costs[0].eigen_work + costs[0].product_work
        ranks = ", ".join(str(rank) for rank in costs[0].ranks)
        table.add_line(kind, ranks, f"{rows} x {columns}", str(len(costs)), f"{work / 1e9:,.0f}")
    show_table(console, table)
    show_line(
        console, f"Work         {plan.work / 1e12:.3g} Tflop for {len(variants)} variants, every tensor read once"
    )
    if plan.seconds is not None:
        show_line(
            console, f"Time         about {format_seconds(plan.seconds)} on this device, without reads and writes"
        )
    show_line(console, f"Reads        {format_bytes(plan.read_bytes)}")
    show_line(console, f"Peak memory  about {format_bytes(plan.peak_bytes)}")
    show_line(console, f"Disk         {format_bytes(plan.disk_bytes)} of saved models")


def print_energies(
    rows: Sequence[EnergyRow],
    out: Path,
    *,
    variants: Sequence[Variant],
    counts: Mapping[str, int],
    saved: Sequence[Variant],
    settings: Mapping[str, object],
    console: Console | None = None,
) -> None:
    """Prints the energies of every variant beside their chance levels, what was left out, and where things lie."""
    console = open_console(console)
    described = {variant.key: variant.method.describe() for variant in variants}
    splits = [row for row in rows if row.component is not None]
    for finetuned, unit in dict.fromkeys((row.finetuned, described[row.key].fraction_name) for row in splits):
        own = [row for row in splits if (row.finetuned, described[row.key].fraction_name) == (finetuned, unit)]
        show_table(console, _make_split_table(f"{finetuned}: energy kept (and chance) by {unit}", own))
    if others := [row for row in rows if row.component is None]:
        show_table(console, _make_method_table(others))
    names = {variant.key: variant.name for variant in variants}
    leaks = sorted((row.leak, names[row.key]) for row in rows if row.leak is not None)
    if leaks:
        low, high = (f"{leak:.1e} ({name})" for leak, name in (leaks[0], leaks[-1]))
        show_line(console, f"Leak         {low} to {high} of the norm on the wrong side after storing")
    show_line(
        console,
        f"Matrices     {counts['num_matrices']}, {counts['num_zero_delta']} without a delta (left out of the sums), "
        f"{counts['num_capped_at_rank']} capped at the rank of their delta, {counts['num_bad']} left out for NaN or "
        "infinity",
    )
    listed = ", ".join(f"{name}: {value}" for name, value in settings.items())
    show_line(console, f"Profile      {name_profile(settings)} ({listed})")
    show_line(console, f"Folder       {out}")
    if saved:
        show_line(console, f"Models       {len(saved)} under {out / 'models'}, such as {saved[0].name}")


def _make_split_table(title: str, rows: Sequence[EnergyRow]) -> Table:
    fractions = sorted({row.fraction for row in rows if row.fraction is not None})
    table = PlainTable(title, names=["source", "component"], numbers=[f"{fraction:g}" for fraction in fractions])
    cells = {(row.source, row.component, row.fraction): row for row in rows}
    for source, component in dict.fromkeys((row.source, row.component) for row in rows):
        own = [cells.get((source, component, fraction)) for fraction in fractions]
        texts = ["" if row is None else f"{row.energy_kept:.3f}\n({row.chance:.3f})" for row in own]
        table.add_line(source, str(component), *texts)
    return table


def _make_method_table(rows: Sequence[EnergyRow]) -> Table:
    numbers = ["energy", "cosine with\nupdate", "cosine with\ndelta", "matrices\ntreated"]
    table = PlainTable("other methods", names=["finetuned", "method"], numbers=numbers)
    for row in rows:
        texts = (f"{value:.3f}" for value in (row.energy_kept, row.cosine_update, row.cosine_delta))
        name = row.source if row.fraction is None else f"{row.source} {row.fraction:g}"
        table.add_line(row.finetuned, name, *texts, f"{row.num_changed} of {row.num_matrices}")
    return table
