"""The samples of each step as tensors, drawn on the CPU in one thread ahead of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from jdx.backends.samples import Drawn, Noising, Plan, Source, draw_pass

PREFETCH = 3  # steps drawn ahead: enough to hide drawing, too little to cost memory


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over K styles with m samples each; row k·m + j is sample j of style k."""

    latents: Tensor  # (K·m, C, h, w), scaled
    noise: Tensor  # (K·m, C, h, w)
    t: Tensor  # (K·m,) int64
    a: Tensor  # (K·m, 1, 1, 1), √ᾱ_t
    s: Tensor  # (K·m, 1, 1, 1), √(1 − ᾱ_t)
    captions: Tensor  # (K·m,) int64, rows of the caption table
    keys: Tensor  # (K·m,) int64, of the dropout masks
    prior: Tensor  # (K·m,) bool: a class sample
    weights: Tensor  # (K, m), of each sample's squared error in its style's loss

    def to(self, device: torch.device) -> Pass:
        """On the device, without waiting when the memory is pinned."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> Pass:
        return self._each(Tensor.pin_memory)

    def _each(self, do: Callable[[Tensor], Tensor]) -> Pass:
        return replace(self, **{f.name: do(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Drawer:
    """Draws the passes of a step for some styles. dtype: of everything that is no integer."""

    sources: Sequence[Source]
    plan: Plan
    noising: Noising
    dtype: torch.dtype = torch.float32
    pin: bool = False

    def __call__(self, step: int) -> tuple[Pass, ...]:
        drawn = (draw_pass(self.sources, self.plan, self.noising, step, samples) for samples in self.plan)
        passes = (self._tensors(one) for one in drawn)
        return tuple(p.pinned() if self.pin else p for p in passes)

    def _tensors(self, drawn: Drawn) -> Pass:
        plain = {f.name: torch.from_numpy(getattr(drawn, f.name)) for f in fields(Drawn)}
        wide = {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in plain.items()}
        return Pass(**{**wide, **{name: wide[name][:, None, None, None] for name in ("a", "s")}})


@contextmanager
def drawn_ahead(draw: Drawer, first: int, last: int) -> Iterator[Iterator[tuple[Pass, ...]]]:
    """The passes of steps first … last − 1 in order, drawn by one thread a few steps ahead of their use."""
    with ThreadPoolExecutor(1, thread_name_prefix="draws") as pool:

        def steps() -> Iterator[tuple[Pass, ...]]:
            waiting: list[Future[tuple[Pass, ...]]] = []
            for step in range(first, last):
                waiting.append(pool.submit(draw, step))
                if len(waiting) > PREFETCH:
                    yield waiting.pop(0).result()
            for future in waiting:
                yield future.result()

        try:
            yield steps()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
