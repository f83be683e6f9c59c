"""The Hugging Face Trainer: one callback keeps the update inside the safety subspace after every optimizer step.

python examples/hugging_face_trainer.py
"""

import tempfile

import torch
from transformers import Trainer, TrainingArguments

from safety_lightning import InstructionData, InstructionSource, ProjectUpdateTrainerCallback, SubspaceSpec
from safety_lightning.checkpoints import load_model


def main() -> None:
    """Trains for ten steps."""
    data = InstructionData("lab:aligned", useful=InstructionSource(preset="lab:useful", size=80))
    batches = data.train_dataloader()
    subspace = SubspaceSpec(base="lab:base", reference="lab:aligned", fraction=0.25)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=load_model("lab:aligned", dtype=torch.float32),
            args=TrainingArguments(
                folder,
                per_device_train_batch_size=8,
                max_steps=10,
                learning_rate=1e-3,
                remove_unused_columns=False,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=batches.dataset,
            data_collator=batches.collate_fn,
            callbacks=[ProjectUpdateTrainerCallback(subspace, component="parallel")],
        )
        print(f"mean loss {trainer.train().training_loss:.3f}")


if __name__ == "__main__":
    main()
