"""Training whose bits do not change: from run to run, and with whatever other styles share the batch.

Two things are needed. Every kernel must sum in a fixed order (`fixed_order`), which a few of the fast ones do not. And
kernels are chosen by the shapes of their inputs, so every pass must have the same shapes: packs of one fixed number of
rows, those that no style needs being filled with a copy (`packs.Pack.rows`), of adapters alike in every size.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

SAMPLES = 16
"""Samples of a pass where `backend.micro_batch` does not say it: 12 GiB with Stable Diffusion 2.1 at 512 px."""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def prepare() -> None:
    """Fix cuBLAS's workspace, whose size is read at the first product of a process.

    Hopper's usual size; older cards' is smaller, and kernels may be chosen by it.
    """
    os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def fixed_order(wanted: bool) -> Iterator[None]:
    """Only kernels that sum in a fixed order, if wanted; PyTorch's settings are put back."""
    if not wanted:
        yield
        return
    prepare()
    cudnn: Any = torch.backends.cudnn
    fill: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = fill.fill_uninitialized_memory
    convolutions = (cudnn.benchmark, cudnn.deterministic)
    torch.use_deterministic_algorithms(True)
    fill.fill_uninitialized_memory = False  # nothing here reads what was not written
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        fill.fill_uninitialized_memory = fills
        cudnn.benchmark, cudnn.deterministic = convolutions
