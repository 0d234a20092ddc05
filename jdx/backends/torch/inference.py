"""The UNet's pass in drawing: recorded as a CUDA graph, or compiled for one number of rows and filled up to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jdx.backends.base import CompileSetting
from jdx.backends.torch import compile as compilation
from jdx.backends.torch.compile import Mode
from jdx.backends.torch.models import Models
from jdx.backends.torch.recorded_pass import RecordedPasses

OVERHEAD = 4
"""What a pass costs beside its rows, in rows: measured on an H200, 51 ms for 25 rows and 94 ms for 50."""
FILLED = 0.75
"""Share of a compiled pass's rows below which a batch is done first without compilation: 394 against 533 samples/s."""
GRAPHS_ON = "cuda"
"""Devices on which passes can be recorded."""


@dataclass(frozen=True)
class Aside:
    """What attention processors read and leave in a pass, beside its arguments.

    put(given): lay these tensors where the processors find them. take(): collect what they met.
    """

    given: Sequence[Tensor] = ()
    put: Callable[[Sequence[Tensor]], None] = lambda given: None
    take: Callable[[], Sequence[Tensor]] = tuple


@dataclass
class Denoiser:
    """One kind of a job's passes. Call it with latents (N, C, h, w), a time step () and text states (N, tokens, width).

    rows: N of compiled passes. failed: the compiler did; passes run plain then, filled up as before, since whoever set
    attention processors counts on it. graphs: whether plain passes may be recorded; `forget` them at the end.
    """

    models: Models
    mode: Mode = "off"
    rows: int = 0
    failed: bool = False
    graphs: bool = False
    _recorded: RecordedPasses = field(init=False)

    def __post_init__(self) -> None:
        device = self.models.device
        able = self.graphs and self.mode == "off" and device.type == GRAPHS_ON
        self._recorded = RecordedPasses(device, able=able)

    @property
    def lasting(self) -> bool:
        """Whether all passes of a kind are one and the same, and so must read and leave the same things."""
        return self.mode != "off" or self._recorded.lasting

    def forget(self) -> None:
        """Give the recorded passes' memory back; later ones run as they are."""
        self._recorded.forget()

    def most(self, otherwise: int) -> int:
        """Samples to give to a pass: all that a compiled one takes, or `otherwise`."""
        return otherwise if self.mode == "off" else self.rows

    def filled(self, count: int) -> int:
        """Rows of the pass of so many samples, as attention processors meet them."""
        compiled = self.mode != "off" and FILLED * self.rows <= count <= self.rows
        return self.rows if compiled else count

    def __call__(self, x: Tensor, t: Tensor, states: Tensor, *, plain: bool = False) -> Tensor:
        """The network's answer (N, C, h, w) in its own precision.

        t is on the device, or the pass would wait for it. plain: neither compiled nor recorded, for passes of a kind
        that comes too rarely. Attention processors meet `filled(N)` rows, the last sample's again and again.
        """
        if plain:
            return self._plain(x.to(self.models.dtype), t, states.to(self.models.dtype))
        return self.beside(x, t, states, Aside())[0]

    def beside(self, x: Tensor, t: Tensor, states: Tensor, aside: Aside) -> tuple[Tensor, Sequence[Tensor]]:
        """The network's answer, and what processors left: valid until the next pass, and of `filled(N)` rows."""
        x, states = x.to(self.models.dtype), states.to(self.models.dtype)
        count, rows = len(x), self.filled(len(x))
        if self.mode == "off" or rows != self.rows:
            return self._recordable(x, t, states, aside)
        aside.put(aside.given)
        answer = self._filled_pass(_fill(x, rows), t, _fill(states, rows))[:count]
        return answer, aside.take()

    def _recordable(
        self, x: Tensor, t: Tensor, states: Tensor, aside: Aside
    ) -> tuple[Tensor, Sequence[Tensor]]:
        def work(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
            x, t, states, *given = inputs
            aside.put(given)
            return [self._plain(x, t, states), *aside.take()]

        answer, *left = self._recorded(work, [x, t, states, *aside.given])
        return answer.clone(), left

    def _plain(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        return compilation.plain(self.models.unet, x, t, states)

    def _filled_pass(self, x: Tensor, t: Tensor, states: Tensor) -> Tensor:
        try:
            with compilation.opened(self.models.unet, "off" if self.failed else self.mode) as run:
                answer = run(x, t, states)
        except torch.cuda.OutOfMemoryError:
            self.mode = "off"  # smaller batches follow, and each size would be compiled anew
            raise
        except Exception as error:
            if self.failed or not compilation.is_failure(error):
                raise
            compilation.give_up(error)
            self.failed = True
            return self._filled_pass(x, t, states)
        return answer


def _fill(x: Tensor, rows: int) -> Tensor:
    """So many rows, contiguous: compiled code knows strides, and neither a VAE's latents nor `cat` promise any."""
    more = rows - len(x)
    return (torch.cat([x, x[-1:].expand(more, *x.shape[1:])]) if more else x).contiguous()


def denoiser(models: Models, setting: CompileSetting, rows: int, *, graphs: bool = False) -> Denoiser:
    """The UNet's passes of one kind."""
    return Denoiser(models, compilation.choose(setting, models.device), rows, graphs=graphs)


def even_rows(needs: Sequence[int], most: int) -> int:
    """The number of rows, at most `most`, with which batches of these sizes cost least when all passes are alike."""
    sizes = range(1, max(1, min(most, max(needs, default=1))) + 1)
    return min(reversed(sizes), key=lambda size: sum(-(-need // size) for need in needs) * (size + OVERHEAD))
