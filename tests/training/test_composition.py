"""The projection beside what else a Trainer does: each keeps its own meaning, and the update stays in its component."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
)
from torch import Tensor
from transformers import AutoModelForCausalLM

from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace, sum_leak
from safety_lightning.training import CausalLMModule, ProjectUpdate, attach_projection
from safety_lightning.training.strategies import ZeroStrategy
from tests.training.conftest import LEARNING_RATE, draw_batches, fit, make_module, read_weights

BOUND = 1e-6  # of the update's energy, on the wrong side


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))


def measure_energy_outside(spec: SubspaceSpec, model: torch.nn.Module) -> float:
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    measures = projector.measure()
    assert sum(one.total for one in measures) > 1e-6
    return sum_leak(measures, "parallel") ** 2


def load_checkpoint(file: Path, reference: Path) -> torch.nn.Module:
    state = torch.load(file, weights_only=True)["state_dict"]
    model = AutoModelForCausalLM.from_pretrained(reference)
    model.load_state_dict({name[6:]: one for name, one in state.items() if name.startswith("model.")}, strict=True)
    return model


def fit_and_validate(module: CausalLMModule, folder: Path, *callbacks: L.Callback, **settings: object) -> L.Trainer:
    module.val_dataloader = lambda: torch.utils.data.DataLoader(draw_batches(2, seed=9), batch_size=None)
    return fit(module, draw_batches(6), folder, callbacks=callbacks, **settings)


@pytest.mark.parametrize("log_every_n_steps", [1, 50])  # by the norm that is logged, or by one of their own
def test_gradients_are_clipped_as_in_a_plain_loop(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, log_every_n_steps: int
) -> None:
    module = make_module(pico_aligned)
    module.make_optimizer = lambda params: torch.optim.SGD(params, lr=0.1)
    settings = {"gradient_clip_val": 0.05, "log_every_n_steps": log_every_n_steps}
    fit(module, draw_batches(4), tmp_path, callbacks=[ProjectUpdate(spec)], **settings)
    plain = AutoModelForCausalLM.from_pretrained(pico_aligned).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    attach_projection(optimizer, plain, spec)
    for batch in draw_batches(4):
        plain(**batch).loss.backward()
        assert torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05) > 0.05
        optimizer.step()
        optimizer.zero_grad()
    for name, wanted in read_weights(plain).items():
        torch.testing.assert_close(read_weights(module.model)[name], wanted, atol=1e-6, rtol=0)
    assert measure_energy_outside(spec, module.model) < BOUND


class RecordWeights(L.Callback):
    """Records the live weights after each optimizer step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self.weights.append(read_weights(pl_module.model))


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback")
@pytest.mark.parametrize("when", ["every_n_steps", "end"])
def test_averaged_weights_lie_in_the_subspace(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, when: str
) -> None:
    module, record = make_module(pico_aligned), RecordWeights()
    project = ProjectUpdate(spec, when=when)
    fit(module, draw_batches(6), tmp_path, callbacks=[record, EMAWeightAveraging(decay=0.5), project])
    assert measure_energy_outside(spec, module.model) < BOUND
    assert sum(row.update_norm for row in project.rows) > 0
    average = record.weights[0]
    for weights in record.weights[1:]:
        average = {name: 0.5 * average[name] + 0.5 * one for name, one in weights.items()}
    if when == "every_n_steps":
        for name, one in read_weights(module.model).items():
            torch.testing.assert_close(one, average[name], atol=1e-6, rtol=0)


