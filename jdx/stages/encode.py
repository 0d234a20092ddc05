"""Stage 1: VAE moments of the training views, once per style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from jdx.backends.base import CropSpec, EncodeJob
from jdx.digests import file_digest
from jdx.stages.bench import Bench, Publish, make

VERSION = 1


def crop_of(bench: Bench) -> CropSpec:
    """Training views as the config asks for them; settings that change nothing are put to one value."""
    train = bench.config.train
    crop = train.crop
    one_view = not crop.random and crop.flip == 0.0
    return CropSpec(
        resolution=train.resolution,
        scale=crop.scale,
        random=crop.random,
        variants=1 if one_view else crop.variants,
        flip=crop.flip,
        seed=0 if one_view else train.seed,
    )


def encode(bench: Bench, pictures: Mapping[str, Sequence[Path]], crop: CropSpec) -> dict[str, Path]:
    """{style: folder with moments.safetensors} for {style: pictures}."""
    contents = {
        style: {
            "style": style,
            "crop": asdict(crop),
            "pictures": [[path.stem, file_digest(path)] for path in paths],
        }
        for style, paths in pictures.items()
    }

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        job = EncodeJob(bench.model, crop, {style: tuple(map(str, pictures[style])) for style in styles})
        bench.backend.encode(job, work, bench.progress, publish)

    return make(bench, "encode", VERSION, contents, build)
