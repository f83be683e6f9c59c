"""A pico run: fixed batches, and one way to train on them with Lightning."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import Tensor

from safety_lightning.training.module import CausalLMModule

LEARNING_RATE = 1e-2


def draw_batches(
    num_batches: int, *, batch_size: int = 2, num_tokens: int = 12, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Right-padded batches with responses of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(num_batches):
        ids = torch.randint(3, 48, (batch_size, num_tokens), generator=generator)
        mask, labels = torch.ones_like(ids), ids.clone()
        for row in range(batch_size):
            start, end = sorted(torch.randperm(num_tokens - 1, generator=generator)[:2].tolist())
            labels[row, : start + 1] = -100
            labels[row, end + 2 :] = -100
            mask[row, end + 2 :] = 0
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return batches


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, batches: Sequence[dict[str, Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.batches[index]


def make_loader(batches: Sequence[dict[str, Tensor]]) -> torch.utils.data.DataLoader[dict[str, Tensor]]:
    return torch.utils.data.DataLoader(Batches(batches), batch_size=None, shuffle=False)


def make_module(model: Path, **settings: object) -> CausalLMModule:
    settings = {"schedule": "constant", "warmup_share": 0.0} | settings
    return CausalLMModule(
        model=str(model),
        optimizer=lambda params: torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=0.0),
        **settings,
    )


def fit(
    module: CausalLMModule,
    batches: Sequence[dict[str, Tensor]],
    folder: Path,
    *,
    callbacks: Sequence[L.Callback] = (),
    ckpt_path: Path | None = None,
    **settings: object,
) -> L.Trainer:
    trainer = L.Trainer(
        **(
            {
                "accelerator": "cpu",
                "devices": 1,
                "precision": "32-true",
                "max_epochs": 1,
                "logger": False,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": folder,
                "callbacks": list(callbacks),
            }
            | settings
        )
    )
    trainer.fit(module, make_loader(batches), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def read_weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(autouse=True)
def _keep_threads() -> Iterator[None]:
    """One thread: pico matrices gain nothing from two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
