"""How many pictures go into one pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import jittor as jt
from safetensors import safe_open

from jdx.backends.samples import MOMENTS

T = TypeVar("T")

CARD_SHARE = 0.5
"""Of a card's memory: Jittor keeps what it once took, and says nothing of what is free."""
SAMPLE_GIB_AT_512 = 8.0
"""What one training sample of 512 px keeps for its backward pass: the attention's logits are kept whole, in float32."""
CPU_GIB = 4.0


def pictures_at_once(resolution: int, gib_at_512: float) -> int:
    """Pictures in one pass, given the working memory of one at 512 px in GiB; 1 to 32.

    On a CPU a bigger batch wins little, so the batch is what eight pictures of 128 px need.
    """
    area = (resolution / 512) ** 2
    if not jt.flags.use_cuda:
        return max(1, min(8, int(0.5 / area)))
    return max(1, min(32, int(CARD_SHARE * jt.get_mem_info().total_cuda_ram / (gib_at_512 * area * 2**30))))


def in_batches(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Consecutive batches of at most `most` items, as even as can be: 25 by 16 gives 13 and 12."""
    if items:
        size = -(-len(items) // -(-len(items) // most))
        for first in range(0, len(items), size):
            yield items[first : first + size]


def samples_at_once(moments: Iterable[Path]) -> int:
    """Training samples in one pass, at least 1; moments: the folders of encodings, which tell the latents' size."""
    with safe_open(str(next(iter(moments)) / MOMENTS), framework="np") as file:
        side = file.get_slice("mean").get_shape()[-1]
    gib = CARD_SHARE * jt.get_mem_info().total_cuda_ram / 2**30 if jt.flags.use_cuda else CPU_GIB
    return max(1, min(64, int(gib / (SAMPLE_GIB_AT_512 * (side / 64) ** 2))))
