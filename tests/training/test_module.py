"""The module: loss by token, precision, what it logs."""

import csv
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from transformers import AutoModelForCausalLM

from safety_lightning.errors import UserError
from safety_lightning.training.loss import compute_token_losses, scale_gradient, sum_token_losses
from safety_lightning.training.module import CausalLMModule
from safety_lightning.training.optimization import make_schedule
from tests.training.conftest import draw_batches, fit, make_module, read_weights


def join_batches(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_loss_equals_that_of_transformers(pico_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_base)
    for batch in draw_batches(3):
        loss_sum, num_tokens = sum_token_losses(model, batch)
        torch.testing.assert_close(loss_sum / num_tokens, model(**batch).loss)
        losses, scored = compute_token_losses(model, batch)
        assert not losses[~scored].any()


def test_model_that_cannot_drop_logits_gives_the_same_loss(pico_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_base)
    (batch,) = draw_batches(1)
    expected = sum_token_losses(model, batch)
    monkeypatch.setattr("safety_lightning.training.loss._keeps_logits", lambda model: False)
    torch.testing.assert_close(sum_token_losses(model, batch), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3, 4)])
def test_gradients_are_scaled_in_place_as_by_a_number(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    factor = torch.tensor(1.0) / 7  # no number of bfloat16
    expected = gradient * float(factor)
    scale_gradient(gradient, factor)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("num_accumulated", [2, 4])
def test_accumulated_micro_batches_equal_the_large_batch(pico_base: Path, tmp_path: Path, num_accumulated: int) -> None:
    micro = draw_batches(6, batch_size=1)  # 6 is no multiple of 4: the last window is partial
    large = [join_batches(micro[at : at + num_accumulated]) for at in range(0, 6, num_accumulated)]
    modules = [make_module(pico_base), make_module(pico_base)]
    fit(modules[0], micro, tmp_path, accumulate_grad_batches=num_accumulated)
    fit(modules[1], large, tmp_path)
    first, second = (read_weights(module.model) for module in modules)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-6, rtol=1e-5)


def test_stored_half_precision_is_trained_in_float32_under_mixed(pico_base: Path, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(pico_base, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    module = make_module(tmp_path / "half")
    fit(module, draw_batches(2), tmp_path, precision="bf16-mixed")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert module.model.training


def test_rotary_frequencies_stay_float32_in_true_half_precision(pico_base: Path, tmp_path: Path) -> None:
    module = make_module(pico_base)
    fit(module, draw_batches(2), tmp_path, precision="bf16-true")
    assert module.model.dtype == torch.bfloat16
    expected = AutoModelForCausalLM.from_pretrained(pico_base).model.rotary_emb.inv_freq
    assert torch.equal(module.model.model.rotary_emb.inv_freq, expected)


def test_gradient_checkpointing_changes_no_weight(pico_base: Path, tmp_path: Path) -> None:
    plain, saving = make_module(pico_base), make_module(pico_base, gradient_checkpointing=True)
    for module in (plain, saving):
        fit(module, draw_batches(3), tmp_path)
    for name, weights in read_weights(plain.model).items():
        torch.testing.assert_close(read_weights(saving.model)[name], weights)


def test_warm_up_and_cosine_go_by_optimizer_steps(pico_base: Path, tmp_path: Path) -> None:
    module = make_module(pico_base, schedule="cosine", warmup_share=0.5)
    rates = []
    original = module.on_before_optimizer_step

    def record(optimizer: torch.optim.Optimizer) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        original(optimizer)

    module.on_before_optimizer_step = record
    fit(module, draw_batches(8), tmp_path, accumulate_grad_batches=2)
    assert rates == pytest.approx([0.005, 0.01, 0.0075, 0.0025])


@given(
    schedule=st.sampled_from(["cosine", "linear", "constant_with_warmup", "constant"]),
    num_steps=st.integers(1, 60),
    warmup_share=st.floats(0, 0.99),
)
@settings(deadline=None, derandomize=True)
def test_every_step_of_a_schedule_does_something(schedule: str, num_steps: int, warmup_share: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make_schedule(schedule, optimizer, num_steps, warmup_share=warmup_share)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    num_warmup = 0 if schedule == "constant" else math.ceil(warmup_share * num_steps)
    assert min(rates) > 0
    assert rates[:num_warmup] == pytest.approx([0.5 * (step + 1) / num_warmup for step in range(num_warmup)])
    assert max(rates) == pytest.approx(0.5)
    assert rates[num_warmup:] == sorted(rates[num_warmup:], reverse=True)


def spoil(module: CausalLMModule, batch: int, *, what: str) -> None:
    """Has the gradient of a batch be NaN, and with what "loss" its loss too."""
    original = module.training_step

    def training_step(data: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = original(data, batch_idx)
        if batch_idx == batch:
            loss = loss * math.nan
            module._window.loss_sum *= math.nan if what == "loss" else 1
        return loss

    module.training_step = training_step


def test_logged_gradient_that_is_not_finite_stops_before_the_weights_change(pico_base: Path, tmp_path: Path) -> None:
    module = make_module(pico_base)
    spoil(module, 2, what="gradient")
    before = []
    module.on_train_batch_end = lambda *_: before.append(read_weights(module.model))
    with pytest.raises(
        ValueError, match="the gradient must be finite, got nan in optimizer step 3, which was not taken"
    ):
        fit(module, draw_batches(4), tmp_path, log_every_n_steps=1)
    assert all(torch.equal(weights, before[-1][name]) for name, weights in read_weights(module.model).items())


@pytest.mark.parametrize(
    ("what", "batch", "told"),
    [
        ("loss", 0, "the loss must be finite, got NaN or infinity in optimizer step 1: "),
        ("gradient", 0, "the loss must be finite, got NaN or infinity in optimizer step 2: "),
        ("gradient", 3, "the weights must be finite, they are not after optimizer step 4: "),
    ],
)
def test_what_is_not_finite_between_logged_steps_is_saved_nowhere(
    pico_base: Path, tmp_path: Path, what: str, batch: int, told: str
) -> None:
    checkpoints = tmp_path / "checkpoints"
    for callbacks in ([], [ModelCheckpoint(checkpoints, every_n_train_steps=4)]):
        module = make_module(pico_base)
        spoil(module, batch, what=what)
        with pytest.raises(UserError, match=told):
            fit(module, draw_batches(4), tmp_path, callbacks=callbacks, enable_checkpointing=bool(callbacks))
    assert not list(checkpoints.glob("*"))


def test_log_holds_the_loss_of_the_whole_window(pico_base: Path, tmp_path: Path) -> None:
    batches = draw_batches(2)
    model = AutoModelForCausalLM.from_pretrained(pico_base)
    expected = model(**join_batches(batches)).loss.detach()
    logger = CSVLogger(tmp_path, name="csv", version="")
    fit(make_module(pico_base), batches, tmp_path, accumulate_grad_batches=2, logger=logger, log_every_n_steps=1)
    with (tmp_path / "csv" / "metrics.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["train/loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(row["train/perplexity"]) == pytest.approx(float(expected.exp()), rel=1e-4)
    assert float(row["train/lr"]) == pytest.approx(1e-2)
    assert row["step"] == "1"  # the first optimizer step is step 1, as in update/*
    assert {"train/gradient_norm", "train/tokens_per_second", "train/samples_per_second"} <= set(row)


def test_share_outside_its_range_is_named(pico_base: Path) -> None:
    with pytest.raises(ValueError, match=r"warmup_share must be in \[0, 1\), got 1.0"):
        make_module(pico_base, warmup_share=1.0)
