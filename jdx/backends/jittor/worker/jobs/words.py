"""Textual inversion (Gal et al. 2022) in Jittor: words whose embeddings are learnt, see jdx/backends/torch/tokens.py.

An id beyond the vocabulary says which style's which vector it is; the text encoder looks those ids up in the part's
(K, P) buffer and all others in the frozen table. So a vector's gradient comes from its own style's captions alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt

from jdx.backends.base import TokensSpec
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.nets.models import Models
from jdx.backends.jittor.worker.nets.tokenizer import ClipTokenizer
from jdx.backends.windows import Window
from jdx.backends.word_checks import name_faults, word_faults
from jdx.backends.word_files import StoredWord, first_cuts, names_of, spelt_out
from jdx.errors import ConfigError, Fault


class Vocabulary(ClipTokenizer):
    """A tokenizer that knows further words; a word of several vectors stands for all of their names in a row.

    words: the names of each word's vectors, `names_of`. Raises: ConfigError when one of the names is there already.
    """

    def __init__(self, base: ClipTokenizer, words: Sequence[Sequence[str]]):
        if faults := name_faults(base.vocabulary, words):
            raise ConfigError(faults, "learnt words")
        super().__init__(base.folder, (*base.added, *(name for names in words for name in names)))
        self.words = words

    def __call__(self, texts: Sequence[str], length: int) -> npt.NDArray[np.int32]:
        """As the tokenizer's own call."""
        return super().__call__([spelt_out(text, self.words) for text in texts], length)


class Words:
    """Words for a model: its tokenizer and its look-up of embeddings are exchanged from `put` until `remove`.

    places: the row in `table` (rows, width) of each word's vectors.
    """

    table: Any

    def __init__(self, models: Models, words: Sequence[Sequence[str]], places: Sequence[Sequence[int]]):
        self.models, self._base = models, models.tokenizer
        self.vocabulary = Vocabulary(models.tokenizer, words)
        ids = [self.vocabulary.id_of(name) for names in words for name in names]
        rows = [row for some in places for row in some]
        self._first = min(ids)
        self._rows = np.array([row for _, row in sorted(zip(ids, rows, strict=True))], np.int32)

    def put(self) -> None:
        """Exchange them; the table must be there."""
        self.models.tokenizer = self.vocabulary
        self.models.text_encoder.look_up = self._look_up

    def remove(self) -> None:
        """Put the tokenizer and the look-up back."""
        self.models.tokenizer = self._base
        self.models.text_encoder.look_up = self.models.text_encoder.embeddings_of

    def _look_up(self, ids: Any) -> Any:
        """Embeddings (n, L, width) of ids (n, L)."""
        new, none = ids >= self._first, jt.zeros_like(ids)
        known = self.models.text_encoder.embeddings_of(jt.ternary(new, none, ids))
        rows = jt.array(self._rows)[jt.ternary(new, ids - self._first, none)]
        chosen = new.reshape(*new.shape, 1).broadcast(known.shape)
        return jt.ternary(chosen, self.table[rows].cast(known.dtype), known)


@contextmanager
def spoken(models: Models, word: StoredWord | None) -> Iterator[None]:
    """Inside the block prompts may say the learnt word; after it the model is what it was."""
    if word is None:
        yield
        return
    words = Words(models, [word.names], [range(len(word.vectors))])
    words.table = jt.array(word.vectors).stop_grad()
    words.put()
    try:
        yield
    finally:
        words.remove()


class TokensPart:
    """The words of K styles; `flat` is (K, most vectors · width), zero beyond a style's own vectors."""

    changes_text = True

    def __init__(self, models: Models, specs: Sequence[TokensSpec | None], window: Window):
        self.specs, self.window = tuple(specs), window
        self.rates = [spec.lr if spec else 0.0 for spec in specs]
        self.decays = [spec.weight_decay if spec else 0.0 for spec in specs]
        self.most = max(spec.vectors for spec in specs if spec)
        self.word_width = models.text_encoder.config.hidden_size
        nothing = np.zeros(0, np.float32)
        vectors = [first_vectors(models, spec).reshape(-1) if spec else nothing for spec in specs]
        self.flat = jt.array(np.stack([self.row(k, vector) for k, vector in enumerate(vectors)]))
        own = [(k, spec) for k, spec in enumerate(specs) if spec]
        self.words = Words(
            models,
            [names_of(spec.token, spec.vectors) for _, spec in own],
            [range(k * self.most, k * self.most + spec.vectors) for k, spec in own],
        )
        with jt.no_grad():
            self.bind()
        self.words.put()  # last: whatever fails above leaves the model alone

    def trains(self, k: int) -> bool:
        """Whether style k has a word."""
        return self.specs[k] is not None

    def bind(self) -> None:
        """Give the look-up its further rows."""
        self.words.table = self.flat.reshape(-1, self.word_width)

    def vector(self, k: int, row: Floats) -> Floats:
        """Style k's vectors one after the other."""
        return row[: self._size(k)]

    def row(self, k: int, vector: Floats) -> Floats:
        """The vectors of style k, with zeros up to the longest word's length. Raises: ValueError on other lengths."""
        if vector.size != self._size(k):
            raise ValueError(f"{vector.size} entries, this word has {self._size(k)}")
        row = np.zeros(self.most * self.word_width, np.float32)
        row[: vector.size] = vector
        return row

    def layout(self, k: int) -> str:
        """A digest of the word's name and size; the torch backend's."""
        spec = self.specs[k]
        text = f"{spec.token if spec else ''} {self._size(k)} {self.word_width}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def result(self, k: int, row: Floats) -> StoredWord:
        """The word of style k."""
        spec = self.specs[k]
        assert spec is not None, "asked for the word of a style that has none"
        return StoredWord(spec.token, self.vector(k, row).reshape(spec.vectors, self.word_width).copy())

    def remove(self) -> None:
        """Put the tokenizer and the look-up back."""
        self.words.remove()

    def _size(self, k: int) -> int:
        spec = self.specs[k]
        return spec.vectors * self.word_width if spec else 0


def first_vectors(models: Models, spec: TokensSpec) -> Floats:
    """What a word's vectors begin as, (vectors, width): the embeddings of its `init` word, see `first_cuts`."""
    pieces = np.array(models.tokenizer.pieces(spec.init), np.int32)
    with jt.no_grad():
        embedded: Floats = models.text_encoder.embeddings_of(jt.array(pieces)).float32().numpy()
    return np.stack([embedded[a:b].mean(0) for a, b in first_cuts(len(pieces), spec.vectors)])


def token_faults(tokenizer: ClipTokenizer, specs: Sequence[TokensSpec]) -> list[Fault]:
    """Faults of the words that are to be learnt, see `word_checks.word_faults`."""
    pieces = {spec.init: tokenizer.pieces(spec.init) for spec in specs}
    unknown, room = tokenizer.id_of(tokenizer.special["unk_token"]), tokenizer.model_max_length - 2
    return word_faults(tokenizer.vocabulary, pieces, unknown, room, specs)
