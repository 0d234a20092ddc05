"""Learnt words on disk: `learned_embeds.safetensors`, as diffusers' textual inversion writes and reads it.

One tensor (vectors, width), float32, by the name of the word. `pipe.load_textual_inversion` gives the first
vector the word's name and the others `NAME_1`, `NAME_2`, ..., and puts all of them where a prompt says the name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from jdx._version import __version__
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes

FILE = "learned_embeds.safetensors"
HEADER = "jdx"


@dataclass(frozen=True)
class StoredWord:
    """A learnt word: its name in prompts, and its embeddings (vectors, width)."""

    token: str
    vectors: npt.NDArray[np.float32]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each vector, see `names_of`."""
        return names_of(self.token, len(self.vectors))


def names_of(token: str, count: int) -> tuple[str, ...]:
    """A word's vectors by diffusers' names: TOKEN, TOKEN_1, TOKEN_2, ..."""
    return (token, *(f"{token}_{i}" for i in range(1, count)))


def spelt_out(text: str, words: Sequence[Sequence[str]]) -> str:
    """The text with all names of each word that it says, as diffusers' TextualInversionLoaderMixin."""
    for names in words:
        if len(names) > 1:
            text = text.replace(names[0], " ".join(names))
    return text


def first_cuts(pieces: int, vectors: int) -> list[tuple[int, int]]:
    """Which pieces of a word's `init` each vector begins as the mean of: [first, last) of each.

    A word of one token gives all vectors the same start, as in diffusers' script. One of p tokens (which that
    script refuses) is spread over n vectors in order: vector i is the mean of tokens ⌊i·p/n⌋ up to ⌊(i+1)·p/n⌋,
    at least one.
    """
    p, n = pieces, vectors
    return [(i * p // n, max(i * p // n + 1, (i + 1) * p // n)) for i in range(n)]


def write_word(folder: Path, word: StoredWord, metadata: Mapping[str, Any]) -> Path:
    """Write `folder`/learned_embeds.safetensors and return its path; metadata: JSON values for the header.

    Raises: ValueError when a number is not finite.
    """
    if not np.isfinite(word.vectors).all():
        raise ValueError(f"{word.token} not saved: its vectors are not finite")
    # One entry: safetensors writes several in random order, and equal words should be equal files.
    about = json.dumps({"version": __version__, **metadata}, sort_keys=True, ensure_ascii=False)
    tensors = {word.token: np.ascontiguousarray(word.vectors)}
    write_bytes(folder / FILE, safetensors.numpy.save(tensors, metadata={HEADER: about}))
    return folder / FILE


def read_word(file: Path, width: int, load: Callable[[str], Mapping[str, Any]] | None = None) -> StoredWord:
    """The word in a file, for a text encoder of this width.

    load: gives a safetensors file's tensors as float32 arrays, where NumPy's own reader knows too few types.
    Raises: ConfigError when the file holds something else than one word of finite vectors of that width.
    """
    try:
        tensors = (load or safetensors.numpy.load_file)(str(file))
    except (OSError, SafetensorError) as error:
        raise _faulty(file, "cannot be read", f"a safetensors file ({error})") from error
    if len(tensors) != 1:
        raise _faulty(
            file, f"holds {len(tensors)} tensors", "one word: a tensor (vectors, width) by its name"
        )
    ((token, vectors),) = tensors.items()
    if vectors.ndim == 1:
        vectors = vectors[None]  # older files of a single vector
    shape = tuple(vectors.shape)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != width:
        raise _faulty(
            file, f"{token}: {shape}", f"(vectors, {width}): this base model's words are {width} wide"
        )
    if not np.isfinite(vectors).all():
        raise _faulty(file, token, "vectors must be finite; the training that made them diverged")
    return StoredWord(token, np.asarray(vectors, np.float32))


def _faulty(file: Path, value: str, allowed: str) -> ConfigError:
    return ConfigError([Fault("tokens", value, allowed)], f"learnt word {file}")
