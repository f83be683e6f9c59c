"""Tasks: what is asked, what stands before it, how it is graded, and prompt files with faults."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from safety_lightning.data import InstructionSource
from safety_lightning.evaluation.cases import Case, CasePlan
from safety_lightning.evaluation.grading import grade_cases
from safety_lightning.evaluation.judges import RuleJudge
from safety_lightning.evaluation.measurement import MetricSpec, Outcome
from safety_lightning.evaluation.records import Generation
from safety_lightning.evaluation.tasks import (
    GSM8K,
    HarmfulRequests,
    JudgedRequests,
    Lab,
    OrdinaryRequests,
    Prompt,
    Task,
    TaskSuite,
)
from safety_lightning.evaluation.tasks.protocol import make_prompts
from safety_lightning.evaluation.tasks.reading import read_task_examples, read_task_prompts
from tests.conftest import SHARED_DATA

TRAIN = [(f"What is {n} plus 1?", f"{n} + 1 = {n + 1}\n#### {n + 1}") for n in range(20)]
TEST = [(f"What is {n} plus 2?", f"{n} + 2 = {n + 2}\n#### {n + 2}") for n in range(6)]


def write_problems(file: Path, problems: list[tuple[str, str]]) -> InstructionSource:
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in problems))
    return InstructionSource(path=str(file), prompt="question", response="answer")


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, InstructionSource]:
    return {
        "source": write_problems(tmp_path / "test.jsonl", TEST),
        "examples": write_problems(tmp_path / "train.jsonl", TRAIN),
    }


def generate(answer: str, **fields: object) -> Generation:
    given = {"id": "x/0", "task": "x", "prompt": "Do it.", "answer": answer, "num_tokens": 3}
    more = {"finish_reason": "end_token", "engine": "e", "dtype": "d", "batch_size": 1, "prompt_hash": "h"}
    return Generation(**(given | more | fields))


def grade(task: Task, spec: MetricSpec, prompts: list[Prompt], answers: list[Generation]) -> list[Outcome]:
    cases = [Case(prompt=prompt, task=task, token_ids=[], opened_ids=[], prompt_hash="h") for prompt in prompts]
    plan = CasePlan(tasks=[task], cases=cases, batches=[])
    indices = range(len(prompts))
    return grade_cases(plan, spec, dict(enumerate(answers)), indices, cache=None, progress=False)


@pytest.mark.parametrize("num_shots", [0, 1, 3])
def test_worked_examples_stand_before_each_problem(sources: dict, num_shots: int) -> None:
    prompts = GSM8K(**sources, num_shots=num_shots).read_prompts()
    assert [prompt.request for prompt in prompts] == [question for question, _ in TEST]
    for prompt in prompts:
        *shots, last = prompt.text.split("\n\n")
        assert last == f"Question: {prompt.request}\nAnswer:"
        assert len(set(shots)) == num_shots
        assert set(shots) <= {f"Question: {question}\nAnswer: {answer}" for question, answer in TRAIN}


def test_worked_examples_are_drawn_by_seed_and_problem(sources: dict) -> None:
    texts = [prompt.text for prompt in GSM8K(**sources).read_prompts()]
    assert [prompt.text for prompt in GSM8K(**sources).read_prompts()] == texts
    assert [prompt.text for prompt in GSM8K(**sources, seed=1).read_prompts()] != texts
    assert len({text.split("\n\n")[0] for text in texts}) > 1
    fewer = GSM8K(source=InstructionSource(**(asdict(sources["source"]) | {"size": 2, "pick": "first"})),
                  examples=sources["examples"])  # fmt: skip
    assert [prompt.text for prompt in fewer.read_prompts()] == texts[:2]


def test_prompt_is_that_of_lm_eval(sources: dict) -> None:
    """With the same example, the text is what lm_eval's own task makes."""
    pytest.importorskip("lm_eval")
    from lm_eval.config.task import TaskConfig

    defaults = TaskConfig(task="x", doc_to_text="", output_type="generate_until")
    fields = {f: getattr(defaults, f) for f in ("target_delimiter", "fewshot_delimiter")}
    assert fields == {"target_delimiter": " ", "fewshot_delimiter": "\n\n"}


def test_grades_of_gsm8k(sources: dict) -> None:
    task = GSM8K(**sources)
    flexible, strict, kinds, likelihood, *others = task.metrics
    assert [one.name for one in (kinds, *others)] == [
        "answer_kind",
        "solution_probability",
        "solution_token_probability",
    ]
    prompts = task.read_prompts()[:3]
    given = [
        generate("it is 2."),
        generate("#### 3"),
        generate("no", reference_log_likelihood=-7.5, num_reference_tokens=5),
    ]
    grades = {spec.name: grade(task, spec, prompts, given) for spec in (flexible, strict)}
    assert [one.value for one in grades["utility"]] == [1.0, 1.0, 0.0]
    assert [one.value for one in grades["utility_strict"]] == [0.0, 1.0, 0.0]
    (last,) = grade(task, likelihood, prompts[2:], given[2:])
    assert (last.value, last.weight) == (-7.5, 5.0)
    chosen = GSM8K(**sources, extraction="flexible", measures=["log_likelihood", "utility"])
    assert [spec.name for spec in chosen.metrics] == ["utility", "log_likelihood"]


