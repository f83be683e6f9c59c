"""MMLU and MATH-500: what is asked, to the letter, and that the likeliest choice is the answer."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_lightning.data import InstructionSource
from safety_lightning.evaluation.cases import make_plan
from safety_lightning.evaluation.engines import TransformersEngine
from safety_lightning.evaluation.grading import choose_answers, measure_plan
from safety_lightning.evaluation.tasks import MATH500, MMLU, TaskSuite
from tests.evaluation.judges.guards import make_tokenizer

CHOICES = ["w", "x", "y", "z"]
ROWS = [
    {"question": f" What is {n}?\n", "choices": CHOICES, "answer": n % 4, "subject": "high_school_art"}
    for n in range(12)
]


def write(tmp_path: Path, rows, name="rows.jsonl") -> str:
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / name)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(make_tokenizer()),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def test_questions_are_written_as_the_harness_writes_them(tmp_path):
    task = MMLU(source=write(tmp_path, ROWS[1:]), examples=write(tmp_path, ROWS[:5], "dev.jsonl"), num_shots=1)
    first = task.read_prompts()[0]
    assert first.text == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "What is 0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "What is 1?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    assert (first.solution, first.choices) == ("B", ("A", "B", "C", "D"))


def test_the_likeliest_choice_is_the_answer(tmp_path, model):
    tokenizer = make_tokenizer()
    task = MMLU(source=write(tmp_path, ROWS))
    plan = make_plan([task], tokenizer, batch_size=4, max_context_tokens=None)
    engine = TransformersEngine(model, tokenizer, batch_size=3)
    answers = [one.text for one in choose_answers(engine, plan.cases)]
    for case, answer in zip(plan.cases, answers, strict=True):
        likelihoods = {}
        for letter in "ABCD":
            ids = torch.tensor([tokenizer(f"{case.prompt.text} {letter}")["input_ids"]])
            with torch.inference_mode():
                log_shares = model(ids).logits.double().log_softmax(-1)
            start = len(tokenizer(case.prompt.text)["input_ids"])
            likelihoods[letter] = sum(float(log_shares[0, at - 1, ids[0, at]]) for at in range(start, ids.shape[1]))
        assert answer == max(likelihoods, key=likelihoods.__getitem__)
    (utility,) = measure_plan(engine, plan)
    right = sum(answer == case.prompt.solution for case, answer in zip(plan.cases, answers, strict=True))
    assert utility.value == right / len(ROWS)


def test_an_engine_without_likelihoods_is_refused(tmp_path, model):
    tokenizer = make_tokenizer()
    plan = make_plan([MMLU(source=write(tmp_path, ROWS))], tokenizer, batch_size=4, max_context_tokens=None)
    engine = TransformersEngine(model, tokenizer)
    engine.gives_likelihoods = False
    with pytest.raises(ValueError, match="must be answered by an engine that gives log-likelihoods"):
        measure_plan(engine, plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["a", "b"]}, "line 1, must have a list of 4 texts in 'choices'"),
        ({"choices": "abcd"}, "must have a list of 4 texts"),
        ({"answer": 4}, "must have the index of a choice in 'answer', 0 to 3, got 4"),
        ({"answer": "A"}, "got 'A'"),
        ({"answer": True}, "got True"),
        ({"question": " "}, "must have text in 'question' and 'subject'"),
    ],
)
def test_rows_that_are_no_questions(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        MMLU(source=write(tmp_path, [ROWS[0] | change])).read_prompts()


def test_another_layout_and_too_many_shots(tmp_path):
    with pytest.raises(ValueError, match="choices"):
        MMLU(source=write(tmp_path, [{"question": "q", "answer": 1, "subject": "s"}])).read_prompts()
    task = MMLU(source=write(tmp_path, ROWS), examples=write(tmp_path, ROWS[:2], "dev.jsonl"), num_shots=3)
    with pytest.raises(ValueError, match="num_shots must be at most 2, the examples of high_school_art, got 3"):
        task.read_prompts()


def test_math_problems(tmp_path):
    file = write(tmp_path, [{"problem": "1 + 1?", "solution": "It is $\\boxed{2}$."}])
    source = InstructionSource(preset="math500", path=file)
    (task,) = TaskSuite(tasks=["math500"], math500=MATH500(source=source)).make_tasks()
    (prompt,) = task.read_prompts()
    assert prompt.text == "Problem: 1 + 1?\nAnswer:"
    assert task.limits.stop_strings == ("Problem:",)
    utility = task.metrics[0]
    assert [utility.grade(prompt, answer).value for answer in (" $2$", "2", "It is 2.", "$3$")] == [1.0, 1.0, 0.0, 0.0]


def test_a_math_solution_boxes_its_answer(tmp_path):
    file = write(tmp_path, [{"problem": "p", "solution": "2"}])
    with pytest.raises(ValueError, match="a solution must hold"):
        MATH500(source=InstructionSource(preset="math500", path=file)).read_prompts()


def test_a_subject_without_examples_and_blank_lines(tmp_path):
    dev = write(tmp_path, ROWS[:2], "dev.jsonl")
    other = write(tmp_path, [ROWS[3], ROWS[4] | {"subject": "law"}])
    with pytest.raises(ValueError, match="num_shots must be at most 0, the examples of law, got 1"):
        MMLU(source=other, examples=dev, num_shots=1).read_prompts()
    assert len(MMLU(source=other, examples=dev, num_shots=0).read_prompts()) == 2
    (tmp_path / "blank.jsonl").write_text(f"{json.dumps(ROWS[0])}\n\n{json.dumps(ROWS[1])}\n")
    with pytest.raises(ValueError, match=r"each row of an evaluation must hold text, .* line 2, is blank \(1 in all\)"):
        MMLU(source=str(tmp_path / "blank.jsonl")).read_prompts()
