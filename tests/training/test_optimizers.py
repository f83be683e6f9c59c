"""Small updates of bfloat16 weights: lost by rounding to the nearest, kept by rounding at random; moments in 8 bits."""

from pathlib import Path

import pytest
import torch

from safety_lightning.errors import UserError
from safety_lightning.projection import SubspaceSpec, sum_leak
from safety_lightning.training import ProjectUpdate
from safety_lightning.training.optimizers import StochasticAdamW
from safety_lightning.training.optimizers.stochastic_adamw import round_at_random
from tests.conftest import copy_checkpoint, make_pico_llama
from tests.training.conftest import draw_batches, fit, make_module


def train(kind: type[torch.optim.Optimizer], dtype: torch.dtype, num_steps: int = 40) -> tuple[torch.Tensor, float]:
    """Returns the update, float32, and the stuck share of weights of std 0.02 at learning rate 1e-5."""
    generator = torch.Generator().manual_seed(0)
    start = (0.02 * torch.randn(100, 100, generator=generator)).bfloat16()
    slope = torch.randn(100, 100, generator=generator)
    weights = torch.nn.Parameter(start.clone().to(dtype))
    optimizer = kind([weights], lr=1e-5, weight_decay=0.0)
    torch.manual_seed(1)
    for _ in range(num_steps):
        weights.grad = (slope + 0.5 * torch.randn(100, 100, generator=generator)).to(dtype)
        optimizer.step()
    update = weights.detach().float() - start.float()
    return update, float((update == 0).float().mean())


def test_small_updates_are_lost_in_bfloat16_and_kept_when_rounded_at_random() -> None:
    exact, _ = train(torch.optim.AdamW, torch.float32)
    plain, plain_stuck = train(torch.optim.AdamW, torch.bfloat16)
    cured, cured_stuck = train(StochasticAdamW, torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity
    near_plain, near_cured = (float(cosine(one.flatten(), exact.flatten(), dim=0)) for one in (plain, cured))
    assert plain_stuck > 0.5 > cured_stuck
    assert near_plain < 0.6 < 0.8 < near_cured
    slope = float((cured * exact).sum() / (exact * exact).sum())  # right in the mean
    assert slope == pytest.approx(1, abs=0.1)


def test_float32_weights_are_trained_as_by_torch() -> None:
    exact, _ = train(torch.optim.AdamW, torch.float32)
    torch.testing.assert_close(train(StochasticAdamW, torch.float32)[0], exact, atol=1e-7, rtol=0)


def test_rounding_at_random_is_right_in_the_mean_and_never_beyond_a_neighbour() -> None:
    numbers = torch.tensor([1.001, -0.3333, 3e-6]).repeat(20_000, 1)
    rounded = round_at_random(numbers, torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(rounded.double().mean(0), numbers[0].double(), atol=0, rtol=2e-4)
    assert all(len(column.unique()) == 2 for column in rounded.T)
    exact = torch.tensor([1.0, -0.5, 0.0])
    assert torch.equal(round_at_random(exact).float(), exact)


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match=r"betas must be in \[0, 1\)"):
        StochasticAdamW([torch.nn.Parameter(torch.zeros(1))], betas=(0.9, 1.0))


def test_what_is_not_finite_stays_what_it_is() -> None:
    largest = torch.tensor([0x7FFFFFFF, 0x7FC00000, 0x7F800000, -0x800000], dtype=torch.int32).view(torch.float32)
    rounded = round_at_random(largest.repeat(100)).float().view(100, 4)
    assert rounded[:, :2].isnan().all()
    assert torch.equal(rounded[:, 2:], torch.tensor([torch.inf, -torch.inf]).expand(100, 2))


def test_copies_of_a_model_stay_copies_whatever_else_is_drawn() -> None:
    copies = []
    for num_drawn in (0, 7):  # as dropout does, for batches of other lengths
        torch.manual_seed(0)
        weights = torch.nn.Parameter(torch.linspace(-1, 1, 999).bfloat16())
        optimizer = StochasticAdamW([weights], lr=1e-3)
        for _ in range(3):
            torch.rand(num_drawn)
            weights.grad = weights.detach().sin()
            optimizer.step()
        copies.append(weights.detach())
    assert torch.equal(*copies)


def test_steps_in_parts_and_of_transposed_weights_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.linspace(-1, 1, 60).view(6, 10)
    found = []
    for chunk, weights in ((1 << 22, start.clone()), (7, start.clone()), (7, start.T.contiguous().T)):
        monkeypatch.setattr("safety_lightning.training.optimizers.stochastic_adamw._CHUNK", chunk)
        parameter = torch.nn.Parameter(weights)
        optimizer = StochasticAdamW([parameter], lr=1e-2)
        for _ in range(3):
            parameter.grad = parameter.detach().sin()
            optimizer.step()
        found.append(parameter.detach().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], start)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("package", ["torchao", "bitsandbytes"])
def test_steps_of_eight_bits_are_projected_as_others(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments are in 8 bits, the weights are not: what is projected is exact."""
    optim = pytest.importorskip(f"{package}.optim")
    monkeypatch.setattr("torch.compile", lambda function, *_, **__: function)  # or torchao's step wants a C++ compiler
    base = make_pico_llama(tmp_path / "base", hidden_size=128, intermediate_size=128)
    generator = torch.Generator().manual_seed(1)
    aligned = copy_checkpoint(
        base, tmp_path / "aligned", lambda _, one: one + 0.01 * torch.randn(one.shape, generator=generator)
    )
    module = make_module(aligned)
    module.make_optimizer = lambda params: optim.AdamW8bit(params, lr=1e-3)
    callback = ProjectUpdate(SubspaceSpec(base=str(base), reference=str(aligned)), component="orthogonal")
    trainer = fit(module, draw_batches(3), tmp_path, callbacks=[callback])
    state = trainer.optimizers[0].state[module.model.get_submodule("model.layers.0.mlp.down_proj").weight]
    assert any("8bit" in type(one).__name__ or getattr(one, "dtype", None) == torch.uint8 for one in state.values())
    measures = callback.projector.measure()
    assert sum(one.total for one in measures) > 1e-6
    assert sum_leak(measures, "orthogonal") < 1e-5
