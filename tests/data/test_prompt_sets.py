"""Prompt sets of the field: their presets read local files of their layout, and say which licence they have."""

import json

import pytest

from safety_lightning.data import InstructionSource, read_examples, read_prompts
from safety_lightning.data.sources import LICENCES, PRESETS

LAYOUTS = {
    "strongreject": {"prompt": "p", "category": "c"},
    "harmbench": {"prompt": "p", "category": "c"},
    "jailbreakbench": {"Goal": "p", "Target": "t"},
    "jailbreakbench_benign": {"Goal": "p", "Target": "t"},
    "xstest": {"prompt": "p", "label": "safe"},
    "xstest_unsafe": {"prompt": "p", "label": "unsafe"},
    "or_bench_hard": {"prompt": "p", "category": "c"},
    "math500": {"problem": "p", "solution": "s"},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_local_file_of_the_presets_layout(tmp_path, name):
    rows = [LAYOUTS[name], *([{"prompt": "other", "label": "neither"}] if "label" in LAYOUTS[name] else [])]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(InstructionSource(preset=name, path=str(file)), seed=0) == ["p"]


def test_a_contextual_behaviour_has_its_context_before_it(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p", "context": "c", "response": "r"}) + "\n")
    source = InstructionSource(preset="harmbench_contextual", path=str(file))
    assert read_prompts(source, seed=0) == ["c\n\n---\n\np"]
    (example,) = read_examples(source, seed=0)
    assert (example.prompt, example.response) == ("c\n\n---\n\np", "r")


def test_another_layout_is_said(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "p"}) + "\n")
    for name, column in (("harmbench_contextual", "context"), ("jailbreakbench", "Goal"), ("xstest", "label")):
        with pytest.raises(ValueError, match=column):
            read_prompts(InstructionSource(preset=name, path=str(file)), seed=0)


def test_every_licence_is_of_a_preset():
    assert set(LICENCES) <= set(PRESETS)
    assert {*LAYOUTS, "harmbench_contextual", "mmlu"} <= set(LICENCES)
