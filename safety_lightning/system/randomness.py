"""Makes the generator of every random draw of this package."""

import hashlib

import torch


def seed_generator(purpose: str) -> torch.Generator:
    """Returns a CPU generator that depends on nothing but a text, so that draws do not disturb each other.

    Args:
        purpose: What is drawn, with the seed and whatever else the draw depends on, for example ``sample/0``.
    """
    digest = hashlib.sha256(purpose.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it wants less than 2**63


def shuffle_range(size: int, generator: torch.Generator) -> list[int]:
    """Returns the numbers below ``size`` in a random order."""
    return torch.randperm(size, generator=generator).tolist()
