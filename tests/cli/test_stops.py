"""A signal ends a command with its own status, wherever it comes: also in the middle of an import."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT

PROGRAM = """
import os, signal
from safety_lightning.cli.stops import exit_when_stopped

def stop():
    os.kill(os.getpid(), signal.{name})

with exit_when_stopped(lambda: " Told once."):
    {body}
"""
IN_TEXT = 'exec("stop()")'  # so dataclass and namedtuple make their methods
IN_CLASS = "type('Made', (), {'x': type('Named', (), {'__set_name__': lambda *_: stop()})()})"
TWICE = "\n    try:\n        stop()\n    except KeyboardInterrupt:\n        raise ValueError('while tidying up')"


def run(name: str, body: str, folder: Path) -> tuple[int, str]:
    (folder / "stopped.py").write_text(PROGRAM.replace("{name}", name).replace("{body}", body))
    places = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    words = [sys.executable, "-m", "stopped"]
    ended = subprocess.run(words, env=places, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("body", ["stop()", IN_TEXT, IN_CLASS])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_status_is_the_signals(name: str, status: int, body: str, tmp_path: Path) -> None:
    code, printed = run(name, body, tmp_path)
    if (name, body) == ("SIGINT", IN_TEXT):  # CPython ends the process by the signal itself, which shells show as 130
        status = -signal.SIGINT
    assert code == status
    assert printed == "Stopped. Told once.\n"


def test_fault_while_tidying_up_keeps_its_traceback(tmp_path: Path) -> None:
    code, printed = run("SIGTERM", TWICE, tmp_path)
    assert code == 1
    assert "while tidying up" in printed
