"""A config names classes of the kinds that its keys are for; docs/security.md says it in words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningCLI

from safety_lightning.cli import main

OWN = """
import torch
from pathlib import Path
from collections.abc import Iterable
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
class Sgd(torch.optim.SGD):
    def __init__(self, params, speed: float = 1.0):
        super().__init__(params, lr=speed)
class Mark(Callback):
    def __init__(self, name: str):
        self.name = name
def make_optimizer(params: Iterable) -> torch.optim.Optimizer:
    return Sgd(params)
def make_logger(folder: str) -> Logger:
    return CSVLogger(folder)
def run(name: str):
    Path(name).touch()
def load(name: str) -> dict:
    Path(name).touch()
class Touch:
    def __init__(self, name: str):
        Path(name).touch()
    def __call__(self):
        return None
"""
PLACES = [
    "model.optimizer",
    "model.lr_scheduler",
    "trainer.callbacks",
    "trainer.logger",
    "trainer.strategy",
    "trainer.accelerator",
    "trainer.profiler",
    "trainer.plugins",
    "projection.subspace",
    "data.useful",
]


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_kinds.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.chdir(tmp_path)


def nest(key: str, value: object) -> str:
    for part in reversed(key.split(".")):
        value = {part: value}
    return yaml.safe_dump(value)


def name(path: str, **settings: object) -> dict[str, object]:
    return {"class_path": path, "init_args": settings}


def test_a_class_of_ones_own_works(parse_fit: Callable[..., Any]) -> None:
    reached = parse_fit(
        *("--config", nest("model.optimizer", name("own_kinds.Sgd", speed=0.5))),
        *("--config", nest("trainer.callbacks", [name("own_kinds.Mark", name="x")])),
    )
    [optimizer] = [reached.model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])]
    assert (type(optimizer).__name__, optimizer.defaults["lr"]) == ("Sgd", 0.5)
    assert "x" in [getattr(one, "name", None) for one in reached.trainer.callbacks]


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("path", ["own_kinds.run", "own_kinds.load", "own_kinds.Touch"])
def test_another_kind_is_refused_before_it_is_called(key: str, path: str, parse_fit: Callable[..., Any]) -> None:
    error = parse_fit("--config", nest(key, name(path, name="ran")))
    assert not Path("ran").exists()
    assert error.startswith(f"error: {key}"), error


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["judge", "--generations", "x", "--judge"], "judge"),
        (["test", "--config", "test/lab", "--data.judge"], "data.judge"),
    ],
)
@pytest.mark.parametrize("path", ["own_kinds.run", "own_kinds.load", "own_kinds.Touch", "own_kinds.Mark"])
def test_a_judge_is_a_judge(words: list[str], key: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, yaml.safe_dump(name(path, name="ran"))])
    assert not Path("ran").exists()
    assert capsys.readouterr().err.startswith(f"error: {key}")


def test_a_function_must_say_what_it_makes(parse_fit: Callable[..., Any]) -> None:
    reached = parse_fit("--config", nest("trainer.logger", name("own_kinds.make_logger", folder="logs")))
    assert type(reached.trainer.logger).__name__ == "CSVLogger"
    reached = parse_fit("--model.optimizer", "own_kinds.make_optimizer")
    assert type(reached.model.make_optimizer([torch.nn.Parameter(torch.zeros(1))])).__name__ == "Sgd"
    assert "model.optimizer" in parse_fit("--model.optimizer", "own_kinds.load")


@pytest.mark.parametrize("path", ["os.system", "subprocess.run", "builtins.exec", "pickle.load", "functools.partial"])
def test_modules_that_run_commands_may_not_be_named(path: str, parse_fit: Callable[..., Any]) -> None:
    callback = name("lightning.pytorch.callbacks.LambdaCallback", on_fit_start=path)
    assert f"{path} may not be named in a config" in parse_fit("--config", nest("trainer.callbacks", [callback]))
    assert f"{path} may not be named in a config" in parse_fit("--config", nest("model.optimizer", name(path)))


def test_nothing_is_made_where_any_value_may_stand(parse_fit: Callable[..., Any]) -> None:
    error = parse_fit("--config", nest("data.useful.filters", {"column": name("own_kinds.Touch", name="ran")}))
    assert "filters.column must be a value or a list of values" in error
    assert not Path("ran").exists()


def test_a_config_is_no_address(parse_fit: Callable[..., Any]) -> None:
    assert "must be keys and values" in parse_fit("--config", "http://127.0.0.1:9/config.yaml")
    assert parse_fit("--trainer", "memory://config.yaml").startswith("error: trainer")


def test_a_checkpoint_is_never_unpickled(parse_fit: Callable[..., Any]) -> None:
    assert parse_fit("--ckpt_path", "http://127.0.0.1:9/x.ckpt").config["fit"]["weights_only"] is True


def test_a_checkpoint_brings_no_settings(parse_fit: Callable[..., Any]) -> None:
    assert hasattr(LightningCLI, "_parse_ckpt_path"), "Lightning reads a checkpoint's settings elsewhere: see VerbCLI"
    torch.save({"hyper_parameters": {"warmup_share": 0.5}}, "x.ckpt")
    assert parse_fit("--ckpt_path", "x.ckpt").model.warmup_share == 0.02
