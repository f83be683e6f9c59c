"""Behaviour measured during a fit: at the right steps, without changing the training, in the same file."""

from pathlib import Path

import lightning as L
import pytest
import torch

from safety_lightning.data import InstructionData, InstructionSource
from safety_lightning.evaluation.callbacks import CompareModels, EvaluateBehaviour
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.records import ComparisonRow, read_results, read_scores
from safety_lightning.evaluation.tasks import Lab, OrdinaryRequests, TaskSuite
from safety_lightning.files import read_rows
from safety_lightning.training.module import CausalLMModule


def fit(
    folder: Path, *callbacks: L.Callback, max_steps: int = 4, resume: Path | None = None, save: Path | None = None
) -> CausalLMModule:
    L.seed_everything(0)
    module = CausalLMModule("lab:aligned", optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3))
    data = InstructionData("lab:aligned", useful=InstructionSource(preset="lab:useful", size=32), batch_size=4)
    trainer = L.Trainer(
        accelerator="cpu",
        precision="32-true",
        max_steps=max_steps,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    if save is not None:
        trainer.save_checkpoint(save)
    return module


def test_rows_come_at_the_steps_and_training_is_not_changed(tmp_path: Path) -> None:
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=9))
    measured = EvaluateBehaviour(every_n_steps=2, suite=suite, num_prompts=5)
    compared = CompareModels(tasks=["lab"], num_prompts=5)
    with_callbacks = fit(tmp_path / "a", measured, compared)
    rows = read_results(tmp_path / "a" / "results.jsonl")
    models = list(dict.fromkeys((row.model, row.step) for row in rows))
    assert models == [("reference", None), ("finetuned", 2), ("finetuned", 4), ("finetuned", None)]
    assert {row.num_total for row in rows} == {5}
    assert {(row.engine, row.dtype) for row in rows} == {("transformers", "32-true")}
    last = {row.metric: row.value for row in rows if row.step == 4}
    assert last == {row.metric: row.value for row in rows if (row.model, row.step) == ("finetuned", None)}
    compared_rows = read_rows(tmp_path / "a" / "comparison.jsonl", ComparisonRow, what="a comparison")
    assert {(row.baseline, row.model, row.num_pairs) for row in compared_rows} == {("reference", "finetuned", 5)}
    scores = read_scores(tmp_path / "a")
    assert {(row.model, row.step) for row in scores} == set(models)
    without = fit(tmp_path / "b")
    for name, value in without.model.state_dict().items():
        assert torch.equal(value, with_callbacks.model.state_dict()[name]), name
    assert with_callbacks.model.training


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, EvaluateBehaviour(every_n_steps=2, num_prompts=3))
    before = (tmp_path / "results.jsonl").read_text()
    monkeypatch.setattr(TransformersEngine, "answer", lambda *_: 1 / 0)
    fit(tmp_path, EvaluateBehaviour(every_n_steps=2, num_prompts=3))
    assert (tmp_path / "results.jsonl").read_text() == before


def test_drift_is_measured_from_the_reference(tmp_path: Path) -> None:
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=4, measures=["drift", "solution_probability"]))
    fit(tmp_path, EvaluateBehaviour(every_n_steps=2, suite=suite), CompareModels(suite=suite))
    rows = {(row.model, row.step): row for row in read_results(tmp_path / "results.jsonl") if row.metric == "drift"}
    assert rows["reference", None].value < 1e-9
    assert rows["finetuned", 2].value > 1e-6
    assert rows["finetuned", 4].value == rows["finetuned", None].value  # from a model in memory and one read anew


def test_nothing_is_measured_unless_asked_for(tmp_path: Path) -> None:
    fit(tmp_path, EvaluateBehaviour(), max_steps=1)
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_steps": -1}, "every_n_steps must be at least 0, got -1"),
        ({"num_prompts": 0}, "num_prompts must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateBehaviour(**settings)


def test_suite_is_checked_before_the_fit(tmp_path: Path) -> None:
    data = InstructionData("lab:aligned", useful=InstructionSource(preset="lab:useful", size=8))
    data.prepare()
    suite = TaskSuite(tasks=["ordinary"], ordinary=OrdinaryRequests(source=str(tmp_path / "absent.csv")))
    for callback in (EvaluateBehaviour(every_n_steps=1, suite=suite), CompareModels(suite=suite)):
        with pytest.raises(ValueError, match=r"absent\.csv does not exist"):
            callback.check(data)


def test_the_reference_is_taken_before_the_first_step_and_loaded_no_second_time(tmp_path: Path, monkeypatch) -> None:
    loaded = []
    monkeypatch.setattr("safety_lightning.evaluation.callbacks.fine_tune.load_model", lambda *a, **k: loaded.append(a))
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=3, measures=["drift"]))
    fit(tmp_path, EvaluateBehaviour(every_n_steps=2, suite=suite, num_prompts=3))
    drifts = [row.value for row in read_results(tmp_path / "results.jsonl")]
    assert len(drifts) == 2
    assert min(drifts) > 1e-6
    assert loaded == []


def test_drift_of_a_resumed_fit_is_measured_from_the_reference_too(tmp_path: Path) -> None:
    suite = TaskSuite(tasks=["lab"], lab=Lab(num_prompts=4, measures=["drift"]))
    fit(tmp_path / "begun", max_steps=2, save=tmp_path / "step2.ckpt")
    callbacks = EvaluateBehaviour(every_n_steps=4, suite=suite), CompareModels(suite=suite)  # which loads the reference
    fit(tmp_path / "resumed", *callbacks, resume=tmp_path / "step2.ckpt")
    drifts = {row.step: row.value for row in read_results(tmp_path / "resumed" / "results.jsonl") if row.value > 1e-9}
    assert drifts[4] == drifts[None]
