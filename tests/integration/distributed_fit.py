"""Fits a pico model with projection in one or two processes; run by test_distributed.py, never collected."""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy

from safety_lightning.projection import SubspaceSpec
from safety_lightning.training.callbacks import MonitorUpdate, ProjectUpdate, SaveModel, save_model
from tests.training.conftest import Batches, draw_batches, make_module


def fit(strategy: str, folder: Path, base: str, reference: str) -> None:
    save_model.load_tokenizer = lambda reference: None  # pico models have none
    num_processes = 1 if strategy == "one" else 2
    chosen = {"one": "auto", "ddp": "ddp"}.get(strategy) or ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1
    )
    projection = ProjectUpdate(SubspaceSpec(base=base, reference=reference), component="orthogonal", folder=str(folder))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=num_processes,
        strategy=chosen,
        precision="32-true",
        max_epochs=1,
        accumulate_grad_batches=4 // num_processes,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,  # it would shuffle
        callbacks=[projection, MonitorUpdate(every_n_steps=1), SaveModel(folder=str(folder))],
    )
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    batches = Batches(draw_batches(8, batch_size=1)[rank::num_processes])  # responses of different lengths
    trainer.fit(make_module(Path(reference)), torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False))
    if num_processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    fit(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
