"""Fused kernels for diffusers' networks: whether this device can have them, and a network's modules made to use them.

A pass of Stable Diffusion's UNet spends a third of its time between its matrix products: norms, activations, sums, and
copies from one memory layout to the other. `fuse` makes a frozen network's modules instances of subclasses
(`fused_modules`) that do this in few passes over channels-last memory; its parameters, names and state dict stay.
Results differ from diffusers' own by rounding. Kernels are ready in seconds, whatever the sizes, unlike
`torch.compile`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends.torch.compile import missing, say
from jdx.errors import told

DTYPES = (torch.bfloat16, torch.float32)
"""Precisions that kernels, which compute in float32, do not spoil."""
_failed: set[tuple[torch.device, torch.dtype]] = set()
"""Where kernels were tried in vain."""


@cache
def lack(device: torch.device, dtype: torch.dtype) -> str:
    """What stands against fused kernels here, in words; "" when they run. A GPU's lack is said, once."""
    if other := _unsuited(device, dtype):
        return other
    reason = missing(device) or _failure(device, dtype)
    if reason:
        _failed.add((device, dtype))
        say(f"no fused kernels: {reason}; drawing and training take a third longer without")
    return reason


def offered(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels here, as far as is known at no cost: `lack` makes and tries them."""
    return not (_unsuited(device, dtype) or missing(device) or (device, dtype) in _failed)


def _unsuited(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return "fused kernels are for GPUs"
    if dtype not in DTYPES:
        return (
            f"fused kernels compute in float32, which is not enough for {str(dtype).removeprefix('torch.')}"
        )
    return ""


def _failure(device: torch.device, dtype: torch.dtype) -> str:
    """Why kernels, tried on a few numbers, do not run or compute nonsense; "" when they are right."""
    x = torch.linspace(-1, 1, 4 * 64 * 9, device=device).sin().view(4, 64, 3, 3)
    weight = torch.linspace(0.5, 1.5, 64, device=device)
    try:
        from jdx.backends.torch import fused_functions

        y = fused_functions.group_norm(x, weight, weight, 32, 1e-5, silu=True)
        gap = (y - F.silu(F.group_norm(x, 32, weight, weight, 1e-5))).abs().max().item()
        if device.type == "cuda":
            _make(fused_functions, device, dtype)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Triton's own compiler, the C compiler, Python's missing headers: anything
        return f"Triton failed ({told(error)})"
    return "" if gap < 1e-3 else f"Triton's results are {gap:.3g} off on this GPU"


def _make(functions: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Use each kernel as Stable Diffusion 2.1 will, each in a thread: one after the other they take 20 s to compile.

    What is on the disk is read only. Training's backward passes are among them.
    """

    def norms(kind: torch.dtype) -> None:
        x, weight, shift = (
            torch.ones(shape, device=device, dtype=kind) for shape in ((1, 320, 8, 8), 320, (1, 320))
        )
        for silu in (False, True):
            for some in (None, shift):
                settings = {"groups": 32, "eps": 1e-5, "silu": silu, "shift": some}
                _grad(partial(functions.group_norm, weight=weight, bias=weight, **settings), x)

    def rows(width: int) -> None:
        weight = torch.ones(width, device=device, dtype=dtype)
        x = torch.ones(1, 64, width, device=device, dtype=dtype)
        _grad(lambda y: functions.layer_norm(y, weight, weight, 1e-5), x)

    def gates() -> None:
        _grad(functions.geglu, torch.ones(1, 64, 2560, device=device, dtype=dtype))

    def sums(kind: torch.dtype) -> None:
        x, bias = (torch.ones(shape, device=device, dtype=kind) for shape in ((1, 320, 8, 8), 320))
        for other in (None, bias):
            functions.join(x, x, bias, other)

    kinds = {dtype, torch.float32}
    work: list[Callable[[], None]] = [partial(one, kind) for one in (norms, sums) for kind in kinds]
    work += [gates, *(partial(rows, width) for width in (320, 640, 1280))]
    with ThreadPoolExecutor(len(work), thread_name_prefix="kernel") as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()


def _grad(work: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.enable_grad():
        y = work(x.requires_grad_())
    torch.autograd.grad(y, x, torch.ones_like(y))


def fuse(network: nn.Module) -> None:
    """Make a frozen UNet or VAE use fused kernels, in place, its weights in the layout that they want."""
    from jdx.backends.torch.fused_modules import SUBSTITUTES

    layout: Any = torch.channels_last
    network.to(memory_format=layout)
    for module in list(network.modules()):
        if substitute := SUBSTITUTES.get(type(module)):
            substitute(module)
