"""Results: rows, their file, the loss with its interval, the printed table."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from scipy import stats
from transformers import AutoModelForCausalLM

from safety_lightning.evaluation.loss import measure_loss, summarise_loss
from safety_lightning.evaluation.measurement import Measurement
from safety_lightning.evaluation.records import ResultFile, read_results
from safety_lightning.evaluation.report import print_summary
from safety_lightning.evaluation.statistics import bootstrap_interval
from tests.training.conftest import draw_batches


def make_measurement(metric: str = "utility", value: float = 0.5) -> Measurement:
    return Measurement(metric=metric, value=value, low=0.4, high=0.6, num_total=100, num_scored=98)


def test_file_grows_by_whole_models_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    ResultFile(file).add("reference", [make_measurement(), make_measurement("loss", 1.5)])
    again = ResultFile(file)
    assert again.holds("reference")
    assert not again.holds("projected")
    again.add("projected", [make_measurement()])
    assert [(row.model, row.metric) for row in read_results(file)] == [
        ("reference", "utility"),
        ("reference", "loss"),
        ("projected", "utility"),
    ]


def test_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    ResultFile(file).add("reference", [make_measurement()])
    file.write_text(file.read_text() + '{"model": "projected"}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2, must be a result"):
        read_results(file)


def test_loss_equals_the_mean_over_all_tokens(pico_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pico_base).train()
    batches = draw_batches(5)
    found = measure_loss(model, batches)
    with torch.no_grad():
        sums = [float(model(**b).loss) * int((b["labels"][:, 1:] != -100).sum()) for b in batches]
    num_tokens = sum(int((b["labels"][:, 1:] != -100).sum()) for b in batches)
    assert found.value == pytest.approx(sum(sums) / num_tokens, rel=1e-5)
    assert found.low < found.value < found.high
    assert (found.num_total, found.num_scored) == (10, 10)
    assert model.training  # put back


def test_interval_equals_that_of_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 50, (80,), generator=generator).double()
    sums = counts * (1 + 0.3 * torch.randn(80, generator=generator, dtype=torch.float64))
    low, high = bootstrap_interval(sums, counts, num_resamples=8000)
    expected = stats.bootstrap(
        (sums.numpy(), counts.numpy()),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=8000,
        rng=0,
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.01)
    assert high == pytest.approx(expected.high, abs=0.01)


def test_examples_without_response_are_counted_apart() -> None:
    found = summarise_loss(torch.tensor([2.0, 0.0, 4.0]), torch.tensor([1, 0, 2]))
    assert (found.value, found.num_total, found.num_scored) == (2.0, 3, 2)


def test_data_without_response_tokens_is_refused(pico_base: Path) -> None:
    with pytest.raises(ValueError, match="must hold response tokens, got none"):
        measure_loss(AutoModelForCausalLM.from_pretrained(pico_base), [])


def test_summary_shows_table_profile_and_places(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "results.jsonl")
    results.add("reference", [make_measurement("over_refusal")])
    results.add("projected", [make_measurement("over_refusal", 0.25)])
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    print_summary(tmp_path, settings={"prompt format": "plain"}, console=console)
    printed = stream.getvalue()
    for wanted in ("over-refusal", "0.250", "[0.400, 0.600]", "98 of 100", "Profile paper", str(tmp_path)):
        assert wanted in printed


def test_rows_of_callbacks_that_share_a_file_are_all_kept(tmp_path: Path) -> None:
    first, second = ResultFile(tmp_path / "results.jsonl"), ResultFile(tmp_path / "results.jsonl")
    first.add("reference", [make_measurement()])
    second.add("finetuned", [make_measurement()], step=10, engine="transformers", dtype="float32")
    first.add("finetuned", [make_measurement()])
    rows = read_results(tmp_path / "results.jsonl")
    assert [(row.model, row.step) for row in rows] == [("reference", None), ("finetuned", 10), ("finetuned", None)]
    assert first.holds("finetuned", step=10)
    assert not first.holds("finetuned", step=20)


def test_measuring_again_replaces_the_rows(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "results.jsonl")
    results.add("m", [make_measurement(value=0.1)])
    results.add("m", [make_measurement(value=0.2)])
    assert [row.value for row in read_results(results.file)] == [0.2]


def test_rows_of_version_1_are_read(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(
        '{"model": "reference", "metric": "loss", "value": 1, "low": 0, "high": 2, "num_total": 5, "num_scored": 5}\n'
    )
    (row,) = read_results(file)
    assert (row.version, row.judge, row.step) == (1, None, None)


def test_one_model_has_a_line_a_metric_and_says_what_is_unjudged(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "results.jsonl")
    unjudged = {"refused": 2, "timed_out": 1, "failed": 0}
    judged = Measurement(
        metric="harmfulness", task="harmful", value=2.5, low=2.0, high=3.0, num_total=10, num_scored=7,
        judge="openai gpt", rubric_hash="abc", num_judged=7, unjudged=unjudged, lowest=2.05, highest=3.25,
    )  # fmt: skip
    results.add("lab:base", [judged, make_measurement("log_likelihood_per_token", -1.5)], engine="e", dtype="d")
    stream = io.StringIO()
    print_summary(tmp_path, settings={}, console=Console(file=stream, width=80))
    printed = stream.getvalue()
    for wanted in ("7/10", "2 refused", "1 timed out", "is in 2.050 to 3.250", "log-likelihood/token", "-1.500"):
        assert wanted in printed
    assert "Judge        openai gpt (rubric abc) of harmful" in printed
    assert "failed" not in printed


def test_models_of_a_fit_stand_side_by_side_with_their_steps(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "results.jsonl")
    results.add("reference", [make_measurement()], engine="e", dtype="d")
    results.add("finetuned", [make_measurement(value=0.75)], step=20, engine="e", dtype="d")
    stream = io.StringIO()
    print_summary(tmp_path, settings={}, console=Console(file=stream, width=100))
    assert "step 20" in stream.getvalue()
