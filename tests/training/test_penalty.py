"""AsFT's penalty: no weight is plain training, a large one removes the component, gradients are true."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec, UpdateProjector, prepare_subspace
from safety_lightning.training import CausalLMModule, PenalizeUpdate, ProjectUpdate
from safety_lightning.training.lora import LoraSettings
from tests.training.conftest import LEARNING_RATE, draw_batches, fit, make_module, read_weights


@pytest.fixture
def spec(pico_base: Path, pico_aligned: Path) -> SubspaceSpec:
    return SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), fraction=0.25)


def train(model: Path, folder: Path, *callbacks: L.Callback, **options: Any) -> torch.nn.Module:
    return train_module(make_module(model), folder, *callbacks, **options)


def train_module(module: CausalLMModule, folder: Path, *callbacks: L.Callback, **options: Any) -> torch.nn.Module:
    fit(module, draw_batches(8), folder, callbacks=callbacks, **options)
    return module.model


def measure_outside(spec: SubspaceSpec, model: torch.nn.Module) -> tuple[float, float]:
    projector = UpdateProjector(prepare_subspace(spec), component="parallel")
    projector.bind(model)
    measures = projector.measure()
    return sum(one.inside for one in measures), sum(one.outside for one in measures)


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gradient_is_that_of_the_penalty(pico_base: Path, pico_aligned: Path, component: Any, side: Any) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), fraction=0.25, side=side)
    prepared = prepare_subspace(spec)
    model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32)
    reference = read_weights(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-2 * torch.randn(parameter.shape, generator=generator))
            parameter.grad = torch.zeros_like(parameter)
    projector = UpdateProjector(prepared, component=component)
    projector.bind(model)
    value = projector.penalize(0.7)
    for slot in prepared.slots:
        parameter = dict(model.named_parameters())[slot.tensor]
        weights = parameter.detach().double().requires_grad_()
        update = slot.view(weights) - slot.view(reference[slot.tensor]).double()
        basis = prepared.subspace.bases[slot.name].columns.double()
        inside = basis @ basis.mT @ update if side == "left" else update @ basis @ basis.mT
        penalty = 0.7 * (update - inside if component == "parallel" else inside).square().sum()
        penalty.backward()
        value -= float(penalty.detach())
        torch.testing.assert_close(parameter.grad.double(), weights.grad, atol=1e-6, rtol=1e-4)
    assert value == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("how", ["gradient", "decoupled"])
def test_no_weight_is_plain_training(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, how: Any) -> None:
    plain = read_weights(train(pico_aligned, tmp_path))
    found = read_weights(train(pico_aligned, tmp_path, PenalizeUpdate(spec, weight=0.0, how=how)))
    for name, weights in plain.items():
        assert torch.equal(found[name], weights)


def test_a_large_decoupled_weight_is_the_projection(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    projected = read_weights(train(pico_aligned, tmp_path, ProjectUpdate(spec)))
    found = train(pico_aligned, tmp_path, PenalizeUpdate(spec, weight=1e12, how="decoupled"))
    for name, weights in read_weights(found).items():
        torch.testing.assert_close(weights, projected[name], atol=1e-6, rtol=0)
    inside, outside = measure_outside(spec, found)
    assert outside < 1e-8 * inside


@pytest.mark.parametrize("how", ["gradient", "decoupled"])
def test_more_weight_leaves_less_outside(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path, how: Any) -> None:
    shares = []
    for weight in (0.0, 3.0, 45.0):
        module = make_module(pico_aligned)
        module.make_optimizer = lambda params: torch.optim.SGD(params, lr=LEARNING_RATE)  # Adam's limit is another
        model = train_module(module, tmp_path / f"{weight}", PenalizeUpdate(spec, weight=weight, how=how))
        inside, outside = measure_outside(spec, model)
        shares.append(outside / (inside + outside))
    assert shares[0] > shares[1] > shares[2]


def test_accumulated_micro_batches_are_penalized_once(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    batches = draw_batches(8)
    joined = [
        {name: torch.cat([one[name], other[name]]) for name in one}
        for one, other in zip(batches[::2], batches[1::2], strict=True)
    ]
    found = []
    for given, options in ((batches, {"accumulate_grad_batches": 2}), (joined, {})):
        module = make_module(pico_aligned)
        fit(module, given, tmp_path, callbacks=[PenalizeUpdate(spec, weight=3.0)], **options)
        found.append(read_weights(module.model))
    for name, weights in found[0].items():
        torch.testing.assert_close(weights, found[1][name], atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("component", ["parallel", "orthogonal"])
def test_what_is_left_is_what_is_measured(spec: SubspaceSpec, pico_aligned: Path, component: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_aligned, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    projector = UpdateProjector(prepare_subspace(spec), component=component)
    projector.bind(model)
    for parameter in model.parameters():
        parameter.data.add_(1e-2 * torch.randn(parameter.shape, generator=generator))
    for share in (0.0, 0.3):
        left = projector.shrink(share)
        removed = [one.outside if component == "parallel" else one.inside for one in projector.measure()]
        assert left == pytest.approx(sum(removed), rel=1e-4)
        assert left > 1e-3


def test_adapters_are_refused_before_anything_is_made(spec: SubspaceSpec, pico_aligned: Path, tmp_path: Path) -> None:
    module, folder = make_module(pico_aligned, lora=LoraSettings(r=2)), tmp_path / "run"
    callback = PenalizeUpdate(SubspaceSpec(**(vars(spec) | {"file": str(folder / "subspace.safetensors")})))
    with pytest.raises(UserError, match="whose weights themselves are trained, got LoRA adapters"):
        fit(module, draw_batches(1), folder, callbacks=[callback])
    assert not folder.exists()
    assert "model" not in module._modules
    PenalizeUpdate().check_module(module)  # which penalizes nothing


def test_weight_must_be_a_weight() -> None:
    with pytest.raises(UserError, match=r"penalty\.weight must be finite and at least 0, got -1"):
        PenalizeUpdate(weight=-1.0)
    with pytest.raises(UserError, match="got nan"):
        PenalizeUpdate(weight=float("nan"))
