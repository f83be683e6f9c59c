import logging
from collections.abc import Callable

import pytest

from safety_lightning.cli import main
from safety_lightning.errors import UserError


@pytest.fixture
def parse_fit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """Runs `fit` up to its checks; returns the verb that came there, or the error before."""
    from safety_lightning.cli.verbs.fit import FitCLI

    monkeypatch.setattr("sys.argv", ["safety_lightning"])
    monkeypatch.setattr(logging, "raiseExceptions", False)  # Lightning's handler keeps the stream of an earlier test
    reached: list[FitCLI] = []

    def check(self: FitCLI) -> None:
        reached.append(self)
        raise UserError("reached")

    monkeypatch.setattr(FitCLI, "check", check)

    def run(*words: str) -> object:
        reached.clear()
        with pytest.raises(SystemExit):
            main(["fit", "--config", "quickstart", *words])
        return reached[0] if reached else capsys.readouterr().err

    return run
