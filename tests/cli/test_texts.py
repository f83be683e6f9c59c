"""YAML is checked before it is parsed: what would crash the parser, blow it up, or be dropped in silence."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from safety_lightning.cli.configs import check_config
from safety_lightning.cli.texts import MAX_DEPTH, TextError, check_text, guard_loader
from safety_lightning.errors import UserError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + "[" * 100_000, "line 1, column 53: a config must be at most 50 levels deep"),
        ("- " * 100_000, "at most 50 levels deep"),
        (BOMB, "at most 100,000 values with its aliases written out"),
        ("a: &a [*a]", r"\*a must be an alias of what stands before it"),
        ("x: " + "y" * 1_000_001, "at most 1,000,000 characters, got 1,000,004"),
        ("model: a\ndata: b\nmodel: c", "line 3, column 1: each key must stand once, got 'model' twice"),
        ("a: {b: 1, 'b': 2}", "each key must stand once, got 'b' twice"),
        ("a: !!python/object/apply:os.system [x]", "must be plain values, got the tag"),
        ("a: 1\n---\nb: 2", "must be one document"),
        ("? [a]\n: b", "a key must be text"),
        ("a: [", "line 2, column 1"),
        ("a: \0", r"line 1, column 4: a config must be text, got the character '\\x00'"),
    ],
)
def test_damaged_text_is_refused(text: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        check_text(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be keys and values"),
        ("- a", "must be keys and values"),
        ("config: x", "must not hold the key config"),
        ("a: [", r"given.yaml, line 2, column 1"),
        ("\ud800", "must be a readable text file"),
    ],
)
def test_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=f"config .*given.yaml.*{message.removeprefix('given.yaml')}"):
        check_config(str(tmp_path / "given.yaml"))


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(exclude_categories=["Cs"]))),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(st.sampled_from("abc"), min_size=1), inner)),
)


@given(st.dictionaries(st.text(st.sampled_from("abc"), min_size=1), plain), st.booleans())
@settings(derandomize=True, database=None, deadline=None)
def test_what_yaml_writes_is_taken(config: dict[str, object], flow: bool) -> None:
    text = yaml.safe_dump(config, default_flow_style=flow, allow_unicode=True)
    assert check_text(text) == set(config)


@given(st.integers(1, 3 * MAX_DEPTH), st.sampled_from(["[", "{a: ", "- ", "? "]))
@settings(derandomize=True, database=None, deadline=None)
def test_depth_is_limited_in_every_form(depth: int, form: str) -> None:
    closing = {"[": "]", "{a: ": "}"}.get(form, "")
    text = form * depth + "x" + closing * depth
    if depth > MAX_DEPTH or (form == "? " and depth > 1):
        with pytest.raises(TextError):
            check_text(text)
    else:
        check_text(text)


def test_every_text_that_the_parser_loads_is_checked() -> None:
    """Values of options and texts inside values too; jsonargparse has no public way to say so."""
    guard_loader()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--size", type=int)
    parser.add_argument("--names", type=list[str])
    for words in (["--size", "[" * 50_000], ["--names", "- " * 50_000]):
        with pytest.raises(Exception, match=r"size|names"):
            parser.parse_args(words)


def test_damaged_config_imports_no_heavy_library(tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text("model: a\nmodel: b\n")
    code = (
        "import sys\nfrom safety_lightning.cli import main\n"
        f"try: main(['fit', '--config', {str(tmp_path / 'given.yaml')!r}])\n"
        "except SystemExit as stopped: assert stopped.code == 2\n"
        "assert not {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "each key must stand once, got 'model' twice" in done.stderr
