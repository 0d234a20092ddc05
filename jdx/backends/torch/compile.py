"""Compiled denoisers: when `torch.compile` pays, where its kernels are kept, and how a UNet is called through it.

`choose` weighs a job's length against what compilation costs; `opened` gives the UNet's pass in the chosen way. What
is trained or merged must stay in tensors of the same shapes (a pack's factors are attributes of its layers, merged
weights are written in place): then one compilation serves all steps, packs and trials of a process, and the kernels on
disk serve other processes. Compilation changes results by rounding only, so it is no part of any store key.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jdx.backends.base import CompileSetting

log = logging.getLogger(__name__)

Mode = Literal["off", "regional", "full"]
Use = Literal["train", "draw"]
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy latents (N, C, h, w), time steps (N,), text states (N, L, D)) -> the network's answer (N, C, h, w)."""

CACHE = "TORCHINDUCTOR_CACHE_DIR"
BACKEND = "inductor"
VARIANTS = 64
"""Compilations of one function that are kept. Dynamo gives up after 8; a denoiser is used with several batch sizes,
precisions and, block by block, in several sizes."""


@dataclass(frozen=True)
class Price:
    """Seconds until the first pass is compiled, with nothing and with all kernels on disk; share of time saved."""

    cold: float
    warm: float
    gain: float


PRICES: dict[Use, dict[Mode, Price]] = {
    "train": {"full": Price(96.0, 40.0, 0.175)},
    "draw": {"full": Price(53.0, 15.0, 0.26)},
}
"""Stable Diffusion 2.1 on an H200 in bfloat16: 15 styles of rank 32, two samples each; 50 pictures' forward pass.
`warm` is an estimate: tracing without compiling kernels."""
RATES: dict[Use, float] = {"train": 167.0, "draw": 394.0}
"""Samples a second without compilation in the same measurements, but for what a pass takes whatever its samples."""
PASSES: dict[Use, float] = {"train": 0.0164, "draw": 0.0}
"""Those seconds of a pass: 2, 8, 30 and 60 samples took 28, 62, 196 and 377 ms (as CUDA graphs)."""
ENTRIES, CELLS, PROCESSORS = 865.9e6, 64 * 64, 132
"""Of those measurements: the UNet's parameters, a latent's places, the card's multiprocessors."""
LEAST_GAIN = 5.0
"""Seconds that compilation must be expected to save: the estimates are no better."""


@dataclass(frozen=True)
class Work:
    """What a job asks of the denoiser: samples in all, and what tells one compilation from another.

    shape: model, precision, batch and whatever else a compiled pass is made for, as one text.
    """

    use: Use
    seconds: float
    shape: str

    @property
    def kind(self) -> tuple[Use, str]:
        """What jobs have in common that the same compilation serves, however long they are."""
        return self.use, self.shape


def work_of(use: Use, unet: Any, samples: int, latent: tuple[int, int], shape: str, passes: int = 0) -> Work:
    """An estimate of the seconds without compilation from measured rates, scaled to model, picture and card."""
    entries = sum(p.numel() for p in unet.parameters())
    seconds = (
        (samples / RATES[use] + passes * PASSES[use]) * (entries / ENTRIES) * (latent[0] * latent[1] / CELLS)
    )
    device = next(unet.parameters()).device
    if device.type == "cuda":
        seconds *= PROCESSORS / torch.cuda.get_device_properties(device).multi_processor_count
    return Work(use, seconds, f"{shape} {latent} {entries}")


def choose(setting: CompileSetting, device: torch.device, work: Work) -> Mode:
    """How the denoiser is run for this job; "off" where nothing can be compiled, said in one line.

    auto: on a GPU, what is expected to be done first. What this process or the disk has already costs less or nothing;
    and since jobs of the same shapes tend to follow each other (a sweep), what earlier ones of this process would have
    saved is taken off the price. So at worst twice the best is paid (ski rental).
    """
    if setting == "off" or (setting == "auto" and device.type != "cuda"):
        return "off"
    if lack := missing(device):
        _say(f"backend.compile={setting}: {lack}; going on without compilation")
        return "off"
    if setting != "auto":
        return setting
    totals: dict[Mode, float] = {"off": work.seconds - LEAST_GAIN}
    for mode, price in PRICES[work.use].items():
        missed = price.gain * _uncompiled.get(work.kind, 0.0)
        totals[mode] = work.seconds * (1 - price.gain) + max(0.0, _cost(price, mode, work) - missed)
    best = min(totals, key=lambda mode: totals[mode])
    if best == "off":
        _uncompiled[work.kind] = _uncompiled.get(work.kind, 0.0) + work.seconds
    log.info("compilation: %s, for about %.0f s of passes", best, work.seconds)
    return best


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
def _say(text: str) -> None:
    """Once a process."""
    log.warning("%s", text)


_compiled: set[tuple[Mode, tuple[Use, str]]] = set()
"""The kinds of work that this process has compiled."""
_uncompiled: dict[tuple[Use, str], float] = {}
"""Seconds of work of each kind that this process did without compiling it."""


def remember(mode: Mode, work: Work) -> None:
    """Note that the passes of this work are compiled, in this process and on disk."""
    if mode == "off":
        return
    _compiled.add((mode, work.kind))
    if folder := os.environ.get(CACHE):
        mark = Path(folder) / "jdx" / _mark(mode, work)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _cost(price: Price, mode: Mode, work: Work) -> float:
    if (mode, work.kind) in _compiled:
        return 0.0
    folder = os.environ.get(CACHE)
    return price.warm if folder and (Path(folder) / "jdx" / _mark(mode, work)).exists() else price.cold


def _mark(mode: Mode, work: Work) -> str:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    text = "\n".join((mode, work.use, work.shape, card, torch.__version__))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def keep_in(folder: Path) -> None:
    """Keep compiled kernels in this folder, unless the user has chosen one ($TORCHINDUCTOR_CACHE_DIR).

    Inductor (and Triton through it) names its files by content and renames them into place, so that any number of
    processes can share it.
    """
    os.environ.setdefault(CACHE, str(folder.absolute()))


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
    first = str(error).strip().splitlines() or [""]
    _say(f"compilation failed ({type(error).__name__}: {first[0][:200]}); going on without it")
