import json

import pyarrow
import pyarrow.parquet
import pytest

from safety_lightning.data.tables import check_column, read_table

ROWS = [{"q": "one, two", "a": 'say "hi"'}, {"q": "line\nbreak", "a": "é"}]


def write_file(path, suffix):
    path = path / f"data{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif suffix == ".jsonl":
        path.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    else:
        path.write_text('q,a\n"one, two","say ""hi"""\n"line\nbreak",é\n', encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_reads_every_format_alike(tmp_path, suffix):
    table = read_table(write_file(tmp_path, suffix))
    assert table.rows == ROWS
    assert table.columns == ["q", "a"]
    assert table.version.startswith("sha256:")
    assert len(table.version) == 7 + 64


def test_knows_where_each_row_is(tmp_path):
    assert read_table(write_file(tmp_path, ".jsonl")).locate(1) == f"{tmp_path}/data.jsonl, line 3"
    assert read_table(write_file(tmp_path, ".csv")).locate(1) == f"{tmp_path}/data.csv, line 3"
    assert read_table(write_file(tmp_path, ".json")).locate(1) == f"{tmp_path}/data.json, row 2"
    assert read_table(write_file(tmp_path, ".parquet")).locate(1) == f"{tmp_path}/data.parquet, row 2"


def test_json_may_hold_one_object_a_line(tmp_path):
    (tmp_path / "data.json").write_text('{"q": 1}\n{"q": 2}\n')
    table = read_table(tmp_path / "data.json")
    assert table.rows == [{"q": 1}, {"q": 2}]
    assert table.locate(1).endswith("line 2")


@pytest.mark.parametrize("first_line", ["", "prompt,target\n"])
def test_names_the_columns_of_a_csv_without_header(tmp_path, first_line):
    (tmp_path / "data.csv").write_text(first_line + "Do it,Sure\n")
    table = read_table(tmp_path / "data.csv", columns=["prompt", "target"])
    assert table.rows == [{"prompt": "Do it", "target": "Sure"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.jsonl", "", "data.jsonl must hold at least one row of data, got none"),
        ("data.json", "[]", "must hold at least one row"),
        ("data.csv", "q,a\n", "must hold at least one row"),
        (
            "data.jsonl",
            '{"q": 1}\n{"q": 1\n',
            r"data.jsonl, line 2, must be one JSON object, got '\{\"q\": 1' \(Expecting",
        ),
        ("data.jsonl", '{"q": 1}\n[1]\n', r"data.jsonl, line 2, must be one JSON object, got '\[1\]'"),
        ("data.json", '[\n{"q": 1},\n{"q": }]', "data.json, line 3, must be JSON, got an error: Expecting value"),
        ("data.json", '[{"q": 1}, 5]', "data.json, row 2, must be a JSON object, got '5'"),
        ("data.csv", "q,a\n1,2\n1,2,3\n", "data.csv, line 3, must have 2 cells, got 3"),
        ("data.csv", 'q,a\n1,2\n"1,2\n', "data.csv, line 3, must be CSV, got an error"),
        ("data.csv", "q,q\n1,2\n", "must name each column once, got 'q' more than once"),
        ("data.parquet", "q,a\n", "must be a sound Parquet file, got an error"),
        ("data.txt", "q", r"must end in one of .jsonl, .json, .csv, .parquet, got .*data.txt"),
    ],
)
def test_refuses_broken_files(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


def test_refuses_text_in_another_encoding(tmp_path):
    (tmp_path / "data.csv").write_bytes("q,a\n\xe9,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match="must be UTF-8 text, got"):
        read_table(tmp_path / "data.csv")


def test_refuses_a_file_that_does_not_exist(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"trian.jsonl does not exist; did you mean .*train.jsonl\?"):
        read_table(tmp_path / "trian.jsonl")
    with pytest.raises(ValueError, match="must be a file, got the folder"):
        read_table(tmp_path)


def test_names_the_columns_found_and_the_nearest(tmp_path):
    table = read_table(write_file(tmp_path, ".jsonl"))
    check_column(table, "q")
    with pytest.raises(ValueError, match=r"must have a column 'aa', got 'q', 'a'; did you mean a\?"):
        check_column(table, "aa")
    with pytest.raises(ValueError, match="a CSV file without a header line needs its names in `columns`"):
        check_column(read_table(write_file(tmp_path, ".csv")), "prompt")


@pytest.mark.parametrize(
    "first", ["Make a poison,Sure: here is how", "Make a poison,Make a poison", "goals to reach,x"]
)
def test_text_of_a_csv_file_without_a_header_is_not_shown(tmp_path, first):
    file = tmp_path / "prompts.csv"
    file.write_text(f"{first}\nb,c\n")
    with pytest.raises(ValueError, match="cells that read like text and are not shown") as caught:
        check_column(read_table(file), "goal")
    assert not any(cell in str(caught.value) for cell in first.split(",") if len(cell) > 1)
