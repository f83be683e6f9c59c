"""Figures show what the rows hold, and end up as files and in TensorBoard."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from safety_lightning import compare_activations, compare_weights
from safety_lightning.overlap import AverageRow, LayerRow
from safety_lightning.overlap.figures import draw_average_curves, draw_layer_curves, draw_map
from safety_lightning.overlap.folder import publish_figures
from safety_lightning.tables import read_parquet

ETAS = [0.5, 0.7, 0.9]


@pytest.fixture(scope="module")
def weights_out(weight_folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare_weights(
        weight_folders["reference"],
        {"useful": weight_folders["useful"], "harmful": weight_folders["harmful"]},
        base=weight_folders["base"],
        ceilings={"useful": weight_folders["useful2"]},
        out=tmp_path_factory.mktemp("figures") / "weights",
        etas=ETAS,
        console=Console(quiet=True),
    )


@pytest.fixture(scope="module")
def activations_out(activation_folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compare_activations(
        activation_folders,
        out=tmp_path_factory.mktemp("figures") / "activations",
        etas=ETAS,
        num_permutations=5,
        num_resamples=5,
        compare_profiles=True,
        console=Console(quiet=True),
    )


def list_files(out: Path) -> set[str]:
    assert all(file.stat().st_size > 1000 for file in (out / "figures").iterdir())
    return {file.name for file in (out / "figures").iterdir()}


def list_images(out: Path) -> set[str]:
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    return set(events.Tags()["images"])


def test_figures_are_files_and_in_tensorboard(weights_out: Path, activations_out: Path) -> None:
    stems = {"mso_by_eta", "mso_by_layer"}
    assert list_files(weights_out) == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert list_images(weights_out) == {f"overlap/{stem}" for stem in stems}
    stems = {"mso_by_eta", "mso_by_layer_sound", "mso_by_layer_paper"}
    assert list_files(activations_out) == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}
    assert list_images(activations_out) == {f"overlap/{stem}" for stem in stems}


def test_figures_are_shown_once(weights_out: Path) -> None:
    before = sorted(weights_out.rglob("events*"))
    publish_figures(weights_out, {})
    assert sorted(weights_out.rglob("events*")) == before


def test_curves_of_weights_are_pairs_with_chance_and_ceiling(weights_out: Path) -> None:
    rows = read_parquet(weights_out / "layers.parquet", LayerRow)
    figure = draw_layer_curves(rows)
    [panel] = figure.axes  # one of four layers is nearest to all three percentiles
    assert panel.get_title() == "layer 2 (70/80/85 %)"
    shown = [row for row in rows if row.layer == 2 and row.pair == "useful vs harmful"]
    overlap, chance, ceiling = panel.lines[:3]
    assert list(overlap.get_ydata()) == [row.mso for row in shown]
    assert list(chance.get_ydata()) == [row.chance for row in shown]
    assert list(ceiling.get_ydata()) == [row.ceiling_a for row in shown]
    assert [overlap.get_linestyle(), chance.get_linestyle(), ceiling.get_linestyle()] == ["-", "--", ":"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["useful vs harmful", "useful vs delta", "harmful vs delta"]
    assert "ceiling: two seeds of one update" in labels


def test_curves_of_activations_have_a_panel_a_profile_and_the_null_band(activations_out: Path) -> None:
    rows = read_parquet(activations_out / "average.parquet", AverageRow)
    figure = draw_average_curves(rows)
    assert [panel.get_title() for panel in figure.axes] == [
        "sound: mean over layer 3",
        "paper: mean over layer 3",
    ]
    bands = [one for one in figure.axes[0].collections if one.get_alpha() == 0.2]
    assert len(bands) == 3
    shown = [row for row in rows if row.profile == "sound" and row.pair == "first vs alike"]
    heights = bands[0].get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(min(row.null_low for row in shown))
    assert heights.max() == pytest.approx(max(row.null_high for row in shown))
    without = [dataclasses.replace(row, null_low=None, null_high=None, low=None, high=None) for row in rows]
    labels = [text.get_text() for text in draw_average_curves(without).legends[0].get_texts()]
    assert "null: labels shuffled, 95 %" not in labels


def test_map_has_a_panel_a_pair_and_names_the_marked_layers(weights_out: Path) -> None:
    rows = [row for row in read_parquet(weights_out / "layers.parquet", LayerRow) if row.layer is not None]
    figure = draw_map(rows)
    panels = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in panels] == list(dict.fromkeys(row.pair for row in rows))
    grid = panels[0].images[0].get_array()
    assert grid.shape == (4, len(ETAS))
    assert grid[2, 1] == next(row.mso for row in rows if (row.layer, row.eta) == (2, ETAS[1]))
    names = [label.get_text() for child in panels[0].child_axes for label in child.get_yticklabels()]
    assert names == ["70/80/85 %"]


def test_map_of_many_pairs_wraps(weights_out: Path) -> None:
    rows = [row for row in read_parquet(weights_out / "layers.parquet", LayerRow) if row.layer is not None]
    many = [dataclasses.replace(row, pair=f"{row.pair} {copy}") for copy in range(2) for row in rows]
    figure = draw_map([row for row in many if row.pair != "harmful vs delta 1"])
    assert sum(panel.get_visible() for panel in figure.axes if panel.images) == 5
