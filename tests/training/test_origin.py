"""Training that goes on from a fine-tune: what its update is measured from, and which dtype is its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safety_lightning.projection import SubspaceSpec, prepare_subspace
from safety_lightning.training import ProjectUpdate, SaveModel
from tests.conftest import copy_checkpoint
from tests.training.conftest import draw_batches, fit, make_module, read_weights


@pytest.fixture
def further(pico_aligned: Path, tmp_path: Path) -> Path:
    """A fine-tune that training goes on from: bfloat16, away from the reference in all directions."""
    generator = torch.Generator().manual_seed(3)

    def move(name: str, weights: torch.Tensor) -> torch.Tensor:
        return (weights + 1e-2 * torch.randn(weights.shape, generator=generator)).bfloat16()

    return copy_checkpoint(pico_aligned, tmp_path / "further", move)


def test_update_is_measured_from_its_origin(pico_base: Path, pico_aligned: Path, further: Path, tmp_path: Path) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned), fraction=0.25)
    module = make_module(further)
    fit(module, draw_batches(4), tmp_path, callbacks=[ProjectUpdate(spec, "parallel", origin=str(further))])
    prepared, start = prepare_subspace(spec), load_file(further / "model.safetensors")
    live = dict(module.model.named_parameters())
    inside = outside = 0.0
    for slot in prepared.slots:
        update = slot.view(live[slot.tensor].detach().double() - start[slot.tensor].double())
        basis = prepared.subspace.bases[slot.name].columns.double()
        kept = basis @ (basis.mT @ update)
        inside, outside = inside + float(kept.square().sum()), outside + float((update - kept).square().sum())
    assert inside > 1e-4
    assert outside < 1e-8 * inside


def test_source_is_the_dtype_that_the_fit_starts_from(
    pico_base: Path,
    pico_aligned: Path,
    further: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("safety_lightning.training.callbacks.save_model.load_tokenizer", lambda reference: None)
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))  # which are float32
    project = ProjectUpdate(spec, when="end", origin=str(further), storage_dtype="source")
    module = make_module(further)
    fit(module, draw_batches(2), tmp_path, callbacks=[project, SaveModel(str(tmp_path / "run"), dtype="source")])
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    for name, weights in read_weights(module.model).items():
        assert saved[name].dtype == torch.bfloat16
        assert torch.equal(weights, saved[name].float()), name
