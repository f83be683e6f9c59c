"""Prompt sets: distinct prompts, as many as asked for, from files, presets and the lab."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerBase

from safety_lightning.activations.prompts import PromptSet, check_set_names, read_set
from safety_lightning.data import encode_prompt
from safety_lightning.data.sources import BEAVERTAILS_CATEGORIES, PRESETS, InstructionSource
from safety_lightning.lab import build_tokenizer
from tests.conftest import SHARED_DATA


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer()


def write_rows(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def list_texts(prompt_set: PromptSet) -> list[str]:
    return [prompt.text for prompt in prompt_set.prompts]


def test_repeated_prompts_are_left_out_and_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_rows(tmp_path, [{"prompt": text, "response": str(at)} for at, text in enumerate("abacab")])
    found = read_set("letters", path, tokenizer, seed=0)
    assert list_texts(found) == ["a", "b", "c"]
    assert (found.num_read, found.num_repeated) == (6, 3)
    assert [prompt.id for prompt in found.prompts] == ["letters-00000", "letters-00001", "letters-00002"]
    assert found.prompts[1].input_ids == encode_prompt(tokenizer, "b")
    assert found.prompts[1].response_ids is None
    with pytest.raises(ValueError, match=r"letters must hold the 4 prompts asked for, got 3 distinct ones in .*jsonl"):
        read_set("letters", path, tokenizer, num_prompts=4, seed=0)


def test_the_first_response_to_a_prompt_is_read_without_its_stop_token(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [{"prompt": "a", "response": "one two"}, {"prompt": "a", "response": "three"}]
    (prompt,) = read_set("set", write_rows(tmp_path, rows), tokenizer, with_responses=True, seed=0).prompts
    assert prompt.response_ids == tokenizer("one two", add_special_tokens=False)["input_ids"]
    assert prompt.length == prompt.num_tokens + len(prompt.response_ids)


def test_a_small_draw_begins_a_large_one(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_rows(tmp_path, [{"prompt": f"p{at}"} for at in range(30)])

    def draw(num_prompts: int | None, **settings: Any) -> list[str]:
        source = InstructionSource(path=path, **settings)
        return list_texts(read_set("set", source, tokenizer, num_prompts=num_prompts, seed=3))

    assert draw(5) == draw(12)[:5] != [f"p{at}" for at in range(5)]
    assert draw(5, pick="first") == [f"p{at}" for at in range(5)]
    assert len(draw(5, size=7)) == 7  # the source's own size goes first
    assert draw(None) == [f"p{at}" for at in range(30)]


def test_an_id_names_the_same_prompt_in_any_draw(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_rows(tmp_path, [{"prompt": f"p{at}"} for at in range(30)])
    drawn = read_set("set", path, tokenizer, num_prompts=9, seed=0).prompts
    assert all(prompt.id == f"set-{int(prompt.text[1:]):05d}" for prompt in drawn)
    assert len({prompt.hash_text() for prompt in drawn}) == 9


def test_the_template_is_the_one_asked_for(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = write_rows(tmp_path, [{"prompt": "a"}])
    (prompt,) = read_set("set", path, tokenizer, template="plain", seed=0).prompts
    assert prompt.input_ids == encode_prompt(tokenizer, "a", template="plain") != encode_prompt(tokenizer, "a")


def test_advbench_is_cut_for_the_paper(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    (tmp_path / "advbench.csv").write_text('"Do a, then b","Sure, a"\nDo c,"Sure, c"\nDo d,"Sure, d"\n')
    source = InstructionSource(preset="advbench", path=str(tmp_path / "advbench.csv"))
    assert list_texts(read_set("set", source, tokenizer, seed=0)) == ["Do a, then b", "Do c", "Do d"]
    cut = read_set("set", source, tokenizer, advbench_prompts="cut", num_prompts=2, seed=0)
    assert sorted(list_texts(cut)) == ["Do a", "Do c"]
    with pytest.raises(ValueError, match="advbench_prompts must be whole where the sets' own responses are read"):
        read_set("set", source, tokenizer, advbench_prompts="cut", with_responses=True, seed=0)


@pytest.mark.parametrize("name", ["useful", "harmful", "safe", "ordinary"])
def test_the_lab_makes_as_many_as_asked_for(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    assert len(read_set(name, f"lab:{name}", tokenizer, num_prompts=20, seed=0).prompts) == 20


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "must hold at least one row"), ([{"prompt": " "}], "got only empty ones")],
)
def test_refuses_an_empty_set(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_set("set", write_rows(tmp_path, rows), tokenizer, seed=0)


def test_refuses_no_sets_and_names_that_cannot_name_folders() -> None:
    with pytest.raises(ValueError, match="sets must name at least one prompt set, got none"):
        check_set_names([])
    for name in ("", "a/b", "..", " a", "a\\b"):
        with pytest.raises(ValueError, match="a prompt set's name must be that of a folder, got"):
            check_set_names(["good", name])


class Hub:
    """Stands in for the hub: remembers what was asked for, and answers with some rows."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[tuple[Any, ...]] = []

    def load_dataset(self, name: str, config: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        self.asked.append((name, config, split))
        return datasets.Dataset.from_list(self.rows)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    def start(rows: list[dict[str, Any]]) -> Hub:
        hub = Hub(rows)
        monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
        return hub

    return start


@pytest.mark.parametrize(
    ("source", "row", "asked"),
    [
        (
            "math",
            {"problem": "a", "solution": "b", "level": "Level 1", "type": "Algebra"},
            ("DigitalLearningGmbH/MATH-lighteval", None, "test"),
        ),
        (
            InstructionSource(preset="gsm8k", split="test"),
            {"question": "a", "answer": "b"},
            ("openai/gsm8k", "main", "test"),
        ),
        ("advbench", {"prompt": "a", "target": "b"}, ("walledai/AdvBench", None, "train")),
    ],
)
def test_reads_presets_from_the_hub(
    serve: Any, tokenizer: PreTrainedTokenizerBase, source: Any, row: dict[str, str], asked: tuple[Any, ...]
) -> None:
    hub = serve([row])
    assert list_texts(read_set("set", source, tokenizer, seed=0)) == ["a"]
    assert hub.asked == [asked]
    (prompt,) = read_set("set", source, tokenizer, with_responses=True, seed=0).prompts
    assert prompt.response_ids == tokenizer("b", add_special_tokens=False)["input_ids"]


def test_beavertails_test_is_read_by_category(serve: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    def make_row(prompt: str, *marked: str) -> dict[str, Any]:
        category = {name: name in marked for name in BEAVERTAILS_CATEGORIES}
        return {"prompt": prompt, "response": "r", "category": category, "is_safe": not marked}

    theft, privacy = "financial_crime,property_crime,theft", "privacy_violation"
    rows = [make_row("a", theft), make_row("a", theft, privacy), make_row("b", privacy), make_row("c")]
    hub = serve(rows)
    assert list_texts(read_set("set", f"beavertails_test:{theft}", tokenizer, seed=0)) == ["a"]
    assert list_texts(read_set("set", f"beavertails_test:{privacy}", tokenizer, seed=0)) == ["a", "b"]
    everything = read_set("set", "beavertails_test", tokenizer, seed=0)
    assert (list_texts(everything), everything.num_repeated) == (["a", "b", "c"], 1)
    assert set(hub.asked) == {("PKU-Alignment/BeaverTails", None, "30k_test")}
    with pytest.raises(ValueError, match=r"did you mean beavertails_test:privacy_violation\?"):
        read_set("set", "beavertails_test:privacy_violations", tokenizer, seed=0)


def test_every_beavertails_category_is_a_preset() -> None:
    assert len(BEAVERTAILS_CATEGORIES) == len(set(BEAVERTAILS_CATEGORIES)) == 14
    assert all(f"beavertails_test:{category}" in PRESETS for category in BEAVERTAILS_CATEGORIES)


def test_toxigen_keeps_what_is_toxic(serve: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    scores = {"a": (5.0, 1.0), "b": (1.0, 1.0), "c": (3.0, 2.5), "d": (2.6, 3.0)}
    hub = serve([{"text": text, "toxicity_human": one, "toxicity_ai": two} for text, (one, two) in scores.items()])
    assert list_texts(read_set("set", "toxigen", tokenizer, seed=0)) == ["a", "d"]  # c is at the threshold
    assert hub.asked == [("toxigen/toxigen-data", "annotated", "test")]


def test_toxigen_rows_written_as_bytes_are_read(serve: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [r"b'it\'s caf\xc3\xa9'", 'b"don\'t"', "b'broken\\'", "be 'quoted'"]
    serve([{"text": text, "toxicity_human": 5, "toxicity_ai": 5} for text in texts])
    found = list_texts(read_set("set", "toxigen", tokenizer, seed=0))
    assert sorted(found) == sorted(["it's café", "don't", texts[2], texts[3]])


@pytest.mark.real_model
@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"{SHARED_DATA} is not here")
def test_reads_the_real_files(tokenizer: PreTrainedTokenizerBase) -> None:
    sources = {
        "gsm8k": InstructionSource(preset="gsm8k", path=str(SHARED_DATA / "gsm8k_test.jsonl")),
        "advbench": InstructionSource(preset="advbench", path=str(SHARED_DATA / "advbench.csv")),
    }
    found = {name: read_set(name, source, tokenizer, num_prompts=500, seed=0) for name, source in sources.items()}
    assert {name: len(one.prompts) for name, one in found.items()} == {"gsm8k": 500, "advbench": 500}
    assert (found["gsm8k"].num_read, found["advbench"].num_read) == (1319, 520)


def test_rows_without_text_are_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": null}\n\n{"prompt": " "}\n{"prompt": "a"}\n{"prompt": "b"}\n\n')
    found = read_set("letters", str(path), tokenizer, seed=0)
    assert list_texts(found) == ["a", "b"]
    assert (found.num_read, found.num_repeated, found.num_blank) == (3, 1, 3)
