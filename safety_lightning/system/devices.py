"""Chooses the device to work on, has products made there in full float32, and memory reused."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from safety_lightning.errors import UserError

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_KEPT_BYTES = 2**31 - 1  # the most that it takes
_LARGEST_ADAPTED_BYTES = 2**25  # up to where glibc raises its threshold by itself


def choose_device(device: str | None = None) -> torch.device:
    """Returns a device by its name; ``auto`` or None is the GPU where there is one.

    Of processes that were started together each gets a GPU of its own for ``cuda``, as far as there are enough.

    Raises:
        UserError: If there is no such device.
    """
    import torch

    name = device if device not in (None, "auto") else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(_find_own_gpu() if name == "cuda" else name or "cpu")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device must be one that torch finds, such as cpu or cuda:0, got {device}") from error
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # what waits for "the" GPU waits for this one
    return chosen


def _find_own_gpu() -> str:
    import torch

    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % max(torch.cuda.device_count(), 1)}"


@contextmanager
def in_full_precision() -> Iterator[None]:
    """Makes float32 products in float32 for the time of a block or a function, whatever the user chose for training.

    TF32, its bfloat16 relative on the CPU and autocast keep 8 to 11 bits of each factor, so that a projection would
    leave a thousandth of the update on the wrong side. The user's choice is in force again afterwards.
    """
    import torch

    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    chosen = [backend.fp32_precision for backend in backends]
    device_types = {"cpu", "cuda" if torch.cuda.is_available() else "cpu"}
    with ExitStack() as stack:
        for device_type in device_types:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, precision in zip(backends, chosen, strict=True):
                backend.fp32_precision = precision


def keep_freed_memory() -> None:
    """Has this process keep freed memory on the CPU for its next tensors.

    By default glibc hands large tensors' pages back when they are freed, and the kernel zeroes new ones for the next:
    in a forward pass on two cores, a tenth of the time. Elsewhere than on glibc nothing happens.
    """
    if (libc := _find_glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def release_freed_memory() -> None:
    """Hands back what `keep_freed_memory` kept, and keeps no more than glibc comes to by itself."""
    if (libc := _find_glibc()) is not None:
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_ADAPTED_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_ADAPTED_BYTES)
        libc.malloc_trim(0)


def _find_glibc() -> ctypes.CDLL | None:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
