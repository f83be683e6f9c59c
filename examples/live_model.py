"""Evaluates a model in memory, here one half-way between base and aligned, that no folder holds.

python examples/live_model.py
"""

import tempfile

import torch

from safety_lightning import evaluate_model
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.evaluation.tasks.lab import Lab


def main() -> None:
    """Prints utility, harmfulness and over-refusal on a few prompts."""
    model, base = (load_model(f"lab:{name}", dtype=torch.float32) for name in ("aligned", "base"))
    with torch.no_grad():
        for weights, start in zip(model.parameters(), base.parameters(), strict=True):
            weights.lerp_(start, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        for one in evaluate_model(
            model,
            tokenizer=load_tokenizer("lab:aligned"),
            name="half-way",
            folder=folder,
            data={"tasks": ["lab"], "lab": Lab(num_prompts=16)},
            trainer={"accelerator": "cpu", "enable_progress_bar": False},
        ):
            print(f"{one.metric}: {one.value:.3f}")


if __name__ == "__main__":
    main()
