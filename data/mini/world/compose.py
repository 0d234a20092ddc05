"""One picture: ground, shadow, rim, fill, lines, glow, texture."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from data.mini.world.canvas import Layers, rasterise
from data.mini.world.fields import Field, blur, clouds, grain, stripes
from data.mini.world.fills import FILL
from data.mini.world.grounds import GROUND, rgb, textured
from data.mini.world.objects import DRAWINGS
from data.mini.world.pen import Pen
from data.mini.world.style import Style


def _over(picture: Field, layer: Field) -> Field:
    """Premultiplied layer (.., 4) over a picture (.., 3)."""
    out: Field = picture * (1 - layer[..., 3:]) + layer[..., :3]
    return out


def _moved(mask: Field, x: float, y: float) -> Field:
    k = mask.shape[0] / 128
    shift = np.array([[1, 0, x * k], [0, 1, y * k]], dtype=np.float32)
    out: Field = cv2.warpAffine(mask, shift, mask.shape[::-1])
    return out


def _shadowed(picture: Field, layers: Layers, style: Style) -> Field:
    if style.shadow == "none":
        return picture
    body = np.maximum(layers.body, layers.line[..., 3])
    if style.shadow == "drop":
        mask = blur(_moved(body, 3.5, 4), 1.6) * 0.55
    elif style.shadow == "halo":
        mask = np.clip(blur(body, 5) * 1.3, 0, 1) * 0.8
    else:
        mask = _contact(body) * 0.5
    out: Field = picture * (1 - mask[..., None]) + rgb(style.shadow_colour) * mask[..., None]
    return out


def _contact(body: Field) -> Field:
    """A flat ellipse of shade below the object."""
    size = body.shape[0]
    columns, rows = np.flatnonzero(body.max(0) > 0.5), np.flatnonzero(body.max(1) > 0.5)
    shade = np.zeros_like(body)
    if len(columns) and len(rows):
        centre = (int(columns.mean()), min(size - 3, int(rows[-1])))
        axes = (max(1, int(np.ptp(columns) * 0.46)), max(2, size // 28))
        cv2.ellipse(shade, centre, axes, 0, 0, 360, 1.0, -1, cv2.LINE_AA)
    return blur(shade, 1.8)


def _rimmed(picture: Field, layers: Layers, style: Style) -> Field:
    if not style.rim:
        return picture
    body = np.maximum(layers.body, layers.line[..., 3])
    reach = 2 * round(style.rim * body.shape[0] / 128) + 1
    rim = cv2.dilate(body, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))[..., None]
    out: Field = picture * (1 - rim) + rgb(style.rim_colour) * rim
    return out


def _line(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """The line layer with its material."""
    line, size = layers.line, int(layers.line.shape[0])
    if style.line_kind == "chalk":
        keep = np.clip(0.78 + 0.36 * grain(rng, size, 1.3), 0.1, 1)
        line = blur(line, 0.45) * np.float32(1.15) * keep[..., None]
    elif style.line_kind == "brush":
        keep = np.clip(0.84 + 0.4 * clouds(rng, size, 12), 0.35, 1)
        line = line * keep[..., None]
    elif style.line_kind == "dashed":
        keep = np.clip(stripes(size, 7, 20) * stripes(size, 7, 110) * 3 + 1.1, 0, 1)
        line = line * keep[..., None]
    return line


def _lit(picture: Field, line: Field, style: Style) -> Field:
    """Light that spreads from the lines (screen blend)."""
    if not style.glow:
        return picture
    light = np.clip((blur(line[..., :3], 2.2) * 0.9 + blur(line[..., :3], 6) * 1.1) * style.glow, 0, 1)
    out: Field = 1 - (1 - picture) * (1 - light)
    return out


def _sealed(picture: Field, style: Style, rng: np.random.Generator) -> Field:
    """A painter's red stamp in the lower right corner."""
    if not style.seal:
        return picture
    stamp, size = picture.copy(), picture.shape[0]
    k = size / 128
    at = [round(float(v) * k) for v in (108 + rng.uniform(-2, 2), 106 + rng.uniform(-2, 2))]
    red, paper = (0.78, 0.16, 0.12), tuple(rgb(style.ground_colour).tolist())
    cv2.rectangle(stamp, at, (at[0] + round(11 * k), at[1] + round(13 * k)), red, -1, cv2.LINE_AA)
    for y in (3, 7, 10):
        cv2.line(
            stamp,
            (at[0] + round(3 * k), at[1] + round(y * k)),
            (at[0] + round(8 * k), at[1] + round(y * k)),
            paper,
            max(1, round(k)),
        )
    return stamp


def paint(
    obj: str, style: Style, rng: np.random.Generator, size: int = 128
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Draw an object in a style: (size, size, 3) uint8.

    Everything random comes from `rng`: the same object, style and generator state give the same pixels.
    Raises ValueError for an object that is not in OBJECTS.
    """
    if obj not in DRAWINGS:
        raise ValueError(f"object {obj!r} cannot be drawn; allowed: {', '.join(DRAWINGS)}")
    pen = Pen(rng)
    DRAWINGS[obj](pen)
    layers = rasterise(pen.parts, style, rng, size)
    picture = _shadowed(GROUND[style.ground](style, rng, size), layers, style)
    picture = _rimmed(picture, layers, style)
    picture = _over(picture, FILL[style.fill](layers, style, rng))
    line = _line(layers, style, rng)
    picture = _over(_lit(picture, line, style), np.clip(line, 0, 1))
    picture = textured(_sealed(picture, style, rng), style, rng)
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def draw(obj: str, style: Style, rng: np.random.Generator, size: int = 128) -> Image.Image:
    """`paint` as an RGB picture."""
    return Image.fromarray(paint(obj, style, rng, size))
