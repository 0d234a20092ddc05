"""Learnt words as tensors, see `jdx/backends/word_files.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from jdx.backends.word_files import FILE, HEADER, StoredWord, names_of, read_word, write_word

__all__ = ["FILE", "HEADER", "TokenVectors", "load_tokens", "names_of", "save_tokens"]


@dataclass(frozen=True)
class TokenVectors:
    """A learnt word: its name in prompts, and its embeddings (vectors, width)."""

    token: str
    vectors: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each vector, see `names_of`."""
        return names_of(self.token, len(self.vectors))


def save_tokens(folder: Path, word: TokenVectors, metadata: Mapping[str, Any]) -> Path:
    """Write `folder`/learned_embeds.safetensors and return its path, see `write_word`."""
    return write_word(folder, StoredWord(word.token, word.vectors.detach().float().cpu().numpy()), metadata)


def load_tokens(file: Path, width: int) -> TokenVectors:
    """The word in a file, for a text encoder of this width, see `read_word`."""

    def load(path: str) -> dict[str, Any]:
        return {name: x.float().numpy() for name, x in safetensors.torch.load_file(path).items()}

    word = read_word(file, width, load)
    return TokenVectors(word.token, torch.from_numpy(word.vectors))
