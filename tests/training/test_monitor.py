"""The monitor: what the running update is made of, against an independent count."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForCausalLM

from safety_lightning.checkpoints import CheckpointReader
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate
from safety_lightning.training.callbacks.monitor_update import summarise_energies, summarise_update
from safety_lightning.training.figures import draw_layers, draw_modules
from tests import reference
from tests.training.conftest import draw_batches, fit, make_module, read_weights


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
    measures = projector.measure()
    scalars = summarise_energies(measures, "update") | summarise_update(measures, projector.component)
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


class Recorder(L.Callback):
    """Keeps the weights before and after each optimizer step's projection: what the increments must be."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[str, torch.Tensor]] = {}
        self.wanted: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.kept[trainer.global_step] = read_weights(pl_module.model)
        hooks = trainer.optimizers[0]._optimizer_step_post_hooks
        record = lambda *_: self.wanted.__setitem__(len(self.wanted) + self.first, read_weights(pl_module.model))  # noqa: E731
        self.first = trainer.global_step + 1
        handle = trainer.optimizers[0].register_step_post_hook(record)
        hooks.move_to_end(handle.id, last=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self.kept[trainer.global_step] = read_weights(pl_module.model)


def read_metrics(folder: Path, column: str) -> dict[int, dict[str, str]]:
    with (folder / "csv" / "metrics.csv").open() as stream:
        return {int(row["step"]): row for row in csv.DictReader(stream) if row.get(column)}


def measure_increment(
    projector: UpdateProjector, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> tuple[float, float]:
    """Energy inside the subspace, as a share, and the norm, by the slow reference."""
    inside, total = 0.0, 0.0
    for slot in projector.prepared.slots:
        update = slot.view(after[slot.tensor] - before[slot.tensor]).double().numpy()
        basis = projector.prepared.subspace.bases[slot.name].columns.numpy()
        inside += float((reference.project(update, basis, "parallel") ** 2).sum())
        total += float((update**2).sum())
    return inside / total, math.sqrt(total)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    every_n_steps=st.integers(1, 5),
    monitor=st.integers(1, 6),
    draws=st.integers(0, 5),
    accumulated=st.integers(1, 2),
    component=st.sampled_from(["parallel", "orthogonal"]),
    resumed_at=st.integers(0, 5),
    own=st.booleans(),
)
def test_increments_are_those_since_the_last_projection_whatever_the_intervals(
    pico_base: Path,
    pico_aligned: Path,
    tmp_path_factory: pytest.TempPathFactory,
    every_n_steps: int,
    monitor: int,
    draws: int,
    accumulated: int,
    component: str,
    resumed_at: int,
    own: bool,
) -> None:
    folder, num_steps = tmp_path_factory.mktemp("run"), 9
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    batches = draw_batches(num_steps * accumulated)
    mine = replace(spec, source="random", fraction=0.5) if own else None

    def run(name: str, *, ckpt_path: Path | None = None) -> Recorder:
        record = Recorder()
        callbacks = [
            ProjectUpdate(spec, component=component, every_n_steps=every_n_steps),
            MonitorUpdate(monitor, draws, subspace=mine),
            record,
            ModelCheckpoint(folder / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}"),
        ]
        fit(
            make_module(pico_aligned),
            batches,
            folder,
            callbacks=callbacks,
            logger=CSVLogger(folder / name, name="csv", version=""),
            accumulate_grad_batches=accumulated,
            enable_checkpointing=True,
            ckpt_path=ckpt_path,
            max_steps=num_steps,
        )
        return record

    def check(name: str, record: Recorder, *, known_from: int) -> None:
        steps = [s for s in range(1, num_steps + 1) if s % monitor == 0 or (draws and s % draws == 0)]
        due = [step for step in steps if step > known_from]
        rows = read_metrics(folder / name, "increment/norm") if steps else {}
        assert list(rows) == due  # a row for each due step, of that step
        for step, row in rows.items():
            start = (step - 1) // every_n_steps * every_n_steps  # the last projection before this step's own
            energy, norm = measure_increment(projector, record.kept[start], record.wanted[step])
            assert float(row["increment/energy_inside"]) == pytest.approx(energy, rel=1e-3)
            assert float(row["increment/norm"]) == pytest.approx(norm, rel=1e-4)
            assert not row.get("update/energy_inside")

    projector = UpdateProjector(prepare_subspace(mine or spec), component="parallel")
    check("straight", run("straight"), known_from=0)
    if resumed_at > 0:  # the weights of the last projection are known from the next one on
        resumed = run("resumed", ckpt_path=folder / "ckpt" / f"step={resumed_at}.ckpt")
        check("resumed", resumed, known_from=-(-resumed_at // every_n_steps) * every_n_steps)


def test_the_update_itself_is_measured_where_nothing_is_projected_meanwhile(
    pico_base: Path, pico_aligned: Path, tmp_path: Path
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    logger = CSVLogger(tmp_path, name="csv", version="")
    callbacks = [ProjectUpdate(spec, component="orthogonal", when="end"), MonitorUpdate(every_n_steps=2)]
    fit(make_module(pico_aligned), draw_batches(4), tmp_path, callbacks=callbacks, logger=logger)
    rows = read_metrics(tmp_path, "update/energy_inside")
    assert list(rows) == [2, 4]
    for row in rows.values():
        assert float(row["update/energy_inside"]) == pytest.approx(float(row["update/leak"]) ** 2, rel=1e-6)
        assert "increment/norm" not in row


def test_negative_steps_are_named() -> None:
    with pytest.raises(ValueError, match="figure_every_n_steps must not be negative, got -1"):
        MonitorUpdate(figure_every_n_steps=-1)
