"""Damaged data files and activation folders: one line that says what is wrong, or all that they hold, never less.

What cannot be told apart from a sound file: other letters in a text, whole rows that are gone from the end or from the
middle of a JSONL or CSV file, two columns whose names were swapped, and, in Parquet files without checksums (which
pyarrow writes unless it is asked for them), other bytes inside of a text. An index of activations whose hash was made
anew with its content is sound too.
"""

import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from safety_lightning.activations.storage import (
    INDEX_FILE,
    ActivationFolder,
    ActivationIndex,
    PromptRecord,
    name_shard,
    save_index,
)
from safety_lightning.data.reading import read_source
from safety_lightning.data.sources import InstructionSource
from safety_lightning.errors import UserError
from tests.fuzz.damage import count

ROWS = [{"prompt": f"What is {n}, in \u00fc words?", "response": f'It is "{n}".', "kind": "a"} for n in range(6)]
KINDS = ("jsonl", "json", "csv", "parquet")
QUICK = settings(max_examples=40, deadline=10_000, derandomize=True, database=None)
WHOLE = settings(max_examples=400, deadline=10_000, database=None)


def write_sound(kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if kind == "json":
        return json.dumps(ROWS, indent=1).encode()
    if kind == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
        return stream.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), buffer, write_page_checksum=True)
    return buffer.getvalue()


SOUND = {kind: write_sound(kind) for kind in KINDS}


def check_line(line: str, named: Path) -> str:
    assert "\n" not in line
    assert str(named) in line
    return line


def read(kind: str, content: bytes) -> list[tuple[str, str]] | str:
    """Returns the pairs of a file, or the line that refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"data.{kind}"
        file.write_bytes(content)
        try:
            found = read_source(InstructionSource(path=str(file)), seed=0, kind="useful")
        except UserError as error:
            count("refused")
            return check_line(str(error), file)
    count("read")
    assert len(found.examples) + found.num_blank == found.num_rows
    assert (found.num_blank > 0) == (found.first_blank is not None)
    return [(one.prompt, one.response) for one in found.examples]


@st.composite
def change_bytes(draw: Callable[..., Any], content: bytes) -> bytes:
    """Cuts, repeats, replaces or adds bytes somewhere."""
    start = draw(st.integers(0, len(content) - 1))
    stop = draw(st.integers(start, min(start + 40, len(content))))
    how = draw(st.sampled_from(["cut", "end", "repeat", "replace", "insert", "flip"]))
    part = content[start:stop]
    if how == "cut":
        return content[:start] + content[stop:]
    if how == "end":
        return content[:start]
    if how == "repeat":
        return content[:stop] + part * draw(st.integers(1, 3)) + content[stop:]
    if how == "flip":
        return content[:start] + bytes([content[start] ^ (1 << draw(st.integers(0, 7)))]) + content[start + 1 :]
    other = draw(st.binary(max_size=20) | st.sampled_from([b"\x00", b"\xff", b'"', b"\n", b"{", b"[" * 5000, b"NaN"]))
    return content[:start] + other + content[stop if how == "replace" else start :]


def check_bytes(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    content = data.draw(change_bytes(SOUND[kind]))
    found = read(kind, content)
    if kind == "parquet" and content[: len(SOUND[kind])] != SOUND[kind] and isinstance(found, list):
        assert found == read(kind, SOUND[kind])  # checksums tell any other


def change_cell(kind: str, cell: str) -> bytes:
    """Writes a file in which the third row's response is other JSON (or an otherwise wrong cell)."""
    rows = [json.dumps(row) for row in ROWS]
    rows[2] = '{"prompt": "a", "response": ' + cell + "}"
    return ("\n".join(rows) if kind == "jsonl" else f"[{','.join(rows)}]").encode()


WRONG_CELLS = {
    "a list": st.just('["a"]'),
    "an object": st.just('{"a": "b"}'),
    "true": st.sampled_from(["true", "false"]),
    "no number": st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999"]),
    "digits": st.integers(4301, 6000).map(lambda number: "1" * number),
    "deep": st.integers(10_000, 50_000).map(lambda number: "[" * number + "]" * number),
    "half a pair": st.sampled_from(['"\\ud83d"', '"a\\udfffb"']),
    "twice": st.text(max_size=5).map(lambda text: f'"a", "response": {json.dumps(text)}'),
    "twice inside": st.just('"a", "more": [{"b": 1, "b": 2}]'),
    "broken": st.sampled_from(['"a', "a", "'a'", '"a"]', "", '"\\x"']),
}


def check_cells(data: st.DataObject) -> None:
    cell = data.draw(WRONG_CELLS[data.draw(st.sampled_from(sorted(WRONG_CELLS)))])
    found = read("json", change_cell("json", cell)), read("jsonl", change_cell("jsonl", cell))
    assert all(isinstance(one, str) for one in found), (cell[:40], found)


def check_csv(data: st.DataObject) -> None:
    """A row of too many or too few cells, a name twice, an unfinished quote: all are refused."""
    lines = SOUND["csv"].decode().splitlines(keepends=True)
    at = data.draw(st.integers(1, len(lines) - 1))
    more = data.draw(st.sampled_from(["x,", '"', 'a,b,"c"d\n', "a\n", "a,b,c,d\n", "\x00,b,c\n"]))
    lines.insert(at, more)
    if data.draw(st.booleans()):
        lines[0] = "prompt,response,prompt\n"
    assert isinstance(read("csv", "".join(lines).encode()), str)


def write_activations(folder: Path) -> None:
    hidden = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(0))
    for shard in range(2):
        save_file({"hidden": hidden[2 * shard : 2 * shard + 2]}, folder / name_shard(shard))
    records = [
        PromptRecord(id=f"a-{at}", set="a", text_hash="0" * 64, num_tokens=3, shard=at // 2, row=at % 2)
        for at in range(4)
    ]
    index = ActivationIndex(
        model="m", model_hashes={"f": "0"}, num_layers=2, hidden_size=4, token="prompt", settings={}, prompts=records
    )
    save_index(folder, index)


def read_activations(folder: Path) -> tuple[Any, list[torch.Tensor]]:
    found = ActivationFolder(folder)
    return found.index, [found.read_layer(layer) for layer in range(found.num_layers + 1)]


def check_activations(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_activations(folder)
        index, layers = read_activations(folder)
        file = folder / data.draw(st.sampled_from([INDEX_FILE, name_shard(0), name_shard(1)]))
        if data.draw(st.integers(0, 9)) == 0:
            (folder / name_shard(0)).write_bytes((folder / name_shard(1)).read_bytes())
        file.write_bytes(data.draw(change_bytes(file.read_bytes())))
        try:
            found = read_activations(folder)
        except UserError as error:
            check_line(str(error), folder)
            count("refused")
            return
        assert found[0] == index
        assert all(torch.equal(one, other) for one, other in zip(found[1], layers, strict=True))
        count("without effect")


CHECKS = [check_bytes, check_cells, check_csv, check_activations]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_few_damaged_files(check: Callable[[st.DataObject], None]) -> None:
    QUICK(given(st.data())(check))()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_many_damaged_files(check: Callable[[st.DataObject], None]) -> None:
    seed(12)(WHOLE(given(st.data())(check)))()


def test_sound_files_are_read() -> None:
    assert read("jsonl", SOUND["jsonl"]) == [(row["prompt"], row["response"]) for row in ROWS]
    assert len({str(read(kind, SOUND[kind])) for kind in KINDS}) == 1
