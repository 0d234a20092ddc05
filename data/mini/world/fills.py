"""Ways to fill an area: each takes the flat layers and returns a premultiplied (size, size, 4) layer."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from data.mini.world.canvas import Layers
from data.mini.world.fields import Field, blur, cells, clouds, cut, dots, grain, grid, stripes
from data.mini.world.style import Style

Fill = Callable[[Layers, Style, np.random.Generator], Field]


def _strokes(layers: Layers, style: Style, mask: Field) -> Field:
    """The flat colour at opacity `wash`, and strokes of a darker shade of it where `mask` is 1."""
    below = layers.fill * style.wash
    dark = layers.fill * np.float32(1 - 0.45 * style.wash)
    dark[..., 3] = layers.fill[..., 3]
    m = mask[..., None]
    out: Field = below * (1 - m) + dark * m
    return out


def _size(layers: Layers) -> int:
    return int(layers.fill.shape[0])


def _shares(layers: Layers) -> Field:
    """How much of an area its pattern covers: light parts sparse, dark parts dense."""
    share: Field = 0.16 + 0.62 * layers.tone
    return share


def _flat(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    return layers.fill * style.wash


def _none(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    return np.zeros_like(layers.fill)


def _hatch(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    bend = clouds(rng, _size(layers), 30) * 0.9
    return _strokes(
        layers, style, cut(stripes(_size(layers), style.period, style.angle, bend), _shares(layers))
    )


def _cross(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    n, share = _size(layers), _shares(layers)
    first = cut(stripes(n, style.period, style.angle), share * 0.7)
    second = cut(stripes(n, style.period, style.angle + 90), share * 1.3 - 0.42)
    return _strokes(layers, style, np.maximum(first, second))


def _stripes(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    return _strokes(layers, style, cut(stripes(_size(layers), style.period, style.angle), 0.5))


def _dots(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    return _strokes(
        layers, style, cut(dots(_size(layers), style.period, style.angle), _shares(layers) * 0.9, 0.3)
    )


def _stipple(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    noise = np.tanh(grain(rng, _size(layers), style.period / 3))
    return _strokes(layers, style, cut(noise, _shares(layers) * 0.8, 0.5))


def _scribble(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    bend = clouds(rng, _size(layers), 14) * 2.4
    wave = stripes(_size(layers), style.period, style.angle, bend)
    return _strokes(layers, style, cut(wave, _shares(layers) + 0.1, 0.6))


def _gradient(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Light from the upper left, as on a rounded thing."""
    x, y = grid(_size(layers))
    light = np.clip(1.28 - (x + y) / 128 * 0.55, 0, 2)[..., None]
    out = layers.fill * style.wash
    out[..., :3] = np.minimum(out[..., :3] * light, out[..., 3:])
    return out


def _watercolour(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Pigment that pools at the edges and in blotches."""
    n = _size(layers)
    inner = blur(layers.body, 3)
    density = np.clip(
        0.72 + 0.34 * clouds(rng, n, 18) + 0.5 * (1 - inner) + 0.08 * clouds(rng, n, 6), 0.25, 1
    )
    out: Field = blur(layers.fill, 0.6) * (density * style.wash)[..., None]
    return out


def _tiles(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Square tesserae: one colour each with a little variation, and joints between."""
    n = _size(layers)
    count = max(8, round(128 / style.period))
    small = cv2.resize(layers.fill, (count, count), interpolation=cv2.INTER_AREA)
    small[..., :3] *= rng.uniform(0.86, 1.08, (count, count, 1)).astype(np.float32)
    big = np.clip(cv2.resize(small, (n, n), interpolation=cv2.INTER_NEAREST), 0, 1)
    x, y = grid(n)
    step = 128 / count
    joint = np.maximum(cut(np.cos(2 * np.pi * x / step), 0.16), cut(np.cos(2 * np.pi * y / step), 0.16))
    solid = np.clip(big[..., 3] * 3 - 1, 0, 1) * (1 - joint)
    colour = big[..., :3] / np.maximum(big[..., 3:], 1e-3)
    out: Field = np.concatenate([colour * solid[..., None], solid[..., None]], axis=-1)
    return out


def _facets(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Flat facets of slightly different brightness, as of folded paper or cut glass."""
    index, _ = cells(rng, _size(layers), style.period)
    light = rng.uniform(0.76, 1.24, index.max() + 1).astype(np.float32)[index][..., None]
    out = layers.fill * style.wash
    out[..., :3] = np.minimum(out[..., :3] * light, out[..., 3:])
    return out


def _stitch(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Satin stitch: short slanted threads in rows, lit along their middle."""
    n = _size(layers)
    x, y = grid(n)
    row = style.period * 2.6
    slant = np.where(np.floor(y / row) % 2 > 0, 1.0, -1.0)
    thread = np.cos(2 * np.pi * (x + slant * y * 0.6) / style.period)
    seam = cut(np.cos(2 * np.pi * y / row), 0.1)
    light = (0.96 + 0.2 * thread - 0.16 * seam)[..., None].astype(np.float32)
    out = layers.fill * style.wash
    out[..., :3] = np.clip(out[..., :3] * light, 0, out[..., 3:])
    return out


def _carved(layers: Layers, style: Style, rng: np.random.Generator) -> Field:
    """Printed block: solid ink in the shadow, tapering cuts towards the light (upper left)."""
    n = _size(layers)
    x, y = grid(n)
    share = np.clip(0.28 + 0.75 * layers.tone + ((x + y) / 128 - 1) * 0.25, 0.12, 0.96)
    wave = stripes(n, style.period, style.angle, clouds(rng, n, 26) * 1.2)
    return _strokes(layers, style, cut(wave, share, 0.4))


FILL: dict[str, Fill] = {
    "flat": _flat, "none": _none, "hatch": _hatch, "cross": _cross, "stripes": _stripes, "dots": _dots,
    "stipple": _stipple, "scribble": _scribble, "gradient": _gradient, "watercolour": _watercolour,
    "tiles": _tiles, "facets": _facets, "stitch": _stitch, "carved": _carved,
}  # fmt: skip
