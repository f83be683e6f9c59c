"""Fits by two processes (gloo) on the CPU, and of adapters: random weights in the shape of SmolLM2-135M, float32."""

from __future__ import annotations

import importlib.util
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import NotHereError, Result, Setup, run_module
from benchmarks.processes.counting import count_coordinates
from benchmarks.processes.fit import Found, Request
from benchmarks.shapes import SMOLLM2, list_shapes
from benchmarks.training import save_pair
from safety_lightning.projection import SubspaceSpec, prepare_subspace, save_prepared

FRACTION = 0.25
STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
WITH = "with projection ÷ without"
NUM_TOKENS, NUM_MICRO_BATCHES, LORA_RANK = 512, 4, 16
FREE_SOON = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back at once: what is held is measured, not kept


def measure_strategies(setup: Setup) -> Iterator[Result]:
    """Times steps with projection against steps without, in turns within a fit of two processes, by strategy."""
    if importlib.util.find_spec("deepspeed") is None:
        raise NotHereError("the section strategies needs the package deepspeed (extra deepspeed), it is not installed")
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), setup)
        for strategy in STRATEGIES:
            one, _ = run_fit(Path(folder), make_request(inputs, setup, strategy=strategy))
            note = f"{describe_step(setup, 2)}; {describe_share(one)}"
            yield Result(f"step of a fit by {strategy}: {WITH}", "≤ 1.10", list_ratios(one), note)


def measure_sharded(setup: Setup) -> list[Result]:
    """Counts what a projection under FSDP2 sends, and compares a process's memory with that of one process alone."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), setup)
        plan: dict[str, Any] = {"num_pairs": 0, "num_micro_batches": 1}
        shared = run_fit(Path(folder), make_request(inputs, setup, strategy="fsdp2", **plan), **FREE_SOON)
        alone = {}
        for num_rows in (1, 2):
            request = make_request(inputs, setup, strategy="auto", num_rows=num_rows, **plan)
            alone[num_rows] = run_fit(Path(folder), request, **FREE_SOON)[0].peak_bytes
    return [*list_traffic(setup, shared[0]), *list_peaks(setup, max(one.peak_bytes for one in shared), alone)]


def list_traffic(setup: Setup, found: Found) -> list[Result]:
    """Makes the rows of what a projection sends."""
    sent, calls = sum(found.num_bytes.values()), found.calls
    expected = count_coordinates(list_shapes(setup.shrink(SMOLLM2)).values(), FRACTION)
    what = f"SmolLM2's shape, fraction {FRACTION}; {sent / 1e6:.2f} MB"
    others = f"other collective operations: {sum(calls.values()) - calls['allreduce_']}"
    traffic = "projection under FSDP2, two processes"
    return [
        Result(f"{traffic}: bytes sent ÷ k × n of each matrix", "0.9 to 1.1", [sent / expected], what, "counted"),
        Result(f"{traffic}: all-reduces a step", "≤ 4", [calls["allreduce_"]], f"{what}; {others}", "counted"),
    ]


def list_peaks(setup: Setup, peak: int, alone: dict[int, int]) -> list[Result]:
    """Makes the rows of memory: of one process alone with the rows of both, and with those of one."""
    memory, size = "fit under FSDP2: peak memory of one of two processes ÷ one alone", setup.choose(NUM_TOKENS, 32)
    kinds = {2: "with the rows of both", 1: "with the rows of one"}
    return [
        Result(
            f"{memory}, {words}",
            "≤ 0.65",
            [peak / alone[num_rows]],
            f"SmolLM2's shape, projection after each step, a row of {size} tokens a process; {peak / 1e6:.0f} and "
            f"{alone[num_rows] / 1e6:.0f} MB above the idle process",
        )
        for num_rows, words in kinds.items()
    ]


def measure_lora(setup: Setup) -> list[Result]:
    """Times steps of a LoRA fit with projection against steps without, and measures what is outside the subspace."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder), setup)
        request = make_request(inputs, setup, strategy="auto", component="parallel", lora_rank=LORA_RANK)
        (one,) = run_fit(Path(folder), request)
    assert one.wrong_energy is not None
    note = f"rank {LORA_RANK}, every linear module; {describe_step(setup, 1)}; {describe_share(one)}"
    energy = "of PEFT's own update, float64, right after a projection"
    return [
        Result(f"step of a LoRA fit: {WITH}", "≤ 1.02", list_ratios(one), note),
        Result("LoRA fit: energy of the update outside its subspace", "≤ 1e-6", [one.wrong_energy], energy, "counted"),
    ]


def write_inputs(folder: Path, setup: Setup) -> dict[str, str]:
    """Saves base and reference, and the subspace, so that no fit has to span it."""
    base, reference = save_pair(folder, setup.shrink(SMOLLM2))
    file = str(folder / "subspace.safetensors")
    save_prepared(
        prepare_subspace(SubspaceSpec(base=str(base), reference=str(reference), fraction=FRACTION, file=file))
    )
    return {"base": str(base), "reference": str(reference), "subspace": file}


def make_request(inputs: dict[str, str], setup: Setup, **chosen: Any) -> Request:
    """Makes the request of a fit; what is chosen comes before the defaults."""
    plan: dict[str, Any] = {
        **inputs,
        "fraction": FRACTION,
        "component": "orthogonal",
        "num_processes": 1 if chosen["strategy"] == "auto" else 2,
        "num_micro_batches": setup.choose(NUM_MICRO_BATCHES, 2),
        "num_rows": 1,
        "num_tokens": setup.choose(NUM_TOKENS, 32),
        "num_pairs": setup.num_pairs,
    }
    return Request(**(plan | chosen))


def run_fit(folder: Path, request: Request, **environment: str) -> list[Found]:
    """Runs a fit in processes of its own; returns what each of them found."""
    path, num_processes = folder / f"{request.strategy}.json", request.num_processes
    path.write_text(json.dumps(asdict(request)))
    words = ["benchmarks.processes.fit", str(path)]
    if num_processes > 1:
        words = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes), "-m", *words]
        environment["OMP_NUM_THREADS"] = "1"  # a core each
    run_module(*words, **environment)
    files = [path.with_suffix(f".{rank}.json") for rank in range(num_processes)]
    return [Found(**json.loads(file.read_text())) for file in files]


def list_ratios(found: Found) -> list[float]:
    """Returns the ratios of the pairs."""
    return [one / other for one, other in zip(found.with_seconds, found.without_seconds, strict=True)]


def describe_step(setup: Setup, num_processes: int) -> str:
    """Says what a step is."""
    num_rows = num_processes * setup.choose(NUM_MICRO_BATCHES, 2)
    return f"steps of {num_rows} × {setup.choose(NUM_TOKENS, 32)} tokens in turns, float32, fraction {FRACTION}"


def describe_share(found: Found) -> str:
    """Says what the projection alone takes."""
    seconds = sum(found.projection_seconds) / (len(found.with_seconds) + 1)  # one of them warms up
    share = seconds / statistics.median(found.without_seconds)
    return f"the projection alone takes {share:.3f} of a step without it"
