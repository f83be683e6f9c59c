"""Stages that do next to nothing, for the tests of what runs them; in a module, so that worker processes find them."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from safety_lightning.errors import UserError
from safety_lightning.study.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Toy(Stage):
    """Writes its text behind those of what it needs, and notes that it ran."""

    text: str
    fails: bool = False
    dies: bool = False
    seconds: float = 0.0

    def run(self, study: Path) -> None:
        before = "".join((study / need.folder / "text").read_text() for need in self.needs)
        with (study / "runs.log").open("a") as stream:
            stream.write(self.name + "\n")
        time.sleep(self.seconds)
        if self.fails:
            raise UserError(f"{self.name} must work, it does not")
        if self.dies and not (study / "died").exists():
            (study / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (study / self.folder).mkdir(parents=True, exist_ok=True)
        (study / self.folder / "text").write_text(before + self.text)


def make_toys(text: str = "a", **of_middle: object) -> list[Stage]:
    """Makes a small graph: first; left and right, which need it; last, which needs both."""
    first = Toy(name="toy/first", folder="first", text=text, recipe={"text": text})
    left = Toy(name="toy/left", folder="left", text="l", needs=(first,), recipe={"text": "l"})
    right = Toy(name="toy/right", folder="right", text="r", needs=(first,), recipe={"text": "r"}, **of_middle)
    last = Toy(name="toy/last", folder="last", text="z", needs=(left, right), recipe={"text": "z"})
    return [first, left, right, last]
