"""Textual inversion (Gal et al. 2022): words that the tokenizer does not have, whose embeddings are learnt.

Every style of a pack has a word of its own, `<style_00>`, of one or more vectors. The tokenizer's copy knows all
of them, so that an id beyond the vocabulary says which style's which vector it is; the text encoder's embedding
layer looks those ids up in the part's (K, P) buffer and all others in the frozen table. So only these vectors get
gradients, each from its own style's captions, whoever shares the pass.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from jdx.backends import word_checks
from jdx.backends.base import TokensSpec
from jdx.backends.torch.models import Models
from jdx.backends.torch.parts import Part, Window
from jdx.backends.torch.token_files import TokenVectors, names_of
from jdx.backends.word_files import first_cuts, spelt_out
from jdx.errors import ConfigError, Fault

log = logging.getLogger(__name__)


class Vocabulary:
    """A tokenizer that knows further words; a word of several vectors stands for all of their names in a row.

    words: the names of each word's vectors, `names_of`. The tokenizer itself is not changed.
    Raises: ConfigError when it already has one of the names.
    """

    def __init__(self, tokenizer: Any, words: Sequence[Sequence[str]]):
        if faults := name_faults(tokenizer, words):
            raise ConfigError(faults, "learnt words")
        self.tokenizer, self.words = copy.deepcopy(tokenizer), words
        self.tokenizer.add_tokens([name for names in words for name in names])

    def __call__(self, text: str | list[str], **settings: Any) -> Any:
        """As the tokenizer's own call."""
        texts = (
            spelt_out(text, self.words)
            if isinstance(text, str)
            else [spelt_out(one, self.words) for one in text]
        )
        return self.tokenizer(texts, **settings)

    def ids(self) -> list[list[int]]:
        """Token ids of each word's vectors."""
        return [list(self.tokenizer.convert_tokens_to_ids(list(names))) for names in self.words]

    @property
    def model_max_length(self) -> int:
        """The tokenizer's."""
        return int(self.tokenizer.model_max_length)

    def decode(self, ids: Any) -> str:
        """The tokenizer's."""
        return str(self.tokenizer.decode(ids))


class ExtendedEmbedding(nn.Module):
    """An embedding layer with further rows: ids from `first` on are rows of `table`, in the order of `rows`."""

    table: Tensor  # (rows there are, width), in the base's precision
    rows: Tensor  # (ids,) int64: the row of `table` for id first + i

    def __init__(self, base: nn.Embedding, first: int, rows: Tensor):
        super().__init__()
        self.base, self.first, self.rows = base, first, rows

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (...,) int64; returns (..., width)."""
        new = ids >= self.first
        known: Tensor = self.base(torch.where(new, 0, ids))
        learnt = self.table[self.rows[torch.where(new, ids - self.first, 0)]]
        return torch.where(new[..., None], learnt, known)


class Words:
    """Words for a model: its tokenizer and embedding layer are exchanged from `put` until `remove`."""

    def __init__(self, models: Models, words: Sequence[Sequence[str]], places: Sequence[Sequence[int]]):
        """places: the row in the table of each word's vectors."""
        vocabulary = Vocabulary(models.tokenizer, words)
        row = {
            i: r
            for ids, rows in zip(vocabulary.ids(), places, strict=True)
            for i, r in zip(ids, rows, strict=True)
        }
        first = min(row)
        rows = torch.tensor([row[i] for i in range(first, first + len(row))], device=models.device)
        self.models, self.tokenizer = models, models.tokenizer
        self.base: nn.Embedding = models.text_encoder.get_input_embeddings()
        self.layer = ExtendedEmbedding(self.base, first, rows)
        self.vocabulary = vocabulary

    def put(self) -> None:
        """Exchange them; the layer's table must be there."""
        self.models.tokenizer = self.vocabulary
        self.models.text_encoder.set_input_embeddings(self.layer)

    def remove(self) -> None:
        """Put the tokenizer and the embedding layer back."""
        self.models.tokenizer = self.tokenizer
        self.models.text_encoder.set_input_embeddings(self.base)


@contextmanager
def spoken(models: Models, word: TokenVectors | None) -> Iterator[None]:
    """Inside the block prompts may say the learnt word; after it the model is what it was."""
    if word is None:
        yield
        return
    words = Words(models, [word.names], [range(len(word.vectors))])
    words.layer.table = word.vectors.to(models.device, words.base.weight.dtype)
    words.put()
    try:
        yield
    finally:
        words.remove()


