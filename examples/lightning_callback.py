"""A LightningModule of your own: one callback keeps its update outside the safety subspace.

python examples/lightning_callback.py
"""

import lightning as L
import torch
from torch import Tensor

from safety_lightning import InstructionData, InstructionSource, ProjectUpdate, SubspaceSpec
from safety_lightning.checkpoints import load_model


class MyModule(L.LightningModule):
    """Any module that holds the model as it was loaded from the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.model = load_model("lab:aligned", dtype=torch.float32).train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch).loss
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    """Trains for ten steps."""
    project = ProjectUpdate(SubspaceSpec(base="lab:base", reference="lab:aligned"), component="orthogonal", when="end")
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=10,
        callbacks=[project],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    data = InstructionData("lab:aligned", useful=InstructionSource(preset="lab:useful", size=80), batch_size=8)
    trainer.fit(MyModule(), data.train_dataloader())
    for row in project.rows[:5]:
        print(f"{row.name}: {row.energy_kept:.0%} of the update kept, {row.chance:.0%} by chance")


if __name__ == "__main__":
    main()
