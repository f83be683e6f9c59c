import subprocess
import sys

import datasets
import pytest

from safety_lightning.data import reading
from safety_lightning.data.reading import read_advbench_prompts, read_examples, read_prompts, read_source
from safety_lightning.data.sources import (
    GENERATORS,
    PRESETS,
    Example,
    InstructionSource,
    is_local_file,
    register_generator,
    resolve_source,
)
from tests.conftest import SHARED_DATA
from tests.data.conftest import make_rows


def test_reads_named_columns(write_jsonl):
    path = write_jsonl([{"q": "one", "a": "1"}, {"q": "two", "a": 2}])
    examples = read_examples(InstructionSource(path=path, prompt="q", response="a"), seed=0, kind="harmful")
    assert examples == [
        Example(prompt="one", response="1", kind="harmful"),
        Example(prompt="two", response="2", kind="harmful"),
    ]


def test_a_plain_path_has_the_columns_prompt_and_response(write_jsonl):
    assert [one.prompt for one in read_examples(write_jsonl(make_rows(3)), seed=0)] == ["p0", "p1", "p2"]


def test_filters_rows_and_counts_them(write_jsonl):
    rows = [row | {"is_safe": number % 3 == 0, "topic": "abc"[number % 3]} for number, row in enumerate(make_rows(9))]
    path = write_jsonl(rows)
    unsafe = read_source(InstructionSource(path=path, filters={"is_safe": False}), seed=0, kind="harmful")
    assert [one.prompt for one in unsafe.examples] == ["p1", "p2", "p4", "p5", "p7", "p8"]
    assert (unsafe.num_rows, unsafe.num_filtered, unsafe.num_blank) == (9, 3, 0)
    both = InstructionSource(path=path, filters={"is_safe": False, "topic": ["a", "c"]})
    assert [one.prompt for one in read_examples(both, seed=0)] == ["p2", "p5", "p8"]


def test_filters_the_text_of_csv(tmp_path):
    (tmp_path / "data.csv").write_text("prompt,response,is_safe\na,b,False\nc,d,true\ne,f,false\n")
    source = InstructionSource(path=str(tmp_path / "data.csv"), filters={"is_safe": False})
    assert [one.prompt for one in read_examples(source, seed=0)] == ["a", "e"]


def test_a_number_is_not_a_truth_value(write_jsonl):
    path = write_jsonl([{"prompt": "a", "response": "b", "label": 1}])
    with pytest.raises(ValueError, match="whose 'label' is True, got only 1"):
        read_examples(InstructionSource(path=path, filters={"label": True}), seed=0)


def test_leaves_out_blank_rows_and_counts_them(write_jsonl):
    path = write_jsonl([{"prompt": "a", "response": " "}, {"prompt": None, "response": "b"}, *make_rows(2)])
    result = read_source(path, seed=0, kind="useful")
    assert (len(result.examples), result.num_rows, result.num_blank) == (2, 4, 2)


def test_draws_by_the_seed_and_a_small_draw_begins_a_large_one(write_jsonl):
    path = write_jsonl(make_rows(50))

    def draw(size: int, seed: int) -> list[str]:
        return [one.prompt for one in read_examples(InstructionSource(path=path, size=size), seed=seed)]

    assert draw(10, 0) == draw(20, 0)[:10]
    assert draw(10, 0) != draw(10, 1)
    assert len(set(draw(50, 0))) == 50


def test_takes_the_first_ones_where_asked(write_jsonl):
    source = InstructionSource(path=write_jsonl(make_rows(50)), size=3, pick="first")
    assert [one.prompt for one in read_examples(source, seed=7)] == ["p0", "p1", "p2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 4}, r"size must be at most 3, the number of examples in .*data.jsonl, got 4"),
        ({"response": "respons"}, r"column 'respons', got 'prompt', 'response'; did you mean response\?"),
        ({"filters": {"safe": True}}, "must have a column 'safe', got 'prompt', 'response'"),
        ({"filters": {"prompt": "q"}}, "must hold rows whose 'prompt' is 'q', got only p0, p1, p2"),
    ],
)
def test_refuses_what_the_data_does_not_hold(write_jsonl, settings, message):
    with pytest.raises(ValueError, match=message):
        read_examples(InstructionSource(path=write_jsonl(make_rows(3)), **settings), seed=0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, "line 2, must have 'response', got 'prompt'"),
        ({"prompt": "a", "response": ["b"]}, r"line 2, must have text in 'response', got list \['b'\]"),
        ({"prompt": True, "response": "b"}, "line 2, must have text in 'prompt', got bool True"),
        ({"prompt": "a", "response": "\ud800"}, "line 2, must have valid text in 'response', got"),
    ],
)
def test_says_which_line_is_wrong(write_jsonl, row, message):
    with pytest.raises(ValueError, match=message):
        read_examples(write_jsonl([*make_rows(1), row]), seed=0)


def test_refuses_a_file_of_blanks(write_jsonl):
    with pytest.raises(ValueError, match="at least one row with text, got only empty ones"):
        read_examples(write_jsonl([{"prompt": "", "response": ""}]), seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "must name a preset or a path, got neither"),
        ({"path": "a.csv", "size": 0}, "size must be at least 1, got 0"),
        ({"path": "a.csv", "pick": "last"}, "pick must be seeded or first, got 'last'"),
    ],
)
def test_refuses_an_unusable_source(settings, message):
    with pytest.raises(ValueError, match=message):
        InstructionSource(**settings)


def test_presets_can_be_overridden():
    assert resolve_source("gsm8k").path == "openai/gsm8k"
    source = resolve_source(InstructionSource(preset="gsm8k", path="here.jsonl", size=5))
    assert (source.path, source.prompt, source.response, source.size) == ("here.jsonl", "question", "answer", 5)
    assert (source.split, source.pick) == ("train", "seeded")
    assert resolve_source("beavertails_unsafe").filters == {"is_safe": False}


