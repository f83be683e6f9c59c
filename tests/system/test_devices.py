"""Memory on the CPU: kept where it was asked for, handed back afterwards, and nothing at all elsewhere."""

import ctypes
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from safety_lightning.projection import project_update
from safety_lightning.subspaces import decompose_delta
from safety_lightning.system import devices

MEASURE = """
import sys, torch
from pathlib import Path
from safety_lightning.system.devices import keep_freed_memory, release_freed_memory

def read_megabytes():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1000

torch.ones(10).sum()
before = read_megabytes()
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.ones(100, 2**20).sum()
kept = read_megabytes() - before
release_freed_memory()
print(kept, read_megabytes() - before)
"""


def is_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not is_glibc(), reason="only glibc has these settings")
@pytest.mark.parametrize("way", ["keep", "default"])
def test_freed_memory_is_kept_until_it_is_released(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, way], capture_output=True, text=True, check=True)
    kept, released = map(int, done.stdout.split())
    assert (kept > 350) == (way == "keep")
    assert released < 50


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.ctypes, "CDLL", lambda _: object())
    devices.keep_freed_memory()
    devices.release_freed_memory()


class WatchProducts(TorchDispatchMode):
    """Records what float32 products are made in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[object, ...]] = set()

    def __torch_dispatch__(self, func: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if any(name in str(func) for name in ("aten.mm", "aten.addmm", "aten.bmm")):
            precisions = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
            self.seen.add((*precisions, args[-1].dtype))
        return func(*args, **(kwargs or {}))


CHOICES = {  # the ways in which a user speeds up training
    "old": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "all": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_products_of_the_projection_ignore_what_was_chosen_for_training(choice: str) -> None:
    code = f"import tests.system.test_devices as t; t.check_products({choice!r})"
    subprocess.run([sys.executable, "-c", code], check=True)  # in a process of its own: the choice is a global one


def check_products(choice: str) -> None:
    generator = torch.Generator().manual_seed(0)
    update, other = torch.randn(2, 48, 32, generator=generator)
    CHOICES[choice]()
    chosen = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16), WatchProducts() as watch:
        columns = decompose_delta(other, side="left", rank=4).vectors.float()
        kept = project_update(update, columns, component="orthogonal")
    leak = (columns.double().mT @ kept.double()).norm() / kept.double().norm()
    assert leak < 1e-6
    assert {found[:2] for found in watch.seen} == {("ieee", "ieee")}
    assert {found[2] for found in watch.seen} <= {torch.float32, torch.float64}
    assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == chosen
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (update.mT @ other).dtype == torch.bfloat16  # what the user chose is in force again
