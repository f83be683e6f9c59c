"""What training does not do: wait for a device in a micro-batch, or step weight by weight where one kernel will do."""

from pathlib import Path

import pytest
import torch

from safety_lightning.data import find_positions
from safety_lightning.training import CausalLMModule
from safety_lightning.training.optimization import choose_fused
from tests.training.conftest import draw_batches, fit, make_module


def test_a_micro_batch_reads_no_number_off_a_device(
    pico_aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for a GPU are the calls that make numbers of tensors, and `nonzero`."""
    waits: list[str] = []
    step = CausalLMModule.training_step

    def watch(module: CausalLMModule, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__int__", "__float__", "nonzero", "cpu"):
                patch.setattr(torch.Tensor, name, lambda *_, name=name, **__: waits.append(name) or 0)
            return step(module, batch, batch_idx)

    monkeypatch.setattr(CausalLMModule, "training_step", watch)
    batches = [{**one, "positions": find_positions(one["labels"])} for one in draw_batches(2)]  # as `InstructionData`
    fit(make_module(pico_aligned), batches, tmp_path)
    assert waits == []


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
