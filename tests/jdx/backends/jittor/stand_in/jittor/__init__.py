"""The part of Jittor's interface that JDiffusion's runner uses, on PyTorch: JDiffusion itself cannot be had in tests.

As in JDiffusion's fork with jtorch: nothing has a gradient unless told to, and there is no cuDNN without CUDA.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

__version__ = "1.3.8.5"
Var = torch.Tensor
flags = SimpleNamespace(use_cuda=0)
compile_extern = SimpleNamespace(use_mkl=False)
cudnn = None
no_grad = torch.no_grad
matmul, stack, concat, zeros = torch.matmul, torch.stack, torch.cat, torch.zeros
_numpy = torch.Tensor.numpy


def array(values: Any) -> torch.Tensor:
    return torch.tensor(values)


def grad(loss: torch.Tensor, variables: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, variables))


def _assign(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return self.copy_(other)


for name, method in {
    "assign": _assign,
    "start_grad": lambda self: self.requires_grad_(True),
    "stop_grad": lambda self: self.requires_grad_(False),
    "numpy": lambda self: _numpy(self.detach()),
}.items():
    setattr(torch.Tensor, name, method)
