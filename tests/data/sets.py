"""Sets in the challenge layout, built for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

PROMPTS = {"0": "Cat", "1": "Ice cream"}


def make_picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (48, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


def make_style(
    folder: Path,
    pictures: Sequence[str] = ("cat.png", "dog.png"),
    prompts: Mapping[str, object] | None = None,
) -> Path:
    for name in pictures:
        make_picture(folder / "images" / name)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "prompt.json").write_text(json.dumps(PROMPTS if prompts is None else prompts))
    return folder


def make_set(root: Path, ids: Sequence[str] = ("00", "01")) -> Path:
    for style in ids:
        make_style(root / style)
    return root


def noise(size: int, seed: int) -> Image.Image:
    """A picture that no codec can shrink much."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
