"""Makes the generator of every random draw in this package."""

import hashlib

import torch


def make_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Returns a CPU generator that depends on nothing but its arguments, so that draws do not disturb each other.

    Args:
        purpose: What is drawn, for example ``sample``; two purposes with the same numbers are independent.
        numbers: Seed, epoch and the like.
    """
    text = "/".join([purpose, *map(str, numbers)])
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1  # manual_seed wants less than 2**63
    return torch.Generator().manual_seed(seed)


def shuffle_range(size: int, generator: torch.Generator) -> list[int]:
    """Returns the numbers below ``size`` in a random order."""
    return torch.randperm(size, generator=generator).tolist()
