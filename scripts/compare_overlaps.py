"""Draws the averages of several `overlap activations` runs in one figure.

    python scripts/compare_overlaps.py --runs sound=logs/a 'not centred=logs/a:uncentred' --out docs/figures/overlap

Behind a folder stand, each with a colon, the profile of the rows that are meant (``sound`` by default), and
`uncentred` for the overlap without the means taken off. A dashed line is the chance level of its curve.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import auto_cli

from safety_lightning.cli.lists import gather_values
from safety_lightning.figures import PALETTE, make_figure, save_figure
from safety_lightning.overlap import AverageRow
from safety_lightning.tables import read_parquet


def compare_overlaps(runs: dict[str, str], out: Path, title: str = "") -> None:
    """Draw MSO against the share of energy, a curve a run, averaged over the runs' depth range.

    Args:
        runs: Folders of `overlap activations` by the curves' names: DIR, DIR:paper, DIR:uncentred.
        out: Where the figure goes, without its ending.
        title: Title of the figure.
    """
    figure, axes = make_figure(width=6.8, height=4.6)
    for number, (name, where) in enumerate(runs.items()):
        curve = read_curve(where)
        colour = PALETTE[number % len(PALETTE)]
        axes.plot([eta for eta, _, _ in curve], [mso for _, mso, _ in curve], "o-", color=colour, ms=3.5, label=name)
        axes.plot([eta for eta, _, _ in curve], [chance for _, _, chance in curve], "--", color=colour, lw=0.9)
    axes.set(xlabel="share of energy η", ylabel="Mode Subspace Overlap", ylim=(-0.02, 1.02), title=title)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, title="curve: overlap, dashed: its chance", title_fontsize=8)
    save_figure(figure, out)


def read_curve(where: str) -> list[tuple[float, float | None, float | None]]:
    """Reads share of energy, overlap and chance of one curve."""
    folder, *wishes = where.split(":")
    is_centred = "uncentred" not in wishes
    profile = next((wish for wish in wishes if wish != "uncentred"), "sound")
    rows = read_parquet(Path(folder) / "average.parquet", AverageRow)
    own = sorted((row for row in rows if row.profile == profile), key=lambda row: row.eta)
    if not own:
        raise SystemExit(f"runs must hold rows of their profile, {folder} has none of {profile}")
    if is_centred:
        return [(row.eta, row.mso, row.chance) for row in own]
    return [(row.eta, row.mso_uncentred, row.chance_uncentred) for row in own]


if __name__ == "__main__":
    words = gather_values(["compare", *sys.argv[1:]], {"compare": compare_overlaps})
    auto_cli(compare_overlaps, args=words[1:], as_positional=False)
