"""Random draws from counters: every number is a function of its name, never of what was drawn before.

A draw is named by (seed, style, step, purpose, ...). The name is hashed to the 256 bits of key and counter of a
Philox generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so a style's noise does not
depend on which styles share its batch, on the batch size, on a restart, or on the backend (NumPy only).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Name = str | int
Float32 = npt.NDArray[np.float32]


def generator(*name: Name) -> np.random.Generator:
    """A generator that belongs to `name` alone. `1` and `"1"` are different names; so are (12, 3) and (1, 23)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in name)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=words[:2], counter=[*words[2:].tolist(), 0, 0]))


def normal(shape: tuple[int, ...], *name: Name) -> Float32:
    """Standard normal float32 numbers of the given shape that belong to `name`."""
    return generator(*name).standard_normal(shape, dtype=np.float32)


def integer(high: int, *name: Name) -> int:
    """A uniform integer in [0, high) that belongs to `name`."""
    return int(generator(*name).integers(high))


def uniform(*name: Name) -> float:
    """A uniform number in [0, 1) that belongs to `name`."""
    return float(generator(*name).random())


def visit(size: int, position: int, *name: Name) -> int:
    """Item at `position` of an endless walk over `size` items, reshuffled at each epoch."""
    epoch, place = divmod(position, size)
    return int(generator(*name, "epoch", epoch).permutation(size)[place])


def picture_seed(seed: int, style: str, prompt: str, candidate: int = 0) -> int:
    """The 32-bit seed of a picture when `seeds.json` does not name one; candidate 0 is the one drawn without choice."""
    name: tuple[Name, ...] = (seed, "picture", style, prompt)
    return int(generator(*name, *(("candidate", candidate) if candidate else ())).integers(2**32))
