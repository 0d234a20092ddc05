"""Compiled denoisers: `torch.compile` for who asks for it, where kernels are kept, and the UNet's pass through it.

`choose` says how a job's passes are run; `opened` gives the UNet's pass in that way. What is trained or merged must
stay in tensors of the same shapes (a pack's factors are attributes of its layers, merged weights are written in place):
then one compilation serves all steps, packs and trials of a process, and the kernels on disk serve other processes.
Compilation changes results by rounding only, so it is no part of any store key.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jdx.backends.base import CompileSetting
from jdx.errors import told

log = logging.getLogger(__name__)

Mode = Literal["off", "regional", "full"]
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy latents (N, C, h, w), time steps (N,), text states (N, L, D)) -> the network's answer (N, C, h, w)."""

CACHE, TRITON_CACHE = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
BACKEND = "inductor"
VARIANTS = 64
"""Compilations of one function that are kept. Dynamo gives up after 8; a denoiser is used with several batch sizes,
precisions and, block by block, in several sizes."""


def choose(setting: CompileSetting, device: torch.device) -> Mode:
    """How the denoiser is run; "off" where nothing can be compiled, said in one line.

    auto: not compiled. Fused kernels (`fusing`) are faster than what the compiler makes, and there at once.
    """
    if setting == "off" or setting == "auto":
        return "off"
    if lack := missing(device):
        say(f"backend.compile={setting}: {lack}; going on without compilation")
        return "off"
    return setting


def missing(device: torch.device) -> str:
    """What compilation lacks on this machine, in words; "" when all is there."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            return "Triton is not installed, or does not know this GPU"
    names = [os.environ.get("CXX" if device.type == "cpu" else "CC"), "gcc", "clang", "cc"]
    if device.type == "cpu":
        names = [names[0], "g++", "clang++", "c++"]
    if not any(name and shutil.which(name) for name in names):
        return (
            "there is no C++ compiler" if device.type == "cpu" else "Triton needs a C compiler, there is none"
        )
    return ""


@cache
def say(text: str) -> None:
    """Once a process."""
    log.warning("%s", text)


def keep_in(folder: Path) -> None:
    """Keep compiled kernels in this folder, unless the user has chosen one ($TORCHINDUCTOR_CACHE_DIR).

    Inductor and Triton name its files by content and renames them into place, so that any number of
    processes can share it.
    """
    os.environ.setdefault(CACHE, str(folder.absolute()))
    os.environ.setdefault(TRITON_CACHE, str(Path(os.environ[CACHE]) / "triton"))


@contextmanager
def opened(unet: Any, mode: Mode) -> Iterator[Denoise]:
    """The UNet's pass, run in this way until the block ends; compiled code stays in the process for the next time.

    Batches of another shape, precision or gradient mode are compiled anew: keep them few.
    """
    if mode == "off":
        yield partial(plain, unet)
        return
    allow_variants()
    if mode == "full":
        yield partial(_whole(BACKEND), unet)
        return
    blocks = [module for module in unet.modules() if type(module).__name__ in REGIONS]
    try:
        for block in blocks:
            block.compile(fullgraph=True, dynamic=False, backend=BACKEND)
        yield partial(plain, unet)
    finally:
        for block in blocks:
            block._compiled_call_impl = None


REGIONS = ("BasicTransformerBlock",)
"""diffusers' modules that `regional` compiles, once per size. With the resnets, drawing took longer than whole."""


def plain(unet: Any, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
    """The UNet's pass as it is."""
    answer: Tensor = unet(x, t, encoder_hidden_states=states, return_dict=False)[0]
    return answer


@cache
def _whole(backend: str) -> Callable[[Any, Tensor, Tensor, Tensor], Tensor]:
    """`plain` in one graph; the UNet is an argument, so that adapters and models may change around it."""
    whole: Callable[[Any, Tensor, Tensor, Tensor], Tensor] = torch.compile(
        plain, fullgraph=True, dynamic=False, backend=backend
    )
    return whole


def function(work: Callable[..., None], mode: Mode) -> Callable[..., None]:
    """A function that changes tensors in place, compiled unless compilation is off: one kernel instead of many."""
    return work if mode == "off" else torch.compile(work, fullgraph=True, dynamic=False, backend=BACKEND)


def allow_variants() -> None:
    """Let dynamo keep VARIANTS compilations of one function."""
    import torch._dynamo.config as settings

    # Of diffusers' upsampling, once for each call: what is cached there are library versions.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a .functools.lru_cache")
    settings.recompile_limit = max(settings.recompile_limit, VARIANTS)


def is_failure(error: BaseException) -> bool:
    """Whether an error is the compiler's own, so that the pass may be tried without it; a lack of memory is not."""
    from torch._dynamo.exc import TorchDynamoException

    if not isinstance(error, TorchDynamoException):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.cuda.OutOfMemoryError):
            return False
        cause = cause.__cause__
    return True


def give_up(error: BaseException) -> None:
    """Say in one line that compilation failed and that things go on without it."""
    say(f"compilation failed ({told(error)}); going on without it")
