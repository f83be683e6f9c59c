"""What training does not do: wait for a device in a micro-batch, or step weight by weight where one kernel will do."""

from pathlib import Path
from typing import Any

import pytest
import torch

from safety_lightning.data import find_positions
from safety_lightning.projection import SubspaceSpec
from safety_lightning.training import CausalLMModule, MonitorUpdate, PenalizeUpdate, ProjectUpdate
from safety_lightning.training.hook import ProjectionHook
from safety_lightning.training.optimization import choose_fused
from tests.training.conftest import draw_batches, fit, make_module

READS = ("item", "tolist", "__int__", "__float__", "nonzero", "cpu", "__bool__")  # which wait for a GPU
WATCHED = (
    (CausalLMModule, "training_step"),
    (CausalLMModule, "on_before_optimizer_step"),
    (CausalLMModule, "configure_gradient_clipping"),
    (ProjectionHook, "end_step"),
    (MonitorUpdate, "on_train_batch_end"),
    (PenalizeUpdate, "on_train_batch_end"),
)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Reads of numbers off a device in what is done for a batch."""
    found: list[str] = []

    def watch(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                for read in READS[:-1] if name == "training_step" else READS:  # a mask asks if it is full
                    patch.setattr(torch.Tensor, read, note(read, getattr(torch.Tensor, read)))
                return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    def note(name: str, original: Any) -> Any:
        return lambda *args, **kwargs: found.append(name) or original(*args, **kwargs)

    for owner, name in WATCHED:
        watch(owner, name)
    return found


def draw_prepared(number: int) -> list[dict[str, torch.Tensor]]:
    """Batches with what `InstructionData` finds in the host's memory."""
    return [{**one, "positions": find_positions(one["labels"])} for one in draw_batches(number)]


@pytest.mark.parametrize("gradient_clip_val", [None, 0.5])
def test_no_number_is_read_off_a_device_but_to_log_it(
    pico_base: Path, pico_aligned: Path, tmp_path: Path, reads: list[str], gradient_clip_val: float | None
) -> None:
    spec = SubspaceSpec(base=str(pico_base), reference=str(pico_aligned))
    found = {}
    for log_every_n_steps in (50, 2):
        callbacks = [ProjectUpdate(spec), PenalizeUpdate(spec, weight=0.1), MonitorUpdate(every_n_steps=50)]
        reads.clear()
        fit(
            make_module(pico_aligned),
            draw_prepared(4),
            tmp_path,
            callbacks=callbacks,
            gradient_clip_val=gradient_clip_val,
            log_every_n_steps=log_every_n_steps,
        )
        found[log_every_n_steps] = list(reads)
    assert found[50] == []
    assert found[2] != []  # or nothing was watched


@pytest.mark.parametrize(("clip", "num_norms"), [(None, 2), (0.5, 5)])
def test_norm_is_computed_once_where_it_is_logged_or_clipped_by(
    pico_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float | None, num_norms: int
) -> None:
    called: list[int] = []
    original = torch.nn.utils.get_total_norm

    def count(tensors: list[torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        called.append(len(tensors))
        return original(tensors, *args, **kwargs)

    monkeypatch.setattr("torch.nn.utils.get_total_norm", count)
    monkeypatch.setattr("torch.nn.utils.clip_grad._get_total_norm", count)
    module = make_module(pico_base)
    module._check_past = lambda: None  # which takes the norm of the weights
    fit(module, draw_batches(5), tmp_path, log_every_n_steps=2, gradient_clip_val=clip)
    assert len(called) == num_norms


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_adam_is_fused_where_the_device_is_the_one_meant(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    found = []
    for device_type in ("cuda", "cpu"):
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 20))
        optimizer = kind([weights], lr=1e-2)
        choose_fused(optimizer, device_type=device_type)
        assert optimizer.param_groups[0]["fused"] is (True if device_type == "cpu" else None)
        for _ in range(3):
            weights.grad = weights.detach().sin()
            optimizer.step()
        found.append(weights.detach())
    torch.testing.assert_close(*found, atol=1e-6, rtol=0)


def test_what_was_asked_for_stays() -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    for options in ({"fused": False}, {"foreach": True}):
        optimizer = torch.optim.AdamW([weights], **options)
        choose_fused(optimizer, device_type="cpu")
        assert not optimizer.param_groups[0]["fused"]
