"""Whether a judge's weights fit into memory, and room for them beside the evaluated model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safety_lightning.errors import UserError

if TYPE_CHECKING:
    import torch

    from safety_lightning.evaluation.judges.local.model_judge import ModelJudge

_MEMINFO = Path("/proc/meminfo")


def check_memory(num_bytes: int, device: torch.device, *, what: str) -> None:
    """Raises UserError if weights take more memory than a device has free."""
    free = find_free_bytes(device)
    if free is not None and num_bytes > free:
        raise UserError(
            f"{what} must fit into the memory of {device}, its weights take {num_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free (a narrower dtype or another device may do)"
        )


def find_free_bytes(device: torch.device) -> int | None:
    """Returns the bytes that are free on a GPU, or in the machine's memory; None where that is not known."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not _MEMINFO.is_file():
        return None
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:"), None)


def make_room(model: torch.nn.Module, judges: Iterable[ModelJudge]) -> bool:
    """Moves an evaluated model off its GPU if judges that are yet to be loaded there do not fit beside it.

    Args:
        model: The evaluated model, which has answered.
        judges: The judges that are models.

    Returns:
        Whether it was moved.
    """
    import torch

    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cpu" or (free := find_free_bytes(device)) is None:
        return False
    needed = sum(judge.num_bytes for judge in judges if judge.chosen_device == device and "loaded" not in vars(judge))
    if needed <= free:
        return False
    model.to("cpu")
    torch.cuda.empty_cache()
    return True
