"""The references of a style, seen once: vectors, histograms and mean features, or all from the cache."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.cache import FeatureCache, feature_key
from evaluation.errors import ScoreError
from evaluation.eyes import Eye, Glance
from evaluation.histogram import Histogram, Variant, colour_histograms, mean_histograms
from evaluation.jury import Judges
from evaluation.lpips import LpipsTarget, TargetBuilder
from evaluation.pictures import Picture, chunks, decodable

# Part of the cache keys of what is computed here: raise it when the arithmetic changes.
VERSION = "1"


@dataclass
class StyleTarget:
    """What the generated pictures of a style are compared with: DINO (M, d), FID (M, k), and means."""

    dino: Tensor
    fid: Tensor
    lpips: LpipsTarget
    histograms: tuple[Histogram, Histogram]


class ReferenceReader:
    """Makes `StyleTarget`s; small features are cached per picture, LPIPS' mean features per set."""

    def __init__(self, judges: Judges, variant: Variant, cache: FeatureCache, batch_size: int) -> None:
        self.judges, self.variant, self.cache, self.batch_size = judges, variant, cache, batch_size
        heads = [str(head.tolist()) for head in judges.heads]
        self._lpips_parts = ("lpips", VERSION, judges.lpips.digest, *heads)
        self._last: tuple[str, StyleTarget] | None = None  # candidates of one style follow each other

    def read(self, references: Sequence[Picture], pool: Executor) -> StyleTarget:
        """The target of some references, whatever their order.

        Raises:
            PictureError: one of them cannot be read.
            ScoreError: a network gives NaN for one of them; it is not cached.
            ValueError: their sizes differ and LPIPS' trunk does not resize.
        """
        pictures = _ordered(references, pool)
        lpips_key = self._lpips_key(pictures)
        if self._last is not None and self._last[0] == lpips_key:
            return self._last[1]
        lpips = _target(self.cache.get(lpips_key))
        builder = TargetBuilder(self.judges.heads) if lpips is None else None
        parts = [self._batch(chunk, builder, pool) for chunk in chunks(pictures, self.batch_size)]
        if builder is not None:
            lpips = builder.target()
            self.cache.put(lpips_key, _tensors(lpips))
        assert lpips is not None
        target = StyleTarget(
            dino=torch.cat([dino for dino, _, _ in parts]),
            fid=torch.cat([fid for _, fid, _ in parts]),
            lpips=lpips,
            histograms=mean_histograms([pair for _, _, pairs in parts for pair in pairs]),
        )
        self._last = lpips_key, target
        return target

    def check(self, references: Sequence[Picture], pool: Executor) -> tuple[list[Picture], list[str]]:
        """Those references that decode, and what is wrong with the others; a cached set has been checked."""
        if self.cache.get(self._lpips_key(_ordered(references, pool))) is not None:
            return list(references), []
        return decodable(references, pool)

    def _lpips_key(self, pictures: Sequence[Picture]) -> str:
        return feature_key(*self._lpips_parts, *(picture.digest for picture in pictures))

    def _batch(
        self, chunk: Sequence[Picture], builder: TargetBuilder | None, pool: Executor
    ) -> tuple[Tensor, Tensor, list[tuple[Histogram, Histogram]]]:
        glance = Glance(chunk, pool)
        judges = self.judges
        if builder is not None:
            for _, stages in glance.of(judges.lpips):
                builder.add(stages)
        dino = self._vectors(glance, "dino", judges.dino, lambda seen: seen[0].float())
        fid = self._vectors(glance, "fid", judges.fid, judges.fid_vectors, str(judges.fid_stage))
        return dino, fid, list(pool.map(self._histograms, chunk))

    def _vectors(
        self, glance: Glance, role: str, eye: Eye, reduce: Callable[[list[Tensor]], Tensor], stage: str = ""
    ) -> Tensor:
        """Rows of one role: from the cache, and one look at those pictures that it lacks."""
        keys = [feature_key(role + stage, VERSION, eye.digest, picture.digest) for picture in glance.pictures]
        found = [self.cache.get(key) for key in keys]
        if any(entry is None for entry in found):
            rows = glance.rows(eye, reduce)
            _check_finite(role, glance.pictures, rows)
            for key, entry, row in zip(keys, found, rows, strict=True):
                if entry is None:
                    self.cache.put(key, {"row": row})
            return rows
        return torch.stack([entry["row"] for entry in found if entry is not None])

    def _histograms(self, picture: Picture) -> tuple[Histogram, Histogram]:
        key = feature_key("histogram", VERSION, self.variant, picture.digest)
        cached = self.cache.get(key)
        if cached is not None:
            return cached["rgb"].numpy(), cached["hsv"].numpy()
        rgb, hsv = colour_histograms(picture.pixels, self.variant)
        self.cache.put(key, {"rgb": torch.from_numpy(rgb), "hsv": torch.from_numpy(hsv)})
        return np.asarray(rgb), np.asarray(hsv)


def _check_finite(role: str, pictures: Sequence[Picture], rows: Tensor) -> None:
    bad = [picture for picture, row in zip(pictures, rows, strict=True) if not torch.isfinite(row).all()]
    if bad:
        names = ", ".join(str(p.source) if isinstance(p.source, Path) else f"number {p.name}" for p in bad)
        raise ScoreError(f"reference pictures: {role} gives NaN for {names}; look at the judges' weights")


def _ordered(references: Sequence[Picture], pool: Executor) -> list[Picture]:
    """In the order of their content, so that a set has one name and one rounding."""
    digests = list(pool.map(lambda picture: picture.digest, references))
    return [references[i] for i in sorted(range(len(digests)), key=digests.__getitem__)]


def _tensors(target: LpipsTarget) -> dict[str, Tensor]:
    features = {f"features{i}": x for i, x in enumerate(target.features)}
    return {**features, **{f"energy{i}": e for i, e in enumerate(target.energy)}}


def _target(tensors: dict[str, Tensor] | None) -> LpipsTarget | None:
    if tensors is None:
        return None
    stages = range(len(tensors) // 2)
    return LpipsTarget([tensors[f"features{i}"] for i in stages], [tensors[f"energy{i}"] for i in stages])
