"""How many samples fit into one pass: measured on one sample, then divided into what the device has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import psutil
import torch
from torch import Tensor

from jdx.backends.torch.devices import free_memory, memory_limit

Item = TypeVar("Item")

GIB = 2**30
MOST_SAMPLES = 64
"""More in one pass gains under 5 % on the largest GPUs, and tensors of 2³¹ elements come in sight."""
CPU_BUDGET = 4 * GIB
"""A constant, so that one machine packs, and hence rounds, the same way whatever else it is doing."""
HEADROOM = 1.1
"""Gradients of activations and kernels' workspaces. Stable Diffusion 2.1 at 512 px keeps 0.71 GiB a sample in
bfloat16; 30 samples of 15 adapters of rank 32 peaked on an H200 at 0.99 of what is counted without headroom."""
COPIES = 10
"""Arrays of an adapter's size alive at once: parameter, gradients, moments, casts, temporaries."""


@dataclass(frozen=True)
class Need:
    """Bytes that training takes: per sample of a pass, and per adapter whatever the samples."""

    sample: int
    adapter: int


def budget(device: torch.device) -> int:
    """Bytes that training may take on this device now, within what `backend.memory` says."""
    if device.type == "cuda":
        free = free_memory(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(0.92 * (free + reusable)) - GIB
    return memory_limit(device) or min(CPU_BUDGET, psutil.virtual_memory().total // 4)


def kept_for_backward(run: Callable[[], object], known: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages that autograd keeps for the backward pass of `run`, `known` tensors
    left out.

    Counting is exact for what is kept, the same on every device, and needs no trial and error.
    """
    ignore = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignore:
            kept[storage.data_ptr()] = storage.nbytes()
        # Its own result handed back to an operation would be a cycle that no collector sees: a leak for good.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()  # held until counted: a freed storage's address could come twice
    total = sum(kept.values())
    del result
    return total


def fit(available: int, need: Need, samples: int) -> tuple[int, int]:
    """(styles of a pack, samples of one style in a pass), for styles of `samples` samples a pass each.

    When not even one style fits whole, its samples are split; one sample is always tried.
    """
    sample = max(1, int(need.sample * HEADROOM))
    most = max(1, min(samples, MOST_SAMPLES, (available - need.adapter) // sample))
    if most < samples:
        return 1, most
    return max(1, min(available // (need.adapter + samples * sample), MOST_SAMPLES // samples)), samples


def even(items: Sequence[Item], most: int) -> list[tuple[Item, ...]]:
    """Consecutive packs of at most `most` items, sizes differing by one at most: 20 by 15 gives 10, 10."""
    count = -(-len(items) // most)
    cuts = [len(items) * i // count for i in range(count + 1)] if count else []
    return [tuple(items[a:b]) for a, b in pairwise(cuts)]
