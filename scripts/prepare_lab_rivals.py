"""Makes what configs/study/lab_rivals.yaml needs: a safety-tuned model, and covariances on guarded requests.

python scripts/prepare_lab_rivals.py --out logs/lab-rivals
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from safety_lightning.activations import collect_covariances, save_covariances
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.cli import main
from safety_lightning.data import encode_prompt, read_examples

_STEPS = 20
_FIT = [
    *("fit", "--model.model", "lab:aligned", "--data.kind", "safe", "--data.batch_size", "32"),
    *("--model.optimizer", "torch.optim.AdamW", "--model.optimizer.init_args.lr", "2e-4"),
    *("--model.optimizer.init_args.weight_decay", "0", "--compare.tasks", "[]", "--trainer.accelerator", "cpu"),
    *("--trainer.precision", "32-true", "--trainer.max_steps", str(_STEPS), "--data.safe.preset", "lab:safe"),
    *("--data.safe.size", str(32 * _STEPS), "--trainer.enable_progress_bar", "false"),
]


def prepare(out: Path) -> None:
    """Tunes the lab's aligned model on refusals, and sums up its inputs on guarded requests.

    Args:
        out: The folder to make.
    """
    main([*_FIT, "--run_dir", str(out / "safety_tuned")])
    tokenizer, model = load_tokenizer("lab:aligned"), load_model("lab:aligned", dtype=torch.float32)
    prompts = [encode_prompt(tokenizer, one.prompt) for one in read_examples("lab:harmful", seed=0)]
    save_covariances(collect_covariances(model, prompts), out / "covariances.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("logs/lab-rivals"))
    prepare(parser.parse_args().out)
