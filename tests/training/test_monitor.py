"""The monitor: what the running update is made of, against an independent count."""

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForCausalLM

from safety_lightning.checkpoints import CheckpointReader
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate
from safety_lightning.training.callbacks.monitor_update import summarise_measures
from safety_lightning.training.figures import draw_layers, draw_modules
from tests import reference
from tests.training.conftest import draw_batches, fit, make_module


@pytest.fixture
def moved(pico_base: Path, pico_aligned: Path) -> tuple[UpdateProjector, torch.nn.Module]:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "down_proj" not in name:
                parameter.add_(1e-2 * torch.randn(parameter.shape, generator=generator))
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), vectors="skip")
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    return projector, model


def test_scalars_equal_an_independent_count(moved: tuple[UpdateProjector, torch.nn.Module], pico_aligned: Path) -> None:
    projector, model = moved
    scalars = summarise_measures(projector.measure(), projector.component)
    start = CheckpointReader(pico_aligned)
    inside, total, chance, stuck, num_weights = 0.0, 0.0, 0.0, 0, 0
    for slot in projector.prepared.slots:
        weights, before = dict(model.named_parameters())[slot.tensor].detach(), start.read(slot.tensor)
        update = (weights - before).double().numpy()
        basis = projector.prepared.subspace.bases[slot.name].columns.numpy()
        square = float((update**2).sum())
        total += square
        chance += square * basis.shape[1] / slot.rows
        inside += float((reference.project(update, basis, "parallel") ** 2).sum())
        stuck += int((weights == before).sum())
        num_weights += weights.numel()
    assert scalars["update/energy_inside"] == pytest.approx(inside / total, rel=1e-5)
    assert scalars["update/chance"] == pytest.approx(chance / total, rel=1e-5)
    assert scalars["update/norm"] == pytest.approx(math.sqrt(total), rel=1e-5)
    assert scalars["update/leak"] == pytest.approx(math.sqrt(1 - inside / total), rel=1e-5)
    assert scalars["update/stuck_share"] == pytest.approx(stuck / num_weights)
    assert scalars["update/stuck_share/down_proj"] == 1
    assert scalars["update/stuck_share/up_proj"] == 0
    assert "update/energy_inside/down_proj" not in scalars  # nothing moved: there is no share


def test_figure_has_a_point_for_each_layer_beside_chance(moved: tuple[UpdateProjector, torch.nn.Module]) -> None:
    projector, _ = moved
    (axes,) = draw_layers(projector.measure()).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["energy inside"].get_xdata()) == [0, 1]
    assert all(0 <= value <= 1 for value in lines["chance"].get_ydata())


def test_map_holds_the_energy_above_chance_of_each_kind(
    moved: tuple[UpdateProjector, torch.nn.Module],
) -> None:
    projector, _ = moved
    measures = projector.measure()
    figure = draw_modules(measures, title="map")
    assert figure is not None
    axes = figure.axes[0]
    kinds = [label.get_text() for label in axes.get_xticklabels()]
    (measure,) = [one for one in measures if (one.slot.layer, one.slot.kind) == (1, "up_proj")]
    expected = measure.inside / measure.total - measure.rank / measure.slot.rows
    assert axes.images[0].get_array()[1, kinds.index("up_proj")] == pytest.approx(expected)
    assert "norm" not in " ".join(kinds)  # vectors are left out
    assert draw_modules([], title="map") is None


@pytest.mark.parametrize(("precision", "low", "high"), [("bf16-true", 0.5, 1.0), ("bf16-mixed", 0.0, 0.1)])
def test_stuck_share_tells_of_weights_that_cannot_move(
    pico_base: Path, pico_aligned: Path, tmp_path: Path, precision: str, low: float, high: float
) -> None:
    module = make_module(pico_aligned)
    module.make_optimizer = lambda params: torch.optim.AdamW(params, lr=1e-6, weight_decay=0.0)
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    monitor = MonitorUpdate(every_n_steps=1, subspace=spec)
    logger = CSVLogger(tmp_path, name="csv", version="")
    fit(module, draw_batches(2), tmp_path, callbacks=[monitor], precision=precision, logger=logger)
    with (tmp_path / "csv" / "metrics.csv").open() as stream:
        shares = [float(row["update/stuck_share"]) for row in csv.DictReader(stream) if row["update/stuck_share"]]
    assert len(shares) == 2
    assert low <= shares[-1] <= high


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
def test_energy_is_that_before_the_projection_of_the_step(
    pico_base: Path, pico_aligned: Path, tmp_path: Path, component: str
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    logger = CSVLogger(tmp_path, name="csv", version="")
    callbacks = [ProjectUpdate(spec, component=component), MonitorUpdate(every_n_steps=2)]
    fit(make_module(pico_aligned), draw_batches(8), tmp_path, callbacks=callbacks, logger=logger)
    with (tmp_path / "csv" / "metrics.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["update/leak"]]
    assert [row["step"] for row in rows] == ["2", "4", "6", "8"]
    for row in rows:
        assert 1e-3 < float(row["update/energy_inside"]) < 1 - 1e-3  # after the projection it is 0 or 1
        assert float(row["update/leak"]) < 1e-4


def test_energy_after_a_step_without_projection_is_that_of_the_step(
    pico_base: Path, pico_aligned: Path, tmp_path: Path
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    logger = CSVLogger(tmp_path, name="csv", version="")
    callbacks = [ProjectUpdate(spec, component="orthogonal", every_n_steps=3), MonitorUpdate(every_n_steps=2)]
    fit(make_module(pico_aligned), draw_batches(8), tmp_path, callbacks=callbacks, logger=logger)
    with (tmp_path / "csv" / "metrics.csv").open() as stream:
        rows = {row["step"]: row for row in csv.DictReader(stream) if row["update/leak"]}
    assert list(rows) == ["2", "4", "6", "8"]
    for step, row in rows.items():
        energy, leak = float(row["update/energy_inside"]), float(row["update/leak"])
        if step == "6":
            assert leak < 1e-4 < energy  # measured before its projection
        else:
            assert energy == pytest.approx(leak**2, rel=1e-6)  # of the one update that there is


def test_negative_steps_are_named() -> None:
    with pytest.raises(ValueError, match="figure_every_n_steps must not be negative, got -1"):
        MonitorUpdate(figure_every_n_steps=-1)
