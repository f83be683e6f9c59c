"""Plans a fit and runs it, and prints its peak above the idle process in bytes; run by test_planning.py."""

import contextlib
import json
import re
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safety_lightning.cli import main
from safety_lightning.lab import build_tokenizer, generate_examples


def make_inputs(folder: Path, hidden_size: int, num_layers: int, vocab_size: int) -> None:
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=8 * hidden_size // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    for name, seed in (("base", 0), ("aligned", 1)):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lines = [
        {"prompt": e.prompt, "response": e.response}
        for e in generate_examples("useful", split="train", size=64, seed=0)
    ]
    (folder / "useful.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_status(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def run(folder: Path) -> None:
    words = [
        *("fit", "--model.model", str(folder / "aligned"), "--run_dir", str(folder / "run")),
        *("--data.useful", str(folder / "useful.jsonl"), "--data.batch_size", "16"),
        *("--projection.subspace.base", str(folder / "base"), "--compare.tasks", "[]"),
        *("--monitor.every_n_steps", "0", "--monitor.figure_every_n_steps", "0"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--trainer.logger", "false", "--trainer.enable_progress_bar", "false"),
    ]
    sys.argv = ["safety_lightning"]
    with contextlib.suppress(SystemExit):
        main([*words, "--dry_run", "true"])  # imports all that the fit does
    idle = read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the largest memory so far
    main(words)
    print(f"peak {read_status('VmHWM') - idle}")


if __name__ == "__main__":
    make_inputs(Path(sys.argv[1]), *map(int, sys.argv[2:]))
    run(Path(sys.argv[1]))