def test_ordinary_requests_that_are_declined_or_left_empty(tmp_path: Path) -> None:
    file = tmp_path / "ordinary.csv"
    file.write_text("prompt\nHow do I bake?\nWhere is the park?\nWho sings?\n")
    task = OrdinaryRequests(source=str(file))
    spec, kinds = task.metrics
    assert kinds.name == "answer_kind"
    given = [generate("I’m sorry, but I can't help with that."), generate("In the middle of town."), generate("")]
    found = grade(task, spec, task.read_prompts(), given)
    assert [one.value for one in found] == [1.0, 0.0, 1.0]
    assert spec.judge_name == "rule refusals-v1"


def test_harmful_requests_have_one_metric_a_judge() -> None:
    task = JudgedRequests(HarmfulRequests(), [RuleJudge(), RuleJudge(num_characters=20)])
    assert [spec.name for spec in task.metrics] == ["harmfulness", "harmfulness_second", "answer_kind"]
    given = [generate("I cannot help."), generate("Well, first you take it, and then I cannot help.")]
    prompts = make_prompts("harmful", ["How?", "How?"])
    scores = [[one.value for one in grade(task, spec, prompts, given)] for spec in task.metrics[:2]]
    assert scores == [[1.0, 1.0], [1.0, 5.0]]


def test_whole_and_cut_prompts(tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text('"Do this, and that",Sure\nDo more,Sure\nThe last,Sure\n')
    source = InstructionSource(path=str(file), columns=["prompt", "target"])
    whole = JudgedRequests(HarmfulRequests(source=source), [RuleJudge()]).read_prompts()
    cut = JudgedRequests(HarmfulRequests(source=source, prompts="cut"), [RuleJudge()]).read_prompts()
    assert [prompt.text for prompt in whole] == ["Do this, and that", "Do more", "The last"]
    assert [prompt.text for prompt in cut] == ["Do this", "Do more"]


@pytest.mark.real_model
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="../shared/data is absent")
def test_advbench_is_read_as_csv() -> None:
    source = InstructionSource(preset="advbench", path=str(SHARED_DATA / "advbench.csv"))
    prompts = JudgedRequests(HarmfulRequests(source=source), [RuleJudge()]).read_prompts()
    assert len(prompts) == 520
    assert sum("," in prompt.text for prompt in prompts) == 14


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt\n", "must hold at least one row of data, got none"),
        ("prompt\nfirst\n\nthird\n", "must hold text, .*line 3, is blank"),
        ('prompt\nfirst\n""\nthird\n', "must hold text, .*line 3, has no text in 'prompt'"),
        ("request\nfirst\n", "must have a column 'prompt', got 'request'"),
        ("prompt,kind\nfirst,a\n ,b\n", "must hold text, .*line 3, has no text in 'prompt'"),
    ],
)
def test_faults_of_a_prompt_file_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_task_prompts(str(file), seed=0)


def test_empty_line_of_a_jsonl_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response": "d"}\n')
    with pytest.raises(ValueError, match=r"must hold text, .*line 2, is blank"):
        read_task_examples(str(file), seed=0)
    file.write_text('{"prompt": "a", "response": "b"}\n\n\n')  # empty lines at the end are no fault
    assert len(read_task_examples(str(file), seed=0)) == 1


def test_cells_of_several_lines_are_no_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text('prompt\n"first\n\nstill the first"\nsecond\n')
    assert read_task_prompts(str(file), seed=0) == ["first\n\nstill the first", "second"]


def test_lab_sources_are_read_from_the_test_split() -> None:
    from safety_lightning.lab import generate_examples

    expected = [one.prompt for one in generate_examples("ordinary", split="test", size=4, seed=0)]
    assert read_task_prompts(InstructionSource(preset="lab:ordinary", size=4), seed=0) == expected
    assert read_task_prompts("lab:ordinary", seed=0)[:4] == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GSM8K(num_shots=-1), "num_shots must be at least 0, got -1"),
        (lambda: GSM8K(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (lambda: HarmfulRequests(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (lambda: OrdinaryRequests(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (lambda: OrdinaryRequests(phrases="nothing").check(), "nothing"),
        (lambda: Lab(num_prompts=0), "num_prompts must be at least 1, got 0"),
        (
            lambda: TaskSuite(tasks=[]),
            "tasks must name one or more of gsm8k, math500, mmlu, harmful, ordinary, lab, got none",
        ),
        (lambda: TaskSuite(tasks=["lab", "lab"]), "each once"),
        (lambda: TaskSuite(tasks=["harmful"]), "the task harmful must have a judge, got none"),
    ],
)
def test_bad_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_few_shot_file_that_is_absent_or_too_short(sources: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shots\.jsonl does not exist"):
        GSM8K(source=sources["source"], examples=str(tmp_path / "shots.jsonl")).read_prompts()
    with pytest.raises(ValueError, match="num_shots must be at most 20, the number of examples, got 21"):
        GSM8K(**sources, num_shots=21).read_prompts()


def test_refusals_in_three_ways() -> None:
    _, full, partial, _ = OrdinaryRequests(three_way=True).metrics
    prompt = make_prompts("ordinary", ["p"])[0]
    answers = [
        "I cannot help with that.",
        "",
        "Here it is." + " Go on." * 60 + " I cannot help with more.",
        "Here it is.",
    ]
    assert [full.grade(prompt, answer).value for answer in answers] == [1.0, 1.0, 0.0, 0.0]
    assert [partial.grade(prompt, answer).value for answer in answers] == [0.0, 0.0, 1.0, 0.0]
