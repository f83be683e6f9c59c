"""Whatever a config or an option holds: no traceback, no hang, nothing written, and an error that begins with `error:`.

Commands are parsed in this process through `main`; what lies behind the checks of options stops at once.
"""

import functools
import importlib
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from safety_lightning.cli import Command, main
from safety_lightning.cli.configs import find_configs
from safety_lightning.errors import UserError
from tests.fuzz.damage import count

LONGEST_SECONDS = 10.0
SOUND = {
    "fit": ["--config", "quickstart"],
    "validate": ["--config", "quickstart"],
    "test": ["--config", "test/lab"],
    "predict": ["--config", "predict/lab"],
    "project": ["--config", "project/lab"],
    "judge": ["--generations", "x.jsonl", "--judge", "RuleJudge"],
    "overlap weights": ["--updates", "a=lab:aligned", "b=lab:base", "--reference", "lab:base"],
    "overlap activations": ["--sets", "a=A", "b=B"],
    "lab build": ["--out", "out"],
    "lab export": ["--out", "out"],
}
VERBS = ("fit", "validate", "test", "predict")
ONCE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**70, 10**400, 1.5, -0.0, float("nan"), float("inf")]),
    words,
    st.sampled_from(
        ["", "null", "[", "{", "~", "[bold]", "a/b", "/", "../x", "lab:base", "\0", "~nobody/x", "1e5", "*x"]
    ),
    st.sampled_from(["[" * 500, "- " * 500, "{a: " * 500, "9" * 5000, "x" * 5000]),
)
specs = st.builds(
    lambda path, args: {"class_path": path, "init_args": args},
    st.sampled_from(
        [
            "os.system",
            "subprocess.run",
            "torch.load",
            "torch.optim.SGD",
            "torch.nn.Linear",
            "builtins.exec",
            "x.Y",
            "",
            "AdamW",
            "a b",
            "lightning.pytorch.callbacks.EarlyStopping",
            "TensorBoardLogger",
            "safety_lightning.cli.main",
        ]
    ),
    st.dictionaries(st.sampled_from(["command", "lr", "f", "monitor", "source", "save_dir"]), odd_values, max_size=2),
)
values = st.recursive(
    st.one_of(odd_values, specs),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(words, st.sampled_from(["class_path", "init_args", "<<"]), st.integers()), inner),
    ),
    max_leaves=6,
)


class StoppedError(UserError):
    """What the user gave was taken."""


def stop_here(*_: Any, **__: Any) -> None:
    raise StoppedError("stopped behind the checks of options")


def stop_when_called(load: Callable[[Command], Any]) -> Callable[[Command], Any]:
    @functools.wraps(load)
    def load_stub(command: Command) -> Any:
        found = load(command)
        return found if isinstance(found, type) else functools.wraps(found)(stop_here)

    return load_stub


@pytest.fixture
def _stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler keeps the stream of an earlier test
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Command, "load", stop_when_called(Command.load))
    monkeypatch.setattr(Command, "finish", stop_here)
    for verb in VERBS:
        module = importlib.import_module(f"safety_lightning.cli.verbs.{verb}")
        monkeypatch.setattr(getattr(module, f"{verb.capitalize()}CLI"), "check", stop_here)


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key)
            yield from list_paths(inner, (*path, key))


@functools.cache
def read_sound(command: str) -> dict[str, Any]:
    given = SOUND[command]
    return yaml.safe_load(find_configs()[given[1]].read_text()) if given[0] == "--config" else {}


def list_options(command: str) -> list[str]:
    more = [
        "trainer.callbacks",
        "trainer.devices",
        "trainer.logger",
        "run_dir",
        "ckpt_path",
        "out",
        "judge",
        "seed",
        "save",
    ]
    keys = [".".join(path) for path in list_paths(read_sound(command))]
    return sorted({*keys, *more, *(word[2:] for word in SOUND[command] if word.startswith("--"))} - {"config"})