def test_average_behind_the_projection_is_refused(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    callbacks = [ProjectUpdate(spec), EMAWeightAveraging()]
    with pytest.raises(UserError, match="EMAWeightAveraging must stand before ProjectUpdate"):
        fit(make_module(pico_aligned), draw_batches(1), tmp_path, callbacks=callbacks)


def test_best_and_last_checkpoint_hold_projected_weights(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", monitor="val/loss", save_top_k=1, save_last=True, filename="best")
    module = make_module(pico_aligned)
    fit_and_validate(module, tmp_path, ProjectUpdate(spec), keep, max_epochs=3, enable_checkpointing=True)
    for name in ("best", "last"):
        model = load_checkpoint(tmp_path / "ckpt" / f"{name}.ckpt", pico_aligned)
        assert measure_energy_outside(spec, model) < BOUND
    last = load_checkpoint(tmp_path / "ckpt" / "last.ckpt", pico_aligned)
    assert all(torch.equal(one, read_weights(module.model)[name]) for name, one in read_weights(last).items())


def test_early_stop_leaves_a_projected_model(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    stop = EarlyStopping("val/loss", patience=1, min_delta=1e6)  # nothing counts as better
    module, project = make_module(pico_aligned), ProjectUpdate(spec)
    trainer = fit_and_validate(module, tmp_path, project, stop, max_epochs=9)
    assert trainer.current_epoch == 2
    assert trainer.global_step == project.hook.num_steps == 12
    assert len(project.rows) == 20
    assert measure_energy_outside(spec, module.model) < BOUND


def test_projection_follows_a_schedule_of_accumulation(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    module, project = make_module(pico_aligned), ProjectUpdate(spec)
    schedule = GradientAccumulationScheduler({0: 1, 1: 3})
    fit(module, draw_batches(6), tmp_path, callbacks=[project, schedule], max_epochs=2)
    assert project.hook.num_steps == 6 + 2
    assert measure_energy_outside(spec, module.model) < BOUND


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])  # inductor wants a newer g++ than there may be
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_compiled_model_comes_to_the_same_weights(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, backend: str
) -> None:
    results = []
    for compile in (None, backend):
        module = make_module(pico_aligned, compile=compile)
        fit(module, draw_batches(3), tmp_path, callbacks=[ProjectUpdate(spec)])
        results.append(read_weights(module.model))
    torch.compiler.reset()
    assert measure_energy_outside(spec, module.model) < BOUND
    for name, wanted in results[0].items():
        torch.testing.assert_close(results[1][name], wanted, atol=1e-5, rtol=0)


def read_moments(optimizer: torch.optim.Optimizer, model: torch.nn.Module, name: str) -> dict[str, Tensor]:
    return {key: optimizer.state[one][name].clone() for key, one in model.named_parameters()}


@pytest.mark.parametrize(
    ("make", "name"),
    [(torch.optim.AdamW, "exp_avg"), (lambda params, lr: torch.optim.SGD(params, lr, 0.9), "momentum_buffer")],
)
@pytest.mark.parametrize(("component", "side"), [("parallel", "left"), ("orthogonal", "right")])
def test_moments_are_projected_as_the_formula_says(
    pico_base: Path, pico_aligned: Path, make: type, name: str, component: str, side: str
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), side=side)
    found = []
    for moments in (False, True):  # the first step is the same, so that its moment is known as it was
        model = AutoModelForCausalLM.from_pretrained(pico_aligned).train()
        optimizer = make(model.parameters(), lr=LEARNING_RATE)
        hook = attach_projection(optimizer, model, spec, component=component, moments=moments)
        model(**draw_batches(1)[0]).loss.backward()
        optimizer.step()
        found.append(read_moments(optimizer, model, name))
    prepared = hook.projector.prepared
    for slot in prepared.slots:
        whole, kept = (slot.view(one[slot.tensor]).double() for one in found)
        basis = prepared.subspace.bases[slot.name].columns.double()
        inside = basis @ (basis.T @ whole) if side == "left" else (whole @ basis) @ basis.T
        wanted = inside if component == "parallel" else whole - inside
        torch.testing.assert_close(kept, wanted, atol=1e-6 * float(whole.abs().max() + 1e-12), rtol=0)


def test_fit_projects_moments(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    results = []
    for moments in (False, True):
        module = make_module(pico_aligned)
        fit(module, draw_batches(4), tmp_path, callbacks=[ProjectUpdate(spec, moments=moments)])
        assert measure_energy_outside(spec, module.model) < BOUND
        results.append(read_weights(module.model))
    assert any(not torch.equal(one, results[1][name]) for name, one in results[0].items())


def test_moments_that_cannot_be_projected_are_refused(spec: SubspaceSpec, pico_aligned: Path) -> None:
    with pytest.raises(UserError, match=r"moments must be false where projection\.when is end"):
        ProjectUpdate(spec, when="end", moments=True)
    model = AutoModelForCausalLM.from_pretrained(pico_aligned).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    attach_projection(optimizer, model, spec, moments=True)
    model(**draw_batches(1)[0]).loss.backward()
    with pytest.raises(UserError, match="exp_avg or momentum_buffer, got SGD without"):
        optimizer.step()


def test_moments_under_zero_are_refused(spec: SubspaceSpec) -> None:
    pytest.importorskip("deepspeed")
    trainer = L.Trainer(accelerator="cpu", devices=2, strategy=ZeroStrategy(), logger=False, precision="32-true")
    with pytest.raises(UserError, match="moments must be false under ZeRO"):
        ProjectUpdate(spec, moments=True).check_strategy(trainer)
