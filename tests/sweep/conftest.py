"""Pico checkpoints of a sweep: base, reference with a dense delta, and finetuned models."""

from pathlib import Path

import pytest
import torch

from tests.conftest import copy_checkpoint, make_pico_llama


def add_noise(source: Path, target: Path, *, size: float, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    return copy_checkpoint(
        source, target, lambda name, weights: weights + size * torch.randn(weights.shape, generator=generator)
    )


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    base = make_pico_llama(folder / "base", tie_word_embeddings=False)
    reference = add_noise(base, folder / "reference", size=0.02, seed=1)
    (reference / "tokenizer_config.json").write_text('{"model_max_length": 64}\n')
    (reference / "chat_template.jinja").write_text("{{ messages }}\n")
    return {
        "base": base,
        "reference": reference,
        "useful": add_noise(reference, folder / "useful", size=0.003, seed=2),
        "harmful": add_noise(reference, folder / "harmful", size=0.005, seed=3),
    }
