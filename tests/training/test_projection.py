"""Projection during training: the three ways, precisions, accumulation, checkpoints, resume."""

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from safety_lightning.checkpoints import CheckpointReader
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace, sum_leak
from safety_lightning.training import ProjectUpdate, ProjectUpdateTrainerCallback, SaveModel, attach_projection
from tests.training.conftest import LEARNING_RATE, Batches, draw_batches, fit, make_module, read_weights


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), fraction=0.25)


def measure_leak(spec: SubspaceSpec, model: torch.nn.Module, component: str) -> float:
    projector = UpdateProjector(prepare_subspace(spec), component=component)
    projector.bind(model)
    return sum_leak(projector.measure(), component)


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_projector_equals_the_formula_on_every_matrix(
    pico_base: Path, pico_aligned: Path, component: str, side: str
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), fraction=0.25, side=side)
    prepared = prepare_subspace(spec)
    model = AutoModelForCausalLM.from_pretrained(pico_aligned)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    before = read_weights(model)
    projector = UpdateProjector(prepared, component=component)
    projector.bind(model)
    projector.project()
    reference = CheckpointReader(pico_aligned)
    for slot in prepared.slots:
        basis = prepared.subspace.bases[slot.name].columns.double()
        start = slot.view(reference.read(slot.tensor)).double()
        update = slot.view(before[slot.tensor]).double() - start
        whole = basis @ basis.mT
        inside = whole @ update if side == "left" else update @ whole
        expected = start + (inside if component == "parallel" else update - inside)
        found = slot.view(dict(model.named_parameters())[slot.tensor].data).double()
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
def test_three_ways_of_use_give_the_same_weights(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, component: str
) -> None:
    batches = draw_batches(6)
    module = make_module(pico_aligned)
    callback = ProjectUpdate(subspace=spec, component=component)
    fit(module, batches, tmp_path, callbacks=[callback], accumulate_grad_batches=2)

    plain = AutoModelForCausalLM.from_pretrained(pico_aligned).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    attached = attach_projection(optimizer, plain, spec, component=component)
    for at in range(0, 6, 2):
        window = batches[at : at + 2]
        num_tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in window)
        for batch in window:
            loss = plain(**batch, num_items_in_batch=num_tokens).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    attached.remove()

    trained = AutoModelForCausalLM.from_pretrained(pico_aligned)
    train_with_transformers(trained, batches, tmp_path, ProjectUpdateTrainerCallback(spec, component=component))

    for name, weights in read_weights(module.model).items():
        torch.testing.assert_close(read_weights(plain)[name], weights, atol=3e-6, rtol=1e-5)
        torch.testing.assert_close(read_weights(trained)[name], weights, atol=3e-6, rtol=1e-5)
    assert measure_leak(spec, plain, component) < 1e-4
    assert measure_leak(spec, trained, component) < 1e-4


def train_with_transformers(
    model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], folder: Path, callback: ProjectUpdateTrainerCallback
) -> None:
    examples = [{name: tensor[row] for name, tensor in batch.items()} for batch in batches for row in range(2)]
    args = TrainingArguments(
        output_dir=str(folder / "transformers"),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(model=model, args=args, train_dataset=Batches(examples), callbacks=[callback]).train()


def test_transformers_trainer_saves_the_projected_model_at_the_end(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned)
    train_with_transformers(model, draw_batches(4), tmp_path, ProjectUpdateTrainerCallback(spec, when="end"))
    model.save_pretrained(tmp_path / "saved")
    assert measure_leak(spec, AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), "parallel") < 1e-4


class RecordLeak(L.Callback):
    """Records the leak of the live weights after each batch, with the optimizer's steps until then."""

    def __init__(self, spec: SubspaceSpec) -> None:
        self.spec = spec
        self.leaks: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        self.leaks.append((trainer.global_step, measure_leak(self.spec, pl_module.model, "parallel")))