@pytest.mark.parametrize(
    ("name", "nearest"), [("gsm8", "gsm8k"), ("metamath", "metamathqa"), ("lab:usefull", "lab:useful")]
)
def test_names_the_nearest_preset(name, nearest):
    with pytest.raises(ValueError, match=rf"preset must be one of gsm8k, .*, got '{name}'; did you mean {nearest}\?"):
        resolve_source(name)
    with pytest.raises(ValueError, match=f"got '{name}'"):
        resolve_source(InstructionSource(preset=name))


def test_tells_files_from_data_sets():
    assert all(map(is_local_file, ["a.jsonl", "./a", "/a/b", "~/a.csv", "a/b/c", "a/b.txt", "a.b"]))
    assert not any(map(is_local_file, ["openai/gsm8k", "PKU-Alignment/BeaverTails", "org/data-v1.0"]))


def test_a_suffix_that_is_not_read_is_reported_as_such(tmp_path):
    (tmp_path / "data.tsv").write_text("a")
    with pytest.raises(ValueError, match="must end in one of"):
        read_examples(str(tmp_path / "data.tsv"), seed=0)


def test_reads_the_hub(monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        data = datasets.Dataset.from_list([{"question": "q", "answer": "a"}])
        address = f"hf://datasets/openai/gsm8k@{'0' * 40}/main/train.parquet"
        data.info.download_checksums = {address: {}}
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    result = read_source(InstructionSource(preset="gsm8k", revision="abc"), seed=0, kind="useful")
    assert calls == [(("openai/gsm8k", "main"), {"split": "train", "revision": "abc"})]
    assert result.examples == [Example(prompt="q", response="a", kind="useful")]
    assert (result.name, result.version) == ("openai/gsm8k:train", "hub:" + "0" * 40)


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'org/data' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"data set org/data .* must be readable from the hub, got ConnectionError"):
        read_examples("org/data", seed=0)


def test_reads_the_lab():
    result = read_source(InstructionSource(path="lab:harmful", size=5, split="test"), seed=3, kind="harmful")
    assert len(result.examples) == 5
    assert result.version == "generated:test,size=5,seed=3"
    assert {one.kind for one in result.examples} == {"harmful"}
    assert len(read_examples("lab:useful", seed=0)) == reading.GENERATED_SIZE
    assert len(read_prompts(InstructionSource(path="lab:ordinary", size=4), seed=0)) == 4


def test_the_lab_is_known_to_whoever_imports_data_alone():
    code = (
        "import sys\n"
        "from safety_lightning.data import resolve_source\n"
        "print(resolve_source('lab:useful').path, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["lab:useful", "False"]


def test_takes_a_generator_from_elsewhere(monkeypatch):
    monkeypatch.setitem(GENERATORS, "own", None)  # both are put back at the end
    monkeypatch.setitem(PRESETS, "own:sums", None)

    def generate(name, *, split, size, seed):
        return [Example(prompt=f"{name} {seed} {at}", response=split, kind="safe") for at in range(size)]

    register_generator("own", ["sums"], generate)
    source = InstructionSource(preset="own:sums", size=2)
    assert read_examples(source, seed=7) == [
        Example(prompt="sums 7 0", response="train", kind="useful"),
        Example(prompt="sums 7 1", response="train", kind="useful"),
    ]
    assert len(read_prompts("own:sums", seed=0)) == reading.GENERATED_SIZE
    with pytest.raises(ValueError, match="did you mean own:sums"):
        read_examples("own:sum", seed=0)


def test_the_lab_has_no_columns_to_filter():
    source = InstructionSource(path="lab:safe", filters={"is_safe": True})
    with pytest.raises(ValueError, match="filters must be left out for lab:safe"):
        read_examples(source, seed=0)


def test_cuts_advbench_as_the_release_did(tmp_path):
    (tmp_path / "advbench.csv").write_text('"Do a, then b","Sure, a"\nDo c,"Sure, c"\nDo d,"Sure, d"\n')
    source = InstructionSource(preset="advbench", path=str(tmp_path / "advbench.csv"))
    assert read_advbench_prompts(source) == ["Do a, then b", "Do c", "Do d"]
    assert read_advbench_prompts(source, advbench_prompts="cut") == ["Do a", "Do c"]
    with pytest.raises(ValueError, match="advbench_prompts must be whole or cut, got 'half'"):
        read_advbench_prompts(source, advbench_prompts="half")
    with pytest.raises(ValueError, match="size must be left out"):
        read_advbench_prompts(InstructionSource(preset="advbench", size=3), advbench_prompts="cut")


def test_every_preset_resolves():
    for name in PRESETS:
        source = resolve_source(name)
        assert None not in (source.path, source.prompt, source.response, source.split, source.pick)


@pytest.mark.real_model
@pytest.mark.skipif(not SHARED_DATA.exists(), reason=f"{SHARED_DATA} is not here")
def test_reads_the_real_data():
    gsm8k = InstructionSource(preset="gsm8k", path=str(SHARED_DATA / "gsm8k_train.jsonl"))
    assert len(read_examples(gsm8k, seed=0)) == 7473
    advbench = InstructionSource(preset="advbench", path=str(SHARED_DATA / "advbench.csv"))
    whole = read_advbench_prompts(advbench)
    cut = read_advbench_prompts(advbench, advbench_prompts="cut")
    assert (len(whole), len(cut)) == (520, 519)
    assert sum(long != short for long, short in zip(whole, cut, strict=False)) == 14
