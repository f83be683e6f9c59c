"""What every section of a GPU uses: clocks that wait for it, and what it could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig

from benchmarks.shapes import Shape, list_shapes, make_config

_DATA_SHEET = {  # dense products in bfloat16, operations per second
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def time_on(device: str, call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns a call's seconds, until the device has done what it was given, and its result."""
    wait(device)
    started = time.perf_counter()
    result = call()
    wait(device)
    return time.perf_counter() - started, result


def wait(device: str) -> None:
    """Waits until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def count_work(shape: Shape, num_tokens: int) -> float:
    """Counts the operations of training for each token, as model-FLOPs utilisation counts them (PaLM, appendix B).

    6 for each weight of a product (an embedding is none), and 12 · layers · width · length for the scores of attention,
    whatever a kernel leaves out.

    Args:
        shape: The model's shape.
        num_tokens: Length of the rows.
    """
    config: PreTrainedConfig = make_config(shape)
    weights = {name: one for name, one in list_shapes(shape).items() if len(one) == 2}
    if not config.tie_word_embeddings:
        weights.pop("model.embed_tokens.weight")
    num_weights = sum(rows * columns for rows, columns in weights.values())
    return float(6 * num_weights + 12 * config.num_hidden_layers * config.hidden_size * num_tokens)


def describe_use(rate: float, device: str, *, size: int) -> str:
    """Says what share of the device's operations a rate is.

    Args:
        rate: Operations per second.
        device: The device.
        size: Rows of the square product that is timed to know what the device reaches.
    """
    said = (
        f"{rate / 1e12:.3g} Tflop/s, {rate / time_product(device, size):.2f} of a plain product of {size} in bfloat16"
    )
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    sheet = next((peak for known, peak in _DATA_SHEET.items() if known in name), None)
    return said if sheet is None else f"{said}, {rate / sheet:.2f} of the data sheet's {sheet / 1e12:.0f} (MFU)"


def time_product(device: str, size: int) -> float:
    """Returns the operations per second of a square product in bfloat16, the fastest of ten."""
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    seconds = min(time_on(device, lambda: factor @ factor)[0] for _ in range(10))
    return 2 * size**3 / seconds
