"""Which device and precision a backend computes with, and how it fits a batch into memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch

from jdx.backends.base import Dtype
from jdx.errors import BackendError

log = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
T = TypeVar("T")
R = TypeVar("R")


def pick_device(setting: str) -> torch.device:
    """The device of a setting: auto (a GPU if there is one), cpu, cuda or cuda:N.

    Raises BackendError, which lists what this machine has.
    """
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(setting)
    except RuntimeError:
        raise BackendError(f"backend.device = {setting}; allowed: auto, cpu, cuda, cuda:N") from None
    if device.type == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) >= count:
        have = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        raise BackendError(f"backend.device = {setting} is not on this machine; there are: {have}")
    return torch.device("cuda", device.index or 0)


def pick_dtype(setting: Literal["auto"] | Dtype, device: torch.device) -> torch.dtype:
    """The precision of a setting; auto is bfloat16 on a GPU that has it, else float32.

    float16 is not offered: SD 2.1 leaves its range inside attention and draws black pictures.
    """
    if setting == "auto":
        cuda = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if cuda else torch.float32
    if setting not in DTYPES:
        why = " (SD 2.1 draws black pictures in float16)" if "16" in str(setting) else ""
        raise BackendError(f"backend.dtype = {setting}{why}; allowed: auto, {', '.join(DTYPES)}")
    return DTYPES[setting]


def gpu_share() -> float:
    """Share of its card that this process has been given, 0 to 1; a launcher that lets jobs share cards says it."""
    return min(1.0, float(os.environ.get("JDX_GPU_SHARE") or 1.0))


_limits: dict[torch.device, int] = {}
"""Bytes that tensors may take on a device, where a setting says it."""


def limit_memory(device: torch.device, gib: float) -> None:
    """Hold this process to `gib` GiB of tensors on a device, 0 = its share of the card; what was said before is undone.

    On a GPU PyTorch's allocator then refuses more. The CUDA context and loaded kernels come on top, about 0.6 GiB.
    """
    _limits.pop(device, None)
    if gib:
        _limits[device] = int(gib * 2**30)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(gpu_share(), _limits.get(device, total) / total)
        torch.cuda.set_per_process_memory_fraction(share, device)


def memory_limit(device: torch.device) -> int | None:
    """Bytes that `limit_memory` allows on a device; None where nothing was said."""
    return _limits.get(device)


def free_memory(device: torch.device) -> int:
    """Bytes of a card that this process may still take: what is free, and no more than its share and limit."""
    free, total = torch.cuda.mem_get_info(device)
    allowed = min(int(gpu_share() * total), _limits.get(device, total))
    if allowed < total:
        free = min(free, allowed - torch.cuda.memory_reserved(device))
    return max(0, free)


def pictures_that_fit(device: torch.device, resolution: int, gib_at_512: float, most: int = 32) -> int:
    """Pictures in one pass, given the working memory of one at 512 px in GiB; 1 to `most`.

    On a CPU a bigger batch wins little, so the batch is what eight pictures of 128 px need.
    """
    area = (resolution / 512) ** 2
    if device.type != "cuda":
        return max(1, min(8, int(0.5 / area)))
    free = free_memory(device)
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, min(most, int(0.8 * (free + reserved) / (gib_at_512 * area * 2**30))))


def in_batches(items: Sequence[T], size: int, work: Callable[[Sequence[T]], R], what: str) -> list[R]:
    """`work` over consecutive batches of at most `size`; out of GPU memory halves the size and tries again.

    Raises BackendError when a batch of one does not fit.
    """
    results: list[R] = []
    start = 0
    while start < len(items):
        batch = items[start : start + size]
        try:
            results.append(work(batch))
        except torch.cuda.OutOfMemoryError as error:
            if len(batch) == 1:
                raise BackendError(f"{what}: one picture does not fit into the GPU's memory") from error
            size = len(batch) // 2
        else:
            start += len(batch)
            continue
        torch.cuda.empty_cache()  # outside the except block, whose traceback keeps the failed batch alive
        log.warning("%s: out of GPU memory, going on with batches of %d", what, size)
    return results


def send(x: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor on the device, without waiting until the device has done what it was given before."""
    if device.type != "cuda" or x.device.type == "cuda":
        return x.to(device, dtype)
    return x.to(dtype or x.dtype).pin_memory().to(device, non_blocking=True)
