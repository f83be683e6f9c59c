"""The sections of a GPU, on the CPU at toy size: only size and device differ there."""

import pytest
import torch
from benchmarks.common import Setup
from benchmarks.gpu.bases import measure_bases
from benchmarks.gpu.device import count_work, describe_use
from benchmarks.gpu.fit import measure_fit
from benchmarks.gpu.generation import measure_generation
from benchmarks.gpu.step import make_parts, measure_leak, measure_step, products_in, take_projected
from benchmarks.gpu.variants import METHODS, measure_variants
from benchmarks.shapes import QWEN_1_5B, QWEN_7B, TOY, list_shapes, make_model
from torch.utils.flop_counter import FlopCounterMode

SETUP = Setup(num_pairs=2, is_toy=True)


@pytest.mark.parametrize(("shape", "billions"), [(QWEN_1_5B, 1.5437), (QWEN_7B, 7.6156)])
def test_shapes_have_the_weights_of_the_models_that_they_are_named_after(shape: dict, billions: float) -> None:
    num_weights = sum(torch.Size(one).numel() for one in list_shapes(shape).values())
    assert num_weights / 1e9 == pytest.approx(billions, abs=1e-4)


@pytest.mark.parametrize("is_tied", [True, False])
def test_work_is_what_torch_counts(is_tied: bool) -> None:
    shape = QWEN_7B | TOY | {"tie_word_embeddings": is_tied}
    model, num_tokens = make_model(shape), 32
    with FlopCounterMode(display=False) as counter:
        ids = torch.zeros(1, num_tokens, dtype=torch.int64)
        model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    assert counter.get_total_flops() / num_tokens == pytest.approx(count_work(shape, num_tokens), rel=0.1)


def test_use_is_told_of_what_the_device_reaches() -> None:
    assert describe_use(1e9, "cpu", size=64).startswith("0.001 Tflop/s, ")


def test_a_leak_is_the_share_of_the_norm_inside() -> None:
    model = make_model(QWEN_1_5B | TOY)
    parts = make_parts(model)
    inside = total = 0.0
    with torch.no_grad():
        for part in parts:
            update = 1e-2 * torch.randn(part.slot.rows, part.slot.columns)
            part.parameter.add_(update.view_as(part.parameter))
            inside += float((part.basis.double().T @ update.double()).square().sum())
            total += float(update.double().square().sum())
    assert measure_leak(parts) == pytest.approx((inside / total) ** 0.5, rel=1e-4)
    take_projected(lambda: None, parts, "ieee")
    assert measure_leak(parts) < 1e-5


def test_a_precision_is_chosen_for_a_block_alone() -> None:
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    with products_in("tf32"):
        assert backend.fp32_precision == "tf32"
    assert backend.fp32_precision == before


def test_bases_are_timed_of_both_shapes() -> None:
    small, large = measure_bases(SETUP)
    assert len(small.ratios) == len(large.ratios) == 2
    assert "15 in all" in small.note  # 7 of each layer and the embedding
    assert "16 in all" in large.note  # and the output layer


def test_ninety_variants_are_set_into_a_live_model() -> None:
    assert len(METHODS) == 90
    total, ratio = measure_variants(SETUP)
    assert min(total.ratios) > 0
    assert min(ratio.ratios) > 0


@pytest.mark.slow
@pytest.mark.parametrize("measure", [measure_fit, measure_step, measure_generation])
@pytest.mark.filterwarnings("ignore")
def test_a_section_runs(measure: object) -> None:
    assert all(len(one.ratios) == 2 and min(one.ratios) > 0 for one in measure(SETUP))
