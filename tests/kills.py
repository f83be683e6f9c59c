"""Kills a command again and again, and lets it end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]


def kill_and_finish(words: Sequence[str], count_parts: Callable[[], int], *, num_kills: int, seed: int = 0) -> int:
    """Starts a command, kills it soon after it finished one part more, and so on; then lets it end.

    Args:
        words: The command and its options.
        count_parts: How many parts are finished.
        num_kills: How often to kill, at most.
        seed: Seed of the moments.

    Returns:
        How often it was killed before it ended by itself.
    """
    command, dice, done = [sys.executable, "-m", "safety_lightning", *words], random.Random(seed), 0
    while done < num_kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = count_parts()
        while process.poll() is None and count_parts() <= before:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.1))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        done += 1
    subprocess.run(command, check=True, capture_output=True)
    return done


DRIVER = """
import os, signal, sys
moment, number = sys.argv[1], int(sys.argv[2])
del sys.argv[1:3]
done = 0
rename = os.replace
def replace(*places, **options):
    global done
    done += 1
    if done == number and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*places, **options)
    if done == number:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from safety_lightning.cli import main
main()
"""
"""Runs a command that is killed before or after its n-th rename, which is what makes a file whole."""


def start(
    words: Sequence[str], *, tmpdir: Path | None = None, code: str | None = None, **variables: str
) -> subprocess.Popen[str]:
    """Starts a command, or a script that runs one, as a user's shell does; both streams are in its ``stdout``."""
    program = ["-m", "safety_lightning"] if code is None else ["-c", code]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | variables
    if tmpdir is not None:
        environment["TMPDIR"] = str(tmpdir)
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_mind_interrupts,
        start_new_session=True,
    )


def _mind_interrupts() -> None:
    """Has a new process mind Ctrl-C, which shells have ignored where the tests themselves run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def replace_options(words: Sequence[str]) -> list[str]:
    """Lets an option that comes again replace the one before, which a command refuses; ``--config`` stays."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    names = [group[0].partition("=")[0] for group in groups]
    return [
        word
        for at, group in enumerate(groups)
        if names[at] == "--config" or names[at].endswith("+") or names[at] not in names[at + 1 :]
        for word in group
    ]


def finish(process: subprocess.Popen[str], *, seconds: float = 240) -> tuple[int, str]:
    """Waits for a process; returns its status and what it printed."""
    printed, _ = process.communicate(timeout=seconds)
    return process.returncode, printed


def read_results(folder: Path) -> dict[str, Any]:
    """Returns what a run folder holds by name: all but what says when and how often it ran,
    and an empty lock, which stays where a kill comes after the last write.

    Checkpoints are compared by their tensors and counts: they also hold where they lie.
    """
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        is_log = (
            "tensorboard" in name or file.name in ("manifest.json", ".lock") or file.name.startswith("config.resumed")
        )
        if file.is_file() and not is_log:
            found[name] = _read_checkpoint(file) if file.suffix == ".ckpt" else file.read_bytes()
    return found


def _read_checkpoint(file: Path) -> bytes:
    content = torch.load(file, map_location="cpu", weights_only=True)
    kept = [content[name] for name in ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers")]
    return json.dumps(_flatten(kept)).encode()


def _flatten(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): _flatten(one) for name, one in value.items()}
    return [_flatten(one) for one in value] if isinstance(value, list | tuple) else value
