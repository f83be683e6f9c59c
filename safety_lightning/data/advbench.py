"""Reads AdvBench's prompts, whole or as the paper's release read them."""

from typing import Literal

from safety_lightning.data.presets import resolve_source
from safety_lightning.data.reading import read_prompts
from safety_lightning.data.sources import InstructionSource
from safety_lightning.errors import UserError

AdvBenchPrompts = Literal["whole", "cut"]


def read_advbench_prompts(
    source: str | InstructionSource = "advbench", *, advbench_prompts: AdvBenchPrompts = "whole", seed: int = 0
) -> list[str]:
    """Reads the prompts of AdvBench.

    Paper: the release split each line at commas whatever the quotes, which cuts 14 of the 520 prompts short, and lost
    the last one.

    Args:
        source: The preset, or a source with its own ``path``.
        advbench_prompts: ``whole``, or ``cut`` at the first comma with the last prompt dropped.
        seed: Seed of the draw, where the prompts are whole and the source has a ``size``.

    Returns:
        The prompts, in the file's order unless the source draws some of them.

    Raises:
        UserError: If the source cannot be read, ``advbench_prompts`` is neither, or it is ``cut`` and the source has
            a ``size`` (the release had none).
    """
    if advbench_prompts not in ("whole", "cut"):
        raise UserError(f"advbench_prompts must be whole or cut, got {advbench_prompts!r}")
    source = resolve_source(source)
    if advbench_prompts == "whole":
        return read_prompts(source, seed=seed)
    if source.size is not None:
        raise UserError(f"size must be left out where advbench_prompts is cut, got {source.size}")
    return [prompt.partition(",")[0] for prompt in read_prompts(source, seed=seed)[:-1]]
