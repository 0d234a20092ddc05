"""Stage 1: VAE moments of the training views, once per style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jdx.backends.base import CropSpec, EncodeJob
from jdx.digests import file_digest
from jdx.stages.bench import Bench, Publish, make

VERSION = 1


def crop_of(bench: Bench) -> CropSpec:
    """Training views as the config asks for them; settings that change nothing are put to one value."""
    train = bench.config.train
    crop = train.crop
    one_view = not crop.random and crop.flip == crop.rotation == 0.0
    return CropSpec(
        resolution=train.resolution,
        scale=crop.scale,
        random=crop.random,
        variants=1 if one_view else crop.variants,
        flip=crop.flip,
        rotation=crop.rotation,
        seed=0 if one_view else train.seed,
    )


def encode(bench: Bench, pictures: Mapping[str, Sequence[Path]], crop: CropSpec) -> dict[str, Path]:
    """{style: folder with moments.safetensors} for {style: pictures}; class pictures come by word, not by style."""
    contents = {style: _content(style, paths, crop) for style, paths in pictures.items()}

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        job = EncodeJob(bench.model, crop, {style: tuple(map(str, pictures[style])) for style in styles})
        bench.backend.encode(job, work, bench.progress, publish)

    return make(bench, "encode", VERSION, contents, build)


def _content(style: str, paths: Sequence[Path], crop: CropSpec) -> dict[str, Any]:
    """What views depend on. Names only name draws: without any, the same pictures are the same moments."""
    drawn = crop.random or crop.flip > 0 or crop.rotation > 0
    names = [style, *(path.stem for path in paths)] if drawn else []
    return {"names": names, "crop": asdict(crop), "pictures": [file_digest(path) for path in paths]}
