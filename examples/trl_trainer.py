"""TRL's SFTTrainer, which takes the callback of the Hugging Face Trainer. Wants `pip install "safety_lightning[trl]"`.

python examples/trl_trainer.py
"""

import tempfile

import torch
from datasets import Dataset

from safety_lightning import ProjectUpdateTrainerCallback, SubspaceSpec
from safety_lightning.checkpoints import load_model, load_tokenizer
from safety_lightning.lab.world import generate_examples

try:
    from trl import SFTConfig, SFTTrainer
except ModuleNotFoundError as error:
    raise SystemExit(f"error: this example needs TRL (pip install 'safety_lightning[trl]'), got: {error}") from error


def main() -> None:
    """Trains for ten steps."""
    examples = generate_examples("useful", split="train", size=80, seed=0)
    subspace = SubspaceSpec(base="lab:base", reference="lab:aligned", fraction=0.25)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=load_model("lab:aligned", dtype=torch.float32),
            processing_class=load_tokenizer("lab:aligned"),
            args=SFTConfig(
                folder,
                per_device_train_batch_size=8,
                max_steps=10,
                learning_rate=1e-3,
                bf16=False,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(
                [
                    {
                        "prompt": [{"role": "user", "content": example.prompt}],
                        "completion": [{"role": "assistant", "content": example.response}],
                    }
                    for example in examples
                ]
            ),
            callbacks=[ProjectUpdateTrainerCallback(subspace, component="orthogonal")],
        )
        print(f"mean loss {trainer.train().training_loss:.3f}")


if __name__ == "__main__":
    main()
