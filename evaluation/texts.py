"""Text vectors of a judge set, each text encoded once."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation import clip_iqa, clip_r
from evaluation.cache import FeatureCache, feature_key
from evaluation.errors import ScoreError
from evaluation.eyes import TextReader
from evaluation.jury import Judges


class TextFeatures:
    """Text vectors, each text once: from memory, from the cache, or from the network."""

    def __init__(self, judges: Judges, cache: FeatureCache) -> None:
        self._judges, self._cache = judges, cache
        self._nouns = judges.nouns
        self._known: dict[str, Tensor] = {}
        self._pair: Tensor | None = None

    @property
    def pair(self) -> Tensor:
        """CLIP-IQA's two texts, (2, d)."""
        if self._pair is None:
            self._pair = self._encode(self._judges.clip_iqa_texts, clip_iqa.PROMPTS)
        return self._pair

    def candidates(self, prompt: str) -> list[str]:
        """The nouns, and the prompt."""
        return clip_r.candidates(self._nouns, prompt)

    def vectors(self, names: Sequence[str]) -> Tensor:
        """(T, d) of some candidates, unit length."""
        if not self._known:
            self._learn(self._nouns)
        self._learn([name for name in names if name not in self._known])
        return torch.stack([self._known[name] for name in names])

    def _learn(self, names: Sequence[str]) -> None:
        if names:
            vectors = F.normalize(self._encode(self._judges.clip_r_texts, names), dim=1)
            self._known.update(zip(names, vectors, strict=True))

    def _encode(self, reader: TextReader, texts: Sequence[str]) -> Tensor:
        key = feature_key("texts", "1", reader.digest, *texts)
        cached = self._cache.get(key)
        if cached is not None:
            return cached["rows"]
        rows: Tensor = reader.encode(texts)
        if not torch.isfinite(rows).all():
            raise ScoreError(f"the text network of {self._judges.name!r} gives NaN; look at its weights")
        self._cache.put(key, {"rows": rows})
        return rows
