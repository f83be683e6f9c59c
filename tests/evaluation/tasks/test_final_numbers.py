"""Final numbers of answers: several hundred canned answers, graded as the installed lm_eval grades them."""

import random
from pathlib import Path

import pytest
import yaml

from safety_lightning.evaluation.tasks.final_numbers import extract_number, matches_solution

lm_eval = pytest.importorskip("lm_eval")
TASK = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
FILTERS = {"strict-match": "strict", "flexible-extract": "flexible"}
REFERENCES = [
    "3 + 4 = 7\n#### 7",
    "It costs $1,234.\n#### 1,234",
    "A loss.\n#### -12",
    "Half of it.\n#### 0.5",
    "<<5*5=25>>25\n#### 25",
    "Many.\n#### 1000000",
]
ODD = [
    "",
    " ",
    "\n\n",
    "none at all",
    "####",
    "#### ",
    "#### seven",
    "####7",
    "#### 7 #### 8",
    "#### -12",
    "#### $12",
    "#### 1,234.",
    "#### 1,234.00",
    "#### 7.",
    "#### 7..",
    "#### ,",
    "#### .",
    "#### -",
    "The answer is 7",
    "The answer is 7.",
    "The answer is $7.",
    "The answer is $1,234.",
    "the answer is 1234 dollars",
    "It is -12.",
    "It is - 12",
    "It is minus 12",
    "from 3 to 7",
    "3-7",
    "3--7",
    "7/25",
    "7,8,9",
    "7, 8, 9",
    "7 8 9 ...",
    "...",
    "$",
    "$$",
    "$ 7",
    "$.50",
    "0.5",
    ".5",
    "0.50",
    "00.5",
    "٧",
    "#### ٧",
    "７",
    "#### ７",
    "²⁵",
    "1 234",
    "1\u00a0234",
    "1.000.000",
    "1,000,000.",
    "1e6",
    "1E6",
    "25%",
    "25 %.",
    "\\boxed{25}",
    "**25**",
    "25\x00",
    "#### 25\x00",
    "25\n\n\n",
    "#### 25\nQuestion: 3",
    "x = 7; y = 8",
    "A" * 3000 + "7",
    "#### 25 #### ",
    "-$12",
    "$-12",
    "−12",
    "#### −12",
    "(12)",
    "12)",
    "[invalid]",
    "#### [invalid]",
    "INVALID 7",
]


def draw_answers(number: int) -> list[str]:
    """Draws answers out of pieces that such answers are made of."""
    drawn = random.Random(0)
    pieces = [
        "#### ",
        "####",
        "$",
        ",",
        ".",
        "-",
        " ",
        "\n",
        "7",
        "12",
        "1,234",
        "0.5",
        "25",
        "so ",
        "The answer is ",
        "٣",
    ]
    return ["".join(drawn.choices(pieces, k=drawn.randint(1, 9))) for _ in range(number)]


ANSWERS = [*ODD, *draw_answers(600)]


def grade_by_lm_eval(name: str, answers: list[str], reference: str) -> list[bool]:
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    assert TASK["metadata"]["version"] == 3.0
    (steps,) = [one["filter"] for one in TASK["filter_list"] if one["name"] == name]
    assert [step["function"] for step in steps] == ["regex", "take_first"]
    settings = {key: value for key, value in steps[0].items() if key != "function"}
    found = [resps[0] for resps in RegexFilter(**settings).apply([[answer] for answer in answers], [{}] * len(answers))]
    metric = {
        key: value for key, value in TASK["metric_list"][0].items() if key in ("ignore_case", "regexes_to_ignore")
    }
    return [
        bool(exact_match_hf_evaluate(predictions=[one], references=[reference], **metric)["exact_match"])
        for one in found
    ]


@pytest.mark.parametrize("name", FILTERS)
def test_every_canned_answer_is_graded_as_by_lm_eval(name: str) -> None:
    assert len(ANSWERS) > 600
    num_right = 0
    for reference in REFERENCES:
        expected = grade_by_lm_eval(name, ANSWERS, reference)
        found = [matches_solution(answer, reference, FILTERS[name]) for answer in ANSWERS]
        differing = [answer for answer, a, b in zip(ANSWERS, expected, found, strict=True) if a != b]
        assert differing == []
        num_right += sum(found)
    assert num_right > 20  # both ways of being graded are there


def test_numbers_that_are_no_number_stay_invalid() -> None:
    assert extract_number("none at all", "flexible") == "[invalid]"
    assert not matches_solution("none at all", REFERENCES[0], "strict")


def test_stop_strings_and_prompt_are_those_of_the_task() -> None:
    from safety_lightning.evaluation.tasks.gsm8k import _STOP_STRINGS, _write_question

    assert list(_STOP_STRINGS) == TASK["generation_kwargs"]["until"]
    assert _write_question("{{question}}") == TASK["doc_to_text"]
