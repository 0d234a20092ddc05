"""Backgrounds, and the textures that lie over a whole picture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.mini.world.fields import Field, blur, cells, clouds, cut, dots, grain, grid, stripes
from data.mini.world.pen import RGB
from data.mini.world.style import Style

Ground = Callable[[Style, np.random.Generator, int], Field]


def rgb(colour: RGB) -> Field:
    """Colour to floats in [0, 1]."""
    return np.array(colour, dtype=np.float32) / np.float32(255)


def _mix(style: Style, share: Field) -> Field:
    first, second = rgb(style.ground_colour), rgb(style.ground_second)
    out: Field = first + (second - first) * share[..., None]
    return out


def _flat(style: Style, rng: np.random.Generator, size: int) -> Field:
    return np.full((size, size, 3), rgb(style.ground_colour), dtype=np.float32)


def _fade(style: Style, rng: np.random.Generator, size: int) -> Field:
    return _mix(style, grid(size)[1] / 128)


def _vignette(style: Style, rng: np.random.Generator, size: int) -> Field:
    x, y = grid(size)
    return _mix(style, np.clip(((x - 64) ** 2 + (y - 64) ** 2) / 6600, 0, 1))


def _clouds(style: Style, rng: np.random.Generator, size: int) -> Field:
    return _mix(style, np.clip(0.5 + 0.5 * clouds(rng, size, 30) + 0.2 * clouds(rng, size, 10), 0, 1))


def _stripes(style: Style, rng: np.random.Generator, size: int) -> Field:
    return _mix(style, cut(stripes(size, 16, style.angle), 0.5, 0.3))


def _dots(style: Style, rng: np.random.Generator, size: int) -> Field:
    return _mix(style, cut(dots(size, 15, 45), 0.26, 0.2))


def _checks(style: Style, rng: np.random.Generator, size: int) -> Field:
    wave = stripes(size, 32, 0) * stripes(size, 32, 90)
    return _mix(style, np.clip(wave * 6 + 0.5, 0, 1))


def _rays(style: Style, rng: np.random.Generator, size: int) -> Field:
    x, y = grid(size)
    turn = np.arctan2(y - 64, x - 64)
    return _mix(style, cut(np.cos(turn * 9 + float(rng.uniform(0, 6))), 0.5, 0.25))


def _grid(style: Style, rng: np.random.Generator, size: int) -> Field:
    lines = np.maximum(cut(stripes(size, 16, 0), 0.09, 0.08), cut(stripes(size, 16, 90), 0.09, 0.08))
    return _mix(style, lines * 0.75)


def _panes(style: Style, rng: np.random.Generator, size: int) -> Field:
    """Coloured panes between leads (the shadow's colour)."""
    index, edge = cells(rng, size, 30)
    first, second = rgb(style.ground_colour), rgb(style.ground_second)
    share = rng.uniform(0, 1, index.max() + 1).astype(np.float32)[index][..., None]
    glass = (first + (second - first) * share) * (0.96 + 0.06 * clouds(rng, size, 16)[..., None])
    lead = np.clip(1.7 - edge, 0, 1)[..., None]
    out: Field = np.clip(glass, 0, 1) * (1 - lead) + rgb(style.shadow_colour) * lead
    return out


def _board(style: Style, rng: np.random.Generator, size: int) -> Field:
    """A board wiped with a cloth: soft smears of old chalk."""
    bend = clouds(rng, size, 26) * 1.5
    smear = np.clip(0.4 + 0.5 * clouds(rng, size, 44) + 0.22 * stripes(size, 22, 70, bend), 0, 1)
    return _mix(style, smear)


GROUND: dict[str, Ground] = {
    "flat": _flat, "fade": _fade, "vignette": _vignette, "clouds": _clouds, "stripes": _stripes,
    "dots": _dots, "checks": _checks, "rays": _rays, "grid": _grid, "panes": _panes, "board": _board,
}  # fmt: skip


def textured(picture: Field, style: Style, rng: np.random.Generator) -> Field:
    """The picture (size, size, 3) with the style's texture over it; values may leave [0, 1] slightly."""
    size, k = int(picture.shape[0]), np.float32(style.strength)
    if style.texture == "none" or not k:
        return picture
    if style.texture == "soft":
        return blur(picture, 0.4 + 1.6 * float(k))
    waves: dict[str, Callable[[], Field]] = {
        "grain": lambda: 0.13 * grain(rng, size, 1.6),
        "canvas": lambda: 0.1 * stripes(size, 5, 0) * stripes(size, 5, 90) + 0.04 * grain(rng, size, 2),
        "weave": lambda: 0.09 * (stripes(size, 5, 0) + stripes(size, 5, 90)),
        "paper": lambda: 0.07 * clouds(rng, size, 5) + 0.06 * clouds(rng, size, 22),
        "scan": lambda: 0.13 * stripes(size, 5, 90),
        "tiles": lambda: (
            -0.26 * np.maximum(cut(stripes(size, 10.67, 0), 0.12), cut(stripes(size, 10.67, 90), 0.12))
        ),
    }
    out: Field = picture * (1 + k * waves[style.texture]())[..., None]
    return out
