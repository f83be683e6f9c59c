"""A signal ends a command with its own status, wherever it comes: also in the middle of an import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills import ROOT

PROGRAM = """
import atexit, os, signal
from safety_lightning.cli.stops import StoppedExit, end_process, exit_when_stopped

def stop():
    os.kill(os.getpid(), signal.{name})

atexit.register(print, "tidied up")
try:
    with exit_when_stopped(lambda: " Told once."):
        {body}
except StoppedExit as stopped:
    end_process(stopped)
"""
IN_TEXT = 'exec("stop()")'  # so dataclass and namedtuple make their methods
IN_CLASS = "type('Made', (), {'x': type('Named', (), {'__set_name__': lambda *_: stop()})()})"
TWICE = """
        try:
            stop()
        except KeyboardInterrupt:
            raise ValueError('while tidying up')
"""


def run(name: str, body: str, folder: Path) -> tuple[int, str, str]:
    (folder / "stopped.py").write_text(PROGRAM.replace("{name}", name).replace("{body}", body))
    places = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    words = [sys.executable, "-m", "stopped"]
    ended = subprocess.run(words, env=places, capture_output=True, text=True, timeout=60)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("body", ["stop()", IN_TEXT, IN_CLASS])
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_status_is_the_signals(name: str, status: int, body: str, tmp_path: Path) -> None:
    assert run(name, body, tmp_path) == (status, "tidied up\n", "Stopped. Told once.\n")


def test_fault_while_tidying_up_keeps_its_traceback(tmp_path: Path) -> None:
    code, _, printed = run("SIGTERM", TWICE, tmp_path)
    assert code == 1
    assert "while tidying up" in printed
