"""Reference pictures as training views: resized, turned, cut, mirrored; the same for every backend (Pillow only)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open

from data.pictures import load_picture
from jdx import draws
from jdx.backends.base import CropSpec, EncodeJob
from jdx.digests import file_digest
from jdx.errors import Fault

HEADER = "jdx"


def crop_faults(job: EncodeJob, vae_factor: int) -> list[Fault]:
    """Crops that cannot be cut and styles without pictures."""
    crop, faults = job.crop, []
    if crop.resolution % vae_factor or crop.resolution <= 0:
        allowed = f"a positive multiple of {vae_factor}, the VAE's factor"
        faults.append(Fault("crop.resolution", str(crop.resolution), allowed))
    if resized_edge(crop) < crop.resolution:
        faults.append(
            Fault("crop.scale", str(crop.scale), "1 or more: the resized picture must hold the square")
        )
    if crop.variants < 1:
        faults.append(Fault("crop.variants", str(crop.variants), "1 or more"))
    if not 0 <= crop.flip <= 1:
        faults.append(Fault("crop.flip", str(crop.flip), "a probability, 0 to 1"))
    if not 0 <= crop.rotation <= 180:
        faults.append(Fault("crop.rotation", str(crop.rotation), "degrees, 0 to 180"))
    empty = [style for style, pictures in job.pictures.items() if not pictures]
    return faults + [Fault(f"style {style}", "no pictures", "at least one reference") for style in empty]


def resized(picture: Path, crop: CropSpec) -> Image.Image:
    """The picture in a file at the size from which views are cut."""
    return resize_short_edge(load_picture(picture), resized_edge(crop))


def resized_edge(crop: CropSpec) -> int:
    """Short edge after resizing, in pixels: 1.04 · 512 = 532.48 gives 532."""
    return round(crop.scale * crop.resolution)


def resize_short_edge(picture: Image.Image, edge: int) -> Image.Image:
    """Torchvision's Resize(edge) on a PIL picture: antialiased bilinear, the long edge truncated."""
    short = min(picture.size)
    width, height = (edge if extent == short else int(edge * extent / short) for extent in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def view(picture: Image.Image, crop: CropSpec, *name: draws.Name) -> Image.Image:
    """The training view of a resized picture that the draws of `name` ask for: turned, cut, mirrored."""
    if crop.rotation > 0:
        picture = turned(picture, (2 * draws.uniform(*name, "rotation") - 1) * crop.rotation)
    return cut(picture, crop, *name)


def turned(picture: Image.Image, degrees: float) -> Image.Image:
    """The picture turned counter-clockwise about its centre at its own size, bilinear.

    What comes in at the corners is the picture mirrored at its edge without repeating the edge itself ("reflect
    101"), as OpenCV and hence albumentations' Rotate fill it: black corners would be learnt.
    """
    width, height = picture.size
    c, s = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    # Half of what the turned frame sticks out of the picture, and a pixel for the interpolation.
    across = max(0, math.ceil((width * c + height * s - width) / 2)) + 2
    down = max(0, math.ceil((width * s + height * c - height) / 2)) + 2
    levels = np.pad(np.asarray(picture), ((down, down), (across, across), (0, 0)), mode="reflect")
    wide = Image.fromarray(levels).rotate(degrees, Image.Resampling.BILINEAR)
    return wide.crop((across, down, across + width, down + height))


def cut(picture: Image.Image, crop: CropSpec, *name: draws.Name) -> Image.Image:
    """The square of `crop.resolution` where the draws of `name` put it, else the centre; perhaps mirrored."""
    side = crop.resolution
    across, down = picture.width - side, picture.height - side
    if crop.random:
        left, top = draws.integer(across + 1, *name, "left"), draws.integer(down + 1, *name, "top")
    else:
        left, top = round(across / 2), round(down / 2)
    square = picture.crop((left, top, left + side, top + side))
    return ImageOps.mirror(square) if crop.mirrors(*name) else square


def centred_square(picture: Path, resolution: int) -> Image.Image:
    """The largest centred square of the picture in a file, resized by Lanczos, as in StyleID's own program."""
    image = load_picture(picture)
    side = min(image.size)
    left, top = (round((extent - side) / 2) for extent in image.size)
    image = image.crop((left, top, left + side, top + side))
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS)


def record(job: EncodeJob, pictures: Sequence[str]) -> dict[str, object]:
    """All that the moments depend on, as it stands in the file's header."""
    contents = [[Path(picture).stem, file_digest(Path(picture))] for picture in pictures]
    return {"crop": asdict(job.crop), "pictures": contents, "model": asdict(job.model)}


def record_of(file: Path) -> object:
    """What a finished file was made from; None when there is none or it is not ours."""
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="np") as opened:
            return json.loads((opened.metadata() or {}).get(HEADER, "null"))
    except (SafetensorError, OSError, ValueError):
        return None
