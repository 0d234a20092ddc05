"""Training whose bits do not change: from run to run, and with whatever other styles share the batch.

Three things are needed. Every kernel must sum in a fixed order (`fixed_order`), which a few of the fast ones do not.
Kernels are chosen by the shapes of their inputs, so every pass must have the same shapes: packs of one fixed number of
rows, those that no style needs being filled with a copy (`packs.Pack.rows`), of adapters alike in every size. And what
a kernel computes for a row must not depend on where in the batch it is: cuDNN's convolutions divide their sums among
multiprocessors, at other places for the next sample, so every style's samples are convolved apart (`one_by_one`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic
from torch import Tensor, nn

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


class _OneByOne(nn.Conv2d):
    """A convolution of a batch of `groups_of_rows` equal groups, each by itself."""

    groups_of_rows: int

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        parts = x.chunk(self.groups_of_rows)
        return torch.cat([super(_OneByOne, self)._conv_forward(part, weight, bias) for part in parts])


@contextmanager
def one_by_one(network: nn.Module, groups: int) -> Iterator[None]:
    """Within the block a network's convolutions take each of so many equal groups of the batch by itself."""
    layers: list[Any] = [module for module in network.modules() if type(module) is nn.Conv2d]
    for layer in layers:
        layer.__class__, layer.groups_of_rows = _OneByOne, groups
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Conv2d
            del layer.groups_of_rows
