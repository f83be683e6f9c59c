"""Folders of activations and checkpoints that overlap in a known way."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from safety_lightning.activations.storage import TENSOR, ActivationIndex, PromptRecord, name_shard, save_index
from safety_lightning.overlap import run as overlap_run
from tests.conftest import copy_checkpoint, make_pico_llama

NUM_LAYERS, HIDDEN_SIZE = 4, 16


def draw_hidden(num_prompts: int, *, seed: int, mean: float = 0.0, directions: Sequence[int] = range(6)) -> Tensor:
    """Draws activations that vary along some axes, weakly along all, and not at all in layer 0; shape (P, L+1, D)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = 0.05 * torch.randn(num_prompts, NUM_LAYERS + 1, HIDDEN_SIZE, generator=generator)
    for place, axis in enumerate(directions):
        hidden[..., axis] += torch.randn(num_prompts, NUM_LAYERS + 1, generator=generator) * 0.8**place
    hidden += mean * torch.linspace(1, 2, HIDDEN_SIZE)
    hidden[:, 0] = torch.linspace(1, 2, HIDDEN_SIZE)
    return hidden


def save_activations(
    folder: Path, hidden: Tensor, *, sets: Sequence[str] | None = None, shard_size: int = 7, **overrides: object
) -> Path:
    """Writes activations of shape (P, L+1, D) as a folder that the capture would have written."""
    folder.mkdir(parents=True)
    names = sets or [folder.name] * len(hidden)
    records = []
    for at, name in enumerate(names):
        shard, row = divmod(at, shard_size)
        records.append(
            PromptRecord(id=f"{name}-{at}", set=name, text_hash=f"{name}{at}", num_tokens=9, shard=shard, row=row)
        )
    for number, part in enumerate(hidden.split(shard_size)):
        save_file({TENSOR: part.contiguous()}, folder / name_shard(number))
    index = ActivationIndex(
        model="lab:aligned",
        model_hashes={"model.safetensors": "1"},
        num_layers=hidden.shape[1] - 1,
        hidden_size=hidden.shape[2],
        token="prompt",
        settings={"token_position": "last_attended"},
        prompts=records,
    )
    save_index(folder, dataclasses.replace(index, **overrides))
    return folder


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out figures, which are most of a small run's time and have tests of their own."""
    monkeypatch.setattr(overlap_run, "publish_figures", lambda out, figures: None)


@pytest.fixture(scope="session")
def activation_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two sets of one kind, and one that varies along other axes; all share a large mean."""
    root = tmp_path_factory.mktemp("activations")
    drawn = {
        "first": draw_hidden(40, seed=1, mean=5),
        "alike": draw_hidden(30, seed=2, mean=5),
        "other": draw_hidden(35, seed=3, mean=5, directions=range(8, 14)),
    }
    return {name: str(save_activations(root / name, hidden)) for name, hidden in drawn.items()}


@pytest.fixture(scope="session")
def weight_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A base, a reference and fine-tunes of it: two seeds that share directions, another, and one with zero updates."""
    root = tmp_path_factory.mktemp("weights")
    folders = {"base": make_pico_llama(root / "base", num_hidden_layers=4)}
    folders["reference"] = copy_checkpoint(folders["base"], root / "reference", _Change(0, own=4))
    folders["useful"] = copy_checkpoint(folders["reference"], root / "useful", _Change(1, shared=4, own=1))
    folders["useful2"] = copy_checkpoint(folders["reference"], root / "useful2", _Change(2, shared=4, own=1))
    folders["harmful"] = copy_checkpoint(folders["reference"], root / "harmful", _Change(3, own=6))
    folders["partial"] = copy_checkpoint(
        folders["reference"], root / "partial", _Change(4, own=5, untouched=("q_proj", "model.norm"))
    )
    return {name: str(folder) for name, folder in folders.items()}


class _Change:
    """Adds an update of low rank to every matrix, in part along directions that depend on the shape alone."""

    def __init__(self, seed: int, *, own: int, shared: int = 0, untouched: tuple[str, ...] = ()) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.own, self.shared, self.untouched = own, shared, untouched

    def __call__(self, name: str, weights: Tensor) -> Tensor:
        if any(part in name for part in self.untouched):
            return weights
        if weights.ndim == 1:
            return weights + 0.01 * torch.randn(weights.shape, generator=self.generator)
        left = torch.randn(weights.shape[0], self.own, generator=self.generator) * 0.1
        common = torch.randn(weights.shape[0], self.shared, generator=torch.Generator().manual_seed(weights.numel()))
        columns = torch.cat([left, common], dim=1)
        return weights + 0.01 * columns @ torch.randn(columns.shape[1], weights.shape[1], generator=self.generator)


def interrupt(out: Path, copy: Path, *, num_parts: int) -> dict[Path, int]:
    """Makes a copy of a run's folder as a kill would have left it: some of its parts, and no tables.

    Returns:
        The parts that are there, with the times at which they were written.
    """
    shutil.copytree(out, copy)
    for table in [*copy.glob("*.csv"), *copy.glob("*.parquet")]:
        table.unlink()
    parts = sorted(copy.glob("parts/*.json"))
    for part in parts[num_parts:]:
        part.unlink()
    return {part: part.stat().st_mtime_ns for part in parts[:num_parts]}