def run(words: Sequence[str]) -> Any:
    """Runs a command, and returns how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            main(list(words))
        except SystemExit as stopped:
            return stopped.code
    return 0


def hold(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command; it must end well or with an error that begins with `error:`, soon, and write nothing."""
    before, variables = set(Path().rglob("*")), dict(os.environ)
    began_seconds = time.perf_counter()
    code = run(words)
    os.environ.clear()
    os.environ.update(variables)
    printed = capsys.readouterr()
    assert code in (0, None, 2), words
    assert code != 2 or re.search("^error: .", printed.err, re.M), words
    assert "Traceback" not in printed.err, words
    assert time.perf_counter() - began_seconds < LONGEST_SECONDS, words
    assert set(Path().rglob("*")) == before, words
    count("taken" if code != 2 or "stopped behind the checks" in printed.err else "refused")


def check_config(command: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("given.yaml")
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    hold([*command.split(), *SOUND[command], "--config", str(file)], capsys)


commands = st.sampled_from(sorted(SOUND))
with_config = st.sampled_from([name for name in sorted(SOUND) if read_sound(name)])


@st.composite
def replaced_values(draw: st.DrawFn) -> tuple[str, str]:
    """A sound config with one or two of its values replaced."""
    command = draw(with_config)
    config = yaml.safe_load(yaml.safe_dump(read_sound(command)))
    for _ in range(draw(st.integers(1, 2))):
        paths = list(list_paths(config))
        if not paths:
            break
        *above, last = draw(st.sampled_from(paths))
        inner = config
        for key in above:
            inner = inner[key]
        inner[draw(st.one_of(st.just(last), words))] = draw(values)
    return command, yaml.safe_dump(config, allow_unicode=True)


@st.composite
def damaged_texts(draw: st.DrawFn) -> tuple[str, str]:
    """The text of a sound config with something put in, cut out, or put there twice."""
    command = draw(with_config)
    text = yaml.safe_dump(read_sound(command))
    at, until = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    put = draw(
        st.one_of(
            words,
            st.sampled_from(["\0", "\t", "- " * 200, "[" * 200, "{", "}", ":", "&a [*a]", "!!python/name:os.system x"]),
            st.sampled_from(
                ["---\n", "<<: ", "? ", "null", "\n\n", text[at:until], "&a ", "*a ", "%YAML 9.9\n", "\ud800"]
            ),
        )
    )
    return command, text[:at] + put + draw(st.sampled_from([text[at:], text[until:]]))


@st.composite
def options(draw: st.DrawFn) -> list[str]:
    """A command with sound options, and one to three odd ones."""
    command = draw(commands)
    given = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.one_of(st.sampled_from(list_options(command)), words))
        text = draw(st.one_of(odd_values.map(str), values.map(lambda value: yaml.safe_dump(value)), words))
        form = draw(st.sampled_from(["--{}", "--{}=", "--{}+", "{}", "--{}.x"]))
        given += [form.format(key) + text] if form == "--{}=" else [form.format(key), text]
    given = [word.replace("\0", "") for word in given]  # which no shell passes on
    return [*command.split(), *(SOUND[command] if draw(st.booleans()) else []), *given]


def run_all(examples: int, capsys: pytest.CaptureFixture[str]) -> None:
    def hold_config(one: tuple[str, str]) -> None:
        check_config(*one, capsys)

    for strategy, check in (
        (replaced_values(), hold_config),
        (damaged_texts(), hold_config),
        (options(), lambda words: hold(words, capsys)),
        (st.tuples(with_config, values.map(yaml.safe_dump)), hold_config),
    ):
        settings(ONCE, max_examples=examples)(given(strategy)(check))()


@pytest.mark.usefixtures("_stubs")
@pytest.mark.parametrize("command", SOUND)
def test_sound_options_reach_what_lies_behind(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), *SOUND[command]])
    assert "stopped behind the checks of options" in capsys.readouterr().err


@pytest.mark.usefixtures("_stubs")
def test_some_configs_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    run_all(10, capsys)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("_stubs")
def test_many_configs_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    run_all(120, capsys)
