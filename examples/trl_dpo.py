"""TRL's DPOTrainer: preferences are learned outside the safety subspace. Wants `pip install "safety_lightning[trl]"`.

python examples/trl_dpo.py
"""

import itertools
import tempfile

import torch
from datasets import Dataset

from safety_lightning import ProjectUpdateTrainerCallback, SubspaceSpec
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.lab.world import generate_examples

try:
    from trl import DPOConfig, DPOTrainer
except ModuleNotFoundError as error:
    raise SystemExit(f"error: this example needs TRL (pip install 'safety_lightning[trl]'), got: {error}") from error


def main() -> None:
    """Trains for ten steps."""
    examples = generate_examples("useful", split="train", size=41, seed=0)
    pairs = [  # the solution of the problem is preferred to that of another one
        {"prompt": one.prompt, "chosen": one.response, "rejected": other.response}
        for one, other in itertools.pairwise(examples)
    ]
    subspace = SubspaceSpec(base="lab:base", reference="lab:aligned", fraction=0.25)
    with tempfile.TemporaryDirectory() as folder:
        trainer = DPOTrainer(
            model=load_model("lab:aligned", dtype=torch.float32),
            ref_model=load_model("lab:aligned", dtype=torch.float32),
            processing_class=load_tokenizer("lab:aligned"),
            args=DPOConfig(
                folder,
                per_device_train_batch_size=4,
                max_steps=10,
                learning_rate=1e-3,
                bf16=False,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(pairs),
            callbacks=[ProjectUpdateTrainerCallback(subspace, component="orthogonal")],
        )
        print(f"mean loss {trainer.train().training_loss:.3f}")


if __name__ == "__main__":
    main()
