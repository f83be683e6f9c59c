"""A loop under accelerate, which runs it on one or many devices: attach the projection to what `prepare` returned.

python examples/accelerate_loop.py
"""

import torch
from accelerate import Accelerator

from safety_lightning import InstructionData, InstructionSource, SubspaceSpec, attach_projection
from safety_lightning.checkpoints import load_model


def main() -> None:
    """Trains for ten steps."""
    accelerator = Accelerator(cpu=True)
    model = load_model("lab:aligned", dtype=torch.float32).train()
    data = InstructionData("lab:aligned", useful=InstructionSource(preset="lab:useful", size=80), batch_size=8)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    subspace = SubspaceSpec(base="lab:base", reference="lab:aligned", fraction=0.25)
    projection = attach_projection(optimizer, model, subspace, component="orthogonal")
    for step, batch in enumerate(data.train_dataloader(), start=1):
        loss = model(**{name: one.to(accelerator.device) for name, one in batch.items()}).loss
        accelerator.backward(loss)
        optimizer.step()  # and the projection
        optimizer.zero_grad()
        print(f"step {step}: loss {float(loss.detach()):.3f}")
    projection.remove()  # from here on, nothing is projected


if __name__ == "__main__":
    main()
