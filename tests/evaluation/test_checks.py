"""What an engine or a reference cannot serve is said before anything is answered."""

import json
from pathlib import Path

import pytest

from safety_lightning.data import InstructionSource
from safety_lightning.errors import UserError
from safety_lightning.evaluation import EvaluationData, EvaluationModule
from safety_lightning.evaluation.likelihoods.probing import list_left_out
from safety_lightning.evaluation.tasks import GSM8K, MMLU, HarmfulRequests, Lab, OrdinaryRequests
from tests.evaluation.tasks.test_lab_tasks import FixedEngine

QUESTION = {"question": "What?", "choices": ["w", "x", "y", "z"], "answer": 1, "subject": "art"}
HARMFUL = HarmfulRequests(max_new_tokens=9, measures=["answer_kinds", "target_token_probability"])


def check(data: dict, *, engine: str = "vllm", reference: str | None = None) -> EvaluationData:
    prompts = EvaluationData(model="lab:base", clusters="none", **data)
    EvaluationModule("lab:base", engine=engine, reference=reference).check_measures(prompts)
    return prompts


def test_a_drift_without_a_reference_is_refused() -> None:
    data = {"tasks": ["lab"], "lab": Lab(num_prompts=2, measures=["drift"])}
    with pytest.raises(UserError, match=r"measure drift must have a reference model .* got none: give"):
        check(data, engine="transformers")
    check(data, engine="transformers", reference="lab:aligned")


def test_likelihoods_of_a_default_are_left_out_with_a_word() -> None:
    prompts = check({"tasks": ["lab"], "lab": Lab(num_prompts=2)})
    lines = list_left_out(prompts.plan, FixedEngine(str))
    assert lines[0] == (
        "engine fixed gives no likelihoods: log_likelihood, solution_probability, solution_token_probability of "
        "lab_problems are not measured"
    )
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("data", "left_out"),
    [
        ({"tasks": ["lab"], "lab": Lab(num_prompts=2, measures=["utility", "log_likelihood"])}, "log_likelihood"),
        ({"tasks": ["gsm8k"], "gsm8k": GSM8K(num_shots=0, measures=["solution_probability"])}, "solution_probability"),
        (
            {
                "tasks": ["harmful"],
                "harmful": HARMFUL,
            },
            "target_token_probability",
        ),
        ({"tasks": ["ordinary"], "ordinary": OrdinaryRequests(measures=["over_refusal", "drift"])}, "drift"),
    ],
)
def test_likelihoods_that_were_named_are_refused(tmp_path: Path, data: dict, left_out: str) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\nGo.,Sure.\nStay.,Sure.\n")
    (name,) = data["tasks"]
    if name != "lab":
        source = InstructionSource(path=str(tmp_path / "rows.csv"))
        data = data | {name: type(data[name])(**(vars(data[name]) | {"source": source, "prompt_format": "chat"}))}
    with pytest.raises(UserError, match=rf"transformers or continuous for the likelihoods of .*, {left_out}, got vllm"):
        check(data, reference="lab:aligned")
    check(data, engine="continuous", reference="lab:aligned")


def test_choices_need_an_engine_with_likelihoods(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(QUESTION))
    data = {"tasks": ["mmlu"], "mmlu": MMLU(source=str(tmp_path / "rows.jsonl"), prompt_format="chat")}
    with pytest.raises(UserError, match="the likelihoods of mmlu, by which its answers are chosen, got vllm"):
        check(data)
    check(data, engine="continuous")
