"""Whose adapters a stack holds, and what of a stack is the same in every framework: names, first numbers, digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from jdx import draws
from jdx.backends.base import LoraSpec


@dataclass(frozen=True)
class Owner:
    """Whose adapter a row of the stack is (style and seed name the draws of the first A), and how it learns."""

    style: str
    seed: int
    spec: LoraSpec
    lr: float = 0.0
    weight_decay: float = 0.0


def targeted(path: str, targets: Iterable[str]) -> bool:
    """Whether a module's path is one of the targets or ends in one, at a dot."""
    return any(path == target or path.endswith("." + target) for target in targets)


def drawn_a(owner: Owner, path: str, rank: int, d_in: int) -> draws.Float32:
    """Standard normal numbers (rank, d_in), of which the first A of a layer is made.

    Rows first, so that a smaller rank's numbers are the first rows of a larger one's.
    """
    return draws.normal((rank, d_in), owner.seed, owner.style, path, "lora")


def layout_of(layers: Iterable[tuple[str, int, int, int, bool]]) -> str:
    """A digest of an adapter's layers, to tell whether a saved vector fits.

    layers: (path, d_in, rank, d_out, whether with DoRA's lengths); those of rank 0 are none.
    """
    text = "\n".join(
        f"{path} {d_in} {rank} {d_out}" + " dora" * dora for path, d_in, rank, d_out, dora in layers if rank
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def salt_of(path: str) -> int:
    """What keeps the dropout of one layer apart from another's, 32 bits."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "little")