class TokensPart(Part):
    """The words of K styles; `flat` is (K, most vectors · width), zero beyond a style's own vectors."""

    changes_text = True

    def __init__(self, models: Models, specs: Sequence[TokensSpec | None], window: Window = Window()):  # noqa: B008
        self.specs, self.window = tuple(specs), window
        self.rates = [spec.lr if spec else 0.0 for spec in specs]
        self.decays = [spec.weight_decay if spec else 0.0 for spec in specs]
        self.most = max(spec.vectors for spec in specs if spec)
        weight: Tensor = models.text_encoder.get_input_embeddings().weight
        self.width_of_word, self.base_dtype = int(weight.shape[1]), weight.dtype
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        _tell_pieces(models.tokenizer, specs)
        vectors = [self._first(models, weight, spec).to("cpu", dtype).reshape(-1) for spec in specs]
        rows = [self.row(k, vector) for k, vector in enumerate(vectors)]
        self.flat = torch.stack(rows).to(models.device).requires_grad_()
        own = [(k, spec) for k, spec in enumerate(specs) if spec]
        self.words = Words(
            models,
            [names_of(spec.token, spec.vectors) for _, spec in own],
            [range(k * self.most, k * self.most + spec.vectors) for k, spec in own],
        )
        with torch.no_grad():
            self.bind()
        self.words.put()  # last: whatever fails above leaves the model alone

    @staticmethod
    def _first(models: Models, weight: Tensor, spec: TokensSpec | None) -> Tensor:
        return weight.new_zeros(0) if spec is None else first_vectors(models.tokenizer, weight, spec)

    def trains(self, k: int) -> bool:
        """Whether style k has a word."""
        return self.specs[k] is not None

    def bind(self) -> None:
        """Give the embedding layer its further rows."""
        self.words.layer.table = self.flat.to(self.base_dtype).view(-1, self.width_of_word)

    def vector(self, k: int, row: Tensor) -> Tensor:
        """Style k's vectors one after the other."""
        return row[: self._size(k)]

    def row(self, k: int, vector: Tensor) -> Tensor:
        """The vectors of style k, with zeros up to the longest word's length."""
        if vector.numel() != self._size(k):
            raise ValueError(f"{vector.numel()} entries, this word has {self._size(k)}")
        row = vector.new_zeros(self.most * self.width_of_word)
        row[: vector.numel()] = vector
        return row

    def layout(self, k: int) -> str:
        """A digest of the word's name and size."""
        spec = self.specs[k]
        text = f"{spec.token if spec else ''} {self._size(k)} {self.width_of_word}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def result(self, k: int, row: Tensor) -> TokenVectors:
        """The word of style k."""
        spec = self.specs[k]
        assert spec is not None, "asked for the word of a style that has none"
        return TokenVectors(spec.token, self.vector(k, row).reshape(spec.vectors, self.width_of_word).clone())

    def remove(self) -> None:
        """Put the tokenizer and the embedding layer back."""
        self.words.remove()

    def held(self) -> list[Tensor]:
        """The buffer, and the layer's rows in the base's precision."""
        return [self.flat, self.words.layer.table]

    def _size(self, k: int) -> int:
        spec = self.specs[k]
        return spec.vectors * self.width_of_word if spec else 0


def first_vectors(tokenizer: Any, weight: Tensor, spec: TokensSpec) -> Tensor:
    """What a word's vectors begin as, (vectors, width): the embeddings of its `init` word, see `first_cuts`."""
    pieces = pieces_of(tokenizer, spec.init)
    wide = torch.promote_types(weight.dtype, torch.float32)
    cuts = first_cuts(len(pieces), spec.vectors)
    return torch.stack([weight[pieces[a:b]].to(wide).mean(0) for a, b in cuts]).detach()


def _tell_pieces(tokenizer: Any, specs: Sequence[TokensSpec | None]) -> None:
    """Say which init words are no single token."""
    for init in dict.fromkeys(spec.init for spec in specs if spec):
        if len(pieces := pieces_of(tokenizer, init)) > 1:
            names = " ".join(tokenizer.convert_ids_to_tokens(pieces))
            log.info("the init word %r is %d tokens, spread over the vectors: %s", init, len(pieces), names)


def pieces_of(tokenizer: Any, word: str) -> list[int]:
    """Token ids of a word without start and end marks."""
    return list(tokenizer(word, add_special_tokens=False).input_ids)


def name_faults(tokenizer: Any, words: Iterable[Sequence[str]]) -> list[Fault]:
    """See `word_checks.name_faults`."""
    return word_checks.name_faults(tokenizer.get_vocab(), words)


def token_faults(tokenizer: Any, specs: Sequence[TokensSpec]) -> list[Fault]:
    """Faults of the words that are to be learnt, see `word_checks.word_faults`."""
    known, room = tokenizer.get_vocab(), tokenizer.model_max_length - 2  # start and end marks
    pieces = {spec.init: pieces_of(tokenizer, spec.init) for spec in specs}
    return word_checks.word_faults(known, pieces, tokenizer.unk_token_id, room, specs)