@pytest.mark.parametrize("num_accumulated", [1, 3])
def test_acts_after_every_second_optimizer_step(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, num_accumulated: int
) -> None:
    callback, record = ProjectUpdate(subspace=spec, every_n_steps=2), RecordLeak(spec)
    fit(
        make_module(pico_aligned),
        draw_batches(15),
        tmp_path,
        callbacks=[callback, record],
        accumulate_grad_batches=num_accumulated,
    )
    assert len(record.leaks) == 15
    for step, leak in record.leaks:
        assert (leak < 1e-4) == (step % 2 == 0), (step, leak)
    assert callback.state_dict() == {"num_steps": 15 // num_accumulated}


@pytest.mark.parametrize(("precision", "bound"), [("32-true", 1e-4), ("bf16-mixed", 1e-4), ("bf16-true", 0.9)])
@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
def test_update_stays_in_its_component_in_every_precision(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, precision: str, bound: float, component: str
) -> None:
    module = make_module(pico_aligned)
    callback = ProjectUpdate(subspace=spec, component=component)
    fit(module, draw_batches(6), tmp_path, callbacks=[callback], precision=precision)
    assert measure_leak(spec, module.model, component) < bound
    free = make_module(pico_aligned)
    fit(free, draw_batches(6), tmp_path, precision=precision)
    assert measure_leak(spec, free.model, component) > measure_leak(spec, module.model, component)


def test_checkpoints_hold_projected_weights(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=2, save_top_k=-1, filename="{step}")
    callbacks = [ProjectUpdate(subspace=spec), checkpoint]
    fit(make_module(pico_aligned), draw_batches(4), tmp_path, callbacks=callbacks, enable_checkpointing=True)
    for file in (tmp_path / "ckpt").glob("*.ckpt"):
        model = AutoModelForCausalLM.from_pretrained(pico_aligned)
        state = torch.load(file, weights_only=True)["state_dict"]
        model.load_state_dict(
            {name.removeprefix("model."): tensor for name, tensor in state.items() if "val_" not in name}
        )
        assert measure_leak(spec, model, "parallel") < 1e-4


@pytest.mark.parametrize("when", ["every_n_steps", "end"])
def test_resumed_run_equals_an_undisturbed_one(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, when: str
) -> None:
    batches = draw_batches(8)

    def run(batches: list[dict[str, torch.Tensor]], *, ckpt_path: Path | None = None, **settings: object) -> dict:
        module = make_module(pico_aligned)
        checkpoint = ModelCheckpoint(tmp_path / "ckpt", every_n_train_steps=1, save_top_k=-1, filename="{step}")
        callbacks = [ProjectUpdate(subspace=spec, when=when, every_n_steps=3), checkpoint]
        fit(
            module,
            batches,
            tmp_path,
            callbacks=callbacks,
            ckpt_path=ckpt_path,
            enable_checkpointing=True,
            max_epochs=2,
            **settings,
        )
        return read_weights(module.model)

    straight = run(batches)
    for file in ("step=8.ckpt", "step=16.ckpt"):  # after the first epoch, and after the last step
        resumed = run(batches, ckpt_path=tmp_path / "ckpt" / file)
        assert all(torch.equal(resumed[name], weights) for name, weights in straight.items())


def test_end_saves_the_projected_model_and_the_unprojected_one_beside_it(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safety_lightning.training.callbacks.save_model.load_tokenizer", lambda reference: None)
    callbacks = [
        ProjectUpdate(subspace=spec, component="orthogonal", when="end", folder=str(tmp_path)),
        SaveModel(folder=str(tmp_path), keep_unprojected=True),
    ]
    module = make_module(pico_aligned)
    fit(module, draw_batches(4), tmp_path, callbacks=callbacks)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    unprojected = AutoModelForCausalLM.from_pretrained(tmp_path / "model_unprojected")
    assert all(torch.equal(read_weights(saved)[n], w) for n, w in read_weights(module.model).items())
    assert measure_leak(spec, saved, "orthogonal") < 1e-4
    assert measure_leak(spec, unprojected, "orthogonal") > 0.1
    with (tmp_path / "projection.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    columns = "name kind layer rows columns source component fraction rank energy_kept chance update_norm leak"
    assert " ".join(rows[0]) == columns
    row = next(row for row in rows if row["name"] == "model.layers.1.mlp.up_proj.weight")
    assert (row["kind"], row["layer"], row["rows"], row["columns"], row["rank"]) == ("up_proj", "1", "48", "32", "2")
    assert float(row["chance"]) == pytest.approx(1 - 2 / 48)
    assert 0.5 < float(row["energy_kept"]) < 1
    assert float(row["leak"]) < 1e-4


def test_storage_dtype_rounds_what_is_kept_and_reports_the_leak(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    module = make_module(pico_aligned)
    callback = ProjectUpdate(subspace=spec, when="end", storage_dtype="float16")
    fit(module, draw_batches(4), tmp_path, callbacks=[callback])
    for parameter in module.model.parameters():
        assert torch.equal(parameter, parameter.half().float())
    leaks = [row.leak for row in callback.rows if row.rank > 0 and row.columns > 1]
    assert min(leaks) > 1e-4


def test_result_of_half_precision_training_is_projected_in_float32(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    module = make_module(pico_aligned)
    callback = ProjectUpdate(subspace=spec, when="end", component="orthogonal")
    fit(module, draw_batches(4), tmp_path, callbacks=[callback], precision="bf16-true")
    assert max(row.leak for row in callback.rows if row.columns > 1) < 1e-4


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed"])
def test_rounding_of_the_reference_is_no_update(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, precision: str
) -> None:
    module = make_module(pico_aligned)
    module.make_optimizer = lambda params: torch.optim.SGD(params, lr=0.0)
    callback = ProjectUpdate(subspace=spec, component="orthogonal")
    fit(module, draw_batches(1), tmp_path, callbacks=[callback], precision=precision)
    assert {row.update_norm for row in callback.rows} == {0.0}
    start = CheckpointReader(pico_aligned)
    dtype = {"bf16-true": torch.bfloat16, "16-true": torch.float16}.get(precision, torch.float32)
    for name, weights in read_weights(module.model).items():
        assert torch.equal(weights.float(), start.read(name).to(dtype).float())


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
@pytest.mark.parametrize("keep", ["device", "host", "file"])
def test_a_reference_in_its_own_dtype_gives_the_weights_of_a_float32_one(
    spec: SubspaceSpec, tmp_path: Path, component: str, keep: str
) -> None:
    """Bit for bit, wherever it is kept."""
    folders = {"own": (torch.bfloat16, keep), "wide": (torch.float32, "device")}
    found, dtypes = {}, {}
    for name, (dtype, place) in folders.items():
        for role, source in (("base", spec.base), ("reference", spec.reference)):
            model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).to(dtype)
            model.save_pretrained(tmp_path / name / role)
        folder = tmp_path / name
        pair = SubspaceSpec(base=str(folder / "base"), reference=str(folder / "reference"), fraction=0.25)
        model = AutoModelForCausalLM.from_pretrained(folder / "reference", dtype=torch.float32)
        projector = UpdateProjector(prepare_subspace(pair), component=component, keep=place)
        projector.bind(model)
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator))
            projector.project()
        found[name], dtypes[name] = read_weights(model), {part.reference.dtype for part in projector._parts}
        found[name]["energies"] = torch.tensor([one.inside for one in projector.measure()], dtype=torch.float64)
    assert dtypes == {"own": {torch.bfloat16}, "wide": {torch.float32}}
    assert all(torch.equal(tensor, found["wide"][name]) for name, tensor in found["own"].items())


def test_autocast_around_a_plain_loop_does_not_reach_the_projection(spec: SubspaceSpec, pico_aligned: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attach_projection(optimizer, model, spec, component="orthogonal")
        for batch in draw_batches(2):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert measure_leak(spec, model, "orthogonal") < 1e-4


def test_tied_weights_are_listed_twice_as_in_the_release(
    spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path
) -> None:
    callback = ProjectUpdate(subspace=spec, when="end", tied="each")
    fit(make_module(pico_aligned), draw_batches(1), tmp_path, callbacks=[callback])
    twins = [row for row in callback.rows if row.kind in ("embed_tokens", "lm_head")]
    assert [row.name for row in twins] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert twins[0].energy_kept == twins[1].energy_kept


def test_subspace_is_saved_and_found_again(
    spec: SubspaceSpec, pico_base: Path, pico_aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = SubspaceSpec(**{**vars(spec), "file": str(tmp_path / "subspace.safetensors")})
    fit(make_module(pico_aligned), draw_batches(1), tmp_path, callbacks=[ProjectUpdate(subspace=saved)])

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("decomposed again")

    monkeypatch.setattr("safety_lightning.projection.spec.span_subspace", fail)
    prepare_subspace(saved)
    other = SubspaceSpec(**{**vars(saved), "fraction": 0.5})
    with pytest.raises(AssertionError, match="decomposed again"):
        prepare_subspace(other)


def test_identical_checkpoints_have_no_delta(pico_aligned: Path) -> None:
    spec = SubspaceSpec(base=str(pico_aligned), reference=str(pico_aligned))
    with pytest.raises(ValueError, match=r"identical in all 20 selected matrices: there is no delta"):
        prepare_subspace(spec)


def test_other_model_than_the_reference_is_named(spec: SubspaceSpec, tmp_path: Path) -> None:
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    with pytest.raises(ValueError, match=r"must be a parameter of the model, 20 are not: model\."):
        projector.bind(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "make", [ProjectUpdate, lambda every_n_steps: ProjectUpdateTrainerCallback(None, every_n_steps=every_n_steps)]
)
def test_steps_below_one_are_named(make: type[L.Callback]) -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        make(every_n_steps=0)
