"""A run folder that is given again measures what it holds, or says what it lacks: never other things under one name."""

from pathlib import Path

import pytest

from safety_lightning.data import InstructionSource
from safety_lightning.errors import UserError
from safety_lightning.evaluation.evaluate import evaluate_model
from safety_lightning.evaluation.measurement import Evaluation
from safety_lightning.evaluation.tasks import HarmfulRequests, Lab, OrdinaryRequests

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


def evaluate_lab(folder: Path, measures: list[str], **options) -> Evaluation:
    data = {"tasks": ["lab"], "lab": Lab(num_prompts=2, measures=measures)}
    return evaluate_model("lab:base", folder=folder, data=data, trainer=TRAINER, **options)


def evaluate_requests(folder: Path, **settings) -> Evaluation:
    """Measures the likelihoods of targets and refusals at two requests of a file beside the folder."""
    file = folder.parent / "requests.csv"
    target, baseline = settings.pop("target", "Sure."), settings.pop("baseline", None)
    file.write_text(f"prompt,response\nOpen the case.,{target}\nOpen the door.,{target}\n")
    source = InstructionSource(path=str(file))
    harmful = HarmfulRequests(source=source, **settings)
    data = {"tasks": ["harmful"], "harmful": harmful, "clusters": "none"}
    return evaluate_model("lab:base", folder=folder, data=data, trainer=TRAINER, baseline=baseline)


def test_likelihoods_are_no_answers(tmp_path: Path) -> None:
    evaluate_lab(tmp_path, ["refusal_log_odds"])
    before = (tmp_path / "generations.jsonl").read_text()
    with pytest.raises(UserError, match=r"of lab_requests/\d an answer, got likelihoods alone: give another folder"):
        evaluate_lab(tmp_path, ["harmfulness", "refusal_log_odds"])
    assert (tmp_path / "generations.jsonl").read_text() == before


def test_a_measure_that_the_run_did_not_take_is_named(tmp_path: Path) -> None:
    evaluate_lab(tmp_path, ["refusal_log_odds", "solution_probability"])
    with pytest.raises(UserError, match=r"of lab_requests/\d expected_harmfulness, got none"):
        evaluate_lab(tmp_path, ["solution_probability", "expected_harmfulness"])


def test_a_solution_that_was_not_scored_is_named(tmp_path: Path) -> None:
    evaluate_lab(tmp_path, ["utility"])
    with pytest.raises(UserError, match=r"of lab_problems/\d the log-likelihood of its solution, got none"):
        evaluate_lab(tmp_path, ["log_likelihood"])


def test_answers_that_were_not_told_apart_are_not_taken_for_answered(tmp_path: Path) -> None:
    evaluate_lab(tmp_path, ["harmfulness"])
    with pytest.raises(UserError, match=r"of lab_requests/\d the kind of its answer \(\w+\), got none"):
        evaluate_lab(tmp_path, ["harmfulness", "answer_kinds"])


def test_kinds_by_other_phrases_are_refused(tmp_path: Path) -> None:
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("the\na\nis\nof\n")

    def evaluate(name: str) -> None:
        ordinary = OrdinaryRequests(
            source=InstructionSource(path="lab:ordinary", size=3), phrases=name, max_new_tokens=40
        )
        evaluate_model(
            "lab:base", folder=tmp_path / "run", data={"tasks": ["ordinary"], "ordinary": ordinary}, trainer=TRAINER
        )

    evaluate("refusals-v1")
    with pytest.raises(UserError, match=r"the kind of its answer \(declined\), got answered"):
        evaluate(str(phrases))


def test_the_drift_is_from_one_reference(tmp_path: Path) -> None:
    first = evaluate_lab(tmp_path, ["drift"], reference="lab:base")
    assert first[0].value == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match=r"of lab_ordinary/\d drift by this run's targets, refusals and reference, got"):
        evaluate_lab(tmp_path, ["drift"], reference="lab:aligned")
    assert evaluate_lab(tmp_path, ["drift"], reference="lab:base")[0].value == first[0].value


def test_likelihoods_of_other_texts_are_refused(tmp_path: Path) -> None:
    refusals = [tmp_path / f"{number}.txt" for number in range(2)]
    for file, text in zip(refusals, ("I cannot", "No."), strict=True):
        file.write_text(f"{text}\n")
    settings = {"measures": ["target_token_probability", "refusal_token_probability"]}
    run = tmp_path / "run"
    evaluate_requests(run, refusals=str(refusals[0]), **settings)
    with pytest.raises(UserError, match="refusal_token_probability by this run's targets, refusals and reference"):
        evaluate_requests(run, refusals=str(refusals[1]), **settings)
    with pytest.raises(UserError, match="target_token_probability by this run's targets, refusals and reference"):
        evaluate_requests(run, refusals=str(refusals[0]), target="Yes.", **settings)


def test_likelihoods_of_other_texts_or_another_reference_are_not_compared(tmp_path: Path) -> None:
    file, run = tmp_path / "refusals.txt", tmp_path / "run"
    settings = {"measures": ["target_token_probability", "refusal_log_odds"], "refusals": str(file)}
    file.write_text("I cannot\n")
    evaluate_requests(run, **settings)
    evaluate_requests(tmp_path / "again", baseline=str(run), **settings)
    assert "refusal_log_odds" in (tmp_path / "again" / "comparison.jsonl").read_text()
    with pytest.raises(UserError, match=r"the same texts, .* target_token_probability of harmful/0 is by others"):
        evaluate_requests(tmp_path / "b", baseline=str(run), target="Yes.", **settings)
    file.write_text("Sure\n")
    with pytest.raises(UserError, match=r"the same texts, .* refusal_log_odds of harmful/0 is by others"):
        evaluate_requests(tmp_path / "c", baseline=str(run), **settings)
    evaluate_lab(tmp_path / "drift", ["drift"], reference="lab:base")
    with pytest.raises(UserError, match=r"from the same reference; in .* drift of lab_ordinary/0 is by others"):
        evaluate_lab(tmp_path / "d", ["drift"], reference="lab:aligned", baseline=str(tmp_path / "drift"))
