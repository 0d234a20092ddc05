"""Runs drawn by the sample world's renderer: sound pictures, and pictures with one known fault each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.mini.world import HELD_OUT, PLAIN, Style, paint
from jdx.backends.views import turned

REFERENCES = ("Bear", "Cherry", "Corn", "Duck", "Fox", "Shirt", "Swan", "Tomato")
SOUND = ("Burger", "Giraffe", "Guitar", "Leaf", "Lighthouse", "Rose", "Train", "Umbrella")
STRAIGHT = ("Laptop", "Suitcase", "Chair", "Table", "Television", "Castle", "Church", "Fence")


def drawn(obj: str, style: str | Style = "chalk", seed: int = 0) -> Image.Image:
    """An object in a style; another seed draws it anew."""
    chosen = HELD_OUT[style] if isinstance(style, str) else style
    return Image.fromarray(paint(obj, chosen, np.random.default_rng([seed, len(obj), ord(obj[0])])))


def references(objects: Sequence[str] = REFERENCES, style: str = "chalk") -> dict[str, Image.Image]:
    """References by object word."""
    return {obj.lower(): drawn(obj, style, seed=1) for obj in objects}


def lighter(picture: Image.Image) -> Image.Image:
    """Every level raised by 70."""
    return Image.fromarray(np.clip(np.asarray(picture).astype(int) + 70, 0, 255).astype(np.uint8))


def noisy(picture: Image.Image) -> Image.Image:
    """As an autoencoder gives a picture back: the same with small errors."""
    noise = np.random.default_rng(0).normal(0, 3, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def framed(picture: Image.Image, width: int = 8) -> Image.Image:
    """With a white border on all sides."""
    page = Image.new("RGB", picture.size, "white")
    page.paste(picture.resize((picture.width - 2 * width, picture.height - 2 * width)), (width, width))
    return page


def faulty() -> dict[str, Image.Image]:
    """{prompt: picture}; FAULTS says what is wrong with each."""
    bear, swan = references()["bear"], references()["swan"]
    return {
        "Tower": drawn("Tower", PLAIN),
        "Cat": drawn("Bicycle"),
        "Key": lighter(drawn("Key")),
        "Boat": noisy(bear),
        "Lamp": noisy(swan).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "Cactus": drawn("Cactus").rotate(20, Image.Resampling.BILINEAR, fillcolor="magenta"),
        "Camera": framed(drawn("Camera")),
    }


FAULTS = {
    "Tower": "under-stylised",
    "Cat": "wrong object",
    "Key": "colour drift",
    "Boat": "copy",
    "Lamp": "copy",
    "Cactus": "leak",
    "Camera": "leak",
}


def tilted(obj: str = "Camera", degrees: float = 25) -> Image.Image:
    """A straight-edged picture as training with rotation sees it: turned, the corners filled by reflection."""
    return turned(drawn(obj, "papercut"), degrees)


Styles = Mapping[str, tuple[Mapping[str, Image.Image], Mapping[str, Image.Image]]]


def write_run(root: Path, styles: Styles, judges: str = "mini") -> Path:
    """A run folder of {style: (references, pictures)} that was never scored, with what diagnosing asks for."""
    places: dict[str, list[str]] = {}
    for style, (theirs, ours) in styles.items():
        for folder, pictures in ((root / "set" / style, theirs), (root / "images" / style, ours)):
            folder.mkdir(parents=True)
            for name, picture in pictures.items():
                picture.save(folder / f"{name}.png")
        places[style] = [str(path) for path in sorted((root / "set" / style).iterdir())]
    (root / "references.json").write_text(json.dumps(places))
    (root / "metrics.json").write_text(json.dumps({"final_score": None, "judges": {"name": judges}}))
    return root
