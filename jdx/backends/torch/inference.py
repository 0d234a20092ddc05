"""The UNet's pass in drawing: compiled for one number of rows, to which smaller batches are filled up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jdx.backends.base import CompileSetting
from jdx.backends.torch import compile as compilation
from jdx.backends.torch.compile import Mode
from jdx.backends.torch.models import Models

OVERHEAD = 4
"""What a pass costs beside its rows, in rows: measured on an H200, 51 ms for 25 rows and 94 ms for 50."""
FILLED = 0.75
"""Share of a compiled pass's rows below which a batch is done first without compilation: 394 against 533 samples/s."""


@dataclass
class Denoiser:
    """One kind of a job's passes. Call it with latents (N, C, h, w), a time step () and text states (N, tokens, width).

    rows: N of compiled passes. failed: the compiler did; passes run plain then, filled up as before, since whoever set
    attention processors counts on it.
    """

    models: Models
    mode: Mode = "off"
    rows: int = 0
    failed: bool = False

    def most(self, otherwise: int) -> int:
        """Samples to give to a pass: all that a compiled one takes, or `otherwise`."""
        return otherwise if self.mode == "off" else self.rows

    def filled(self, count: int) -> int:
        """Rows of the pass of so many samples, as attention processors meet them."""
        compiled = self.mode != "off" and FILLED * self.rows <= count <= self.rows
        return self.rows if compiled else count

    def __call__(self, x: Tensor, t: Tensor, states: Tensor, *, plain: bool = False) -> Tensor:
        """The network's answer (N, C, h, w) in its own precision.

        t is on the device, or the pass would wait for it. plain: without compilation, for passes of a kind that comes
        too rarely. Attention processors meet `filled(N)` rows, the last sample's again and again.
        """
        x, states = x.to(self.models.dtype), states.to(self.models.dtype)
        count, rows = len(x), self.filled(len(x))
        if self.mode == "off" or rows != self.rows or plain:
            return compilation.plain(self.models.unet, x, t, states)
        return self._filled_pass(_fill(x, rows), t, _fill(states, rows))[:count]

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


def denoiser(models: Models, setting: CompileSetting, rows: int) -> Denoiser:
    """The UNet's passes of one kind."""
    return Denoiser(models, compilation.choose(setting, models.device), rows)


def even_rows(needs: Sequence[int], most: int) -> int:
    """The number of rows, at most `most`, with which batches of these sizes cost least when all passes are alike."""
    sizes = range(1, max(1, min(most, max(needs, default=1))) + 1)
    return min(reversed(sizes), key=lambda size: sum(-(-need // size) for need in needs) * (size + OVERHEAD))
