"""Composed styles: random points of the style space that keep clear of the held-out ones."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from data.mini.world.pen import RGB, shade
from data.mini.world.style import Style, distance, luminance
from data.mini.world.styles import HELD_OUT

MARGIN = 1.2
"""No training style comes nearer than this to a held-out one (see `style.distance`)."""

_T = TypeVar("_T")
_GROUNDS = (
    "flat", "flat", "flat", "fade", "vignette", "clouds", "stripes", "dots", "checks", "rays", "grid",
    "panes", "board",
)  # fmt: skip
_FILLS = (
    "flat", "flat", "flat", "none", "hatch", "hatch", "cross", "stripes", "dots", "stipple", "gradient",
    "gradient", "watercolour", "tiles", "facets", "scribble", "stitch", "carved",
)  # fmt: skip
_TEXTURES = ("none", "none", "none", "grain", "canvas", "paper", "tiles", "scan", "weave", "soft")
_LINES = ("solid", "solid", "solid", "chalk", "brush", "dashed")
_WIDTHS = (0.0, 0.0, 1.0, 1.0, 1.5, 2.0, 3.0)
_BARE_WIDTHS = (1.0, 1.5, 2.0, 3.0)
_PATTERNS = ("hatch", "cross", "stripes", "dots", "stipple", "scribble", "carved")


def _choice(rng: np.random.Generator, words: tuple[_T, ...]) -> _T:
    return words[int(rng.integers(len(words)))]


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> RGB:
    r, g, b = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))
    return round(r * 255), round(g * 255), round(b * 255)


def _colours(rng: np.random.Generator) -> dict[str, Any]:
    """Ground and line. No line is lighter than a dark ground (that is chalk, neon and blueprint)."""
    kind = rng.uniform()
    if kind < 0.62:
        ground = _colour(rng, (0.0, 0.35), (0.82, 1.0))
        line = _colour(rng, (0.0, 0.9), (0.05, 0.55))
    elif kind < 0.86:
        ground = _colour(rng, (0.2, 0.75), (0.55, 0.9))
        light = luminance(ground) > 0.58 and rng.uniform() < 0.35
        line = (252, 252, 248) if light else _colour(rng, (0.0, 0.8), (0.03, 0.3))
    else:
        ground = _colour(rng, (0.1, 0.7), (0.1, 0.42))
        line = shade(ground, -float(rng.uniform(0.5, 1)))
    second = shade(ground, float(rng.uniform(0.1, 0.4)) * (1 if rng.uniform() < 0.5 else -1))
    return {"ground_colour": ground, "ground_second": second, "line": line}


def _mapping(rng: np.random.Generator) -> dict[str, Any]:
    kind = _choice(rng, ("natural", "natural", "natural", "ramp", "snap"))
    if kind == "ramp":
        hue, spread = rng.uniform(), rng.uniform(-0.2, 0.2)
        steps = ((0.75, 0.3), (0.65, 0.66), (0.25, 0.97))
        rgbs = (colorsys.hsv_to_rgb((hue + spread * k) % 1, s, v) for k, (s, v) in enumerate(steps))
        ramp = tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in rgbs)
        return {"mapping": "ramp", "colours": ramp}
    if kind == "snap":
        count = int(rng.integers(3, 7))
        return {
            "mapping": "snap",
            "colours": tuple(_colour(rng, (0.1, 0.9), (0.25, 1.0)) for _ in range(count)),
        }
    return {
        "hue": float(rng.normal(0, 12) if rng.uniform() < 0.7 else rng.uniform(-180, 180)),
        "saturation": float(rng.uniform(0.4, 1.5)), "lightness": float(rng.uniform(-0.2, 0.35)),
    }  # fmt: skip


def _lines(rng: np.random.Generator, fill: str) -> dict[str, Any]:
    bare = fill == "none"
    return {
        "line_width": float(_choice(rng, _BARE_WIDTHS if bare else _WIDTHS)),
        "line_kind": _choice(rng, _LINES),
        "line_own": float(rng.uniform(0.3, 1)) if rng.uniform() < 0.2 else 0.0,
        "wobble": float(rng.uniform(0.3, 2.0)) if rng.uniform() < 0.4 else 0.0,
        "passes": int(_choice(rng, (1, 1, 1, 2, 3))),
    }  # fmt: skip


def _shadows(rng: np.random.Generator, ground: RGB) -> dict[str, Any]:
    kind = _choice(rng, ("none", "none", "none", "drop", "contact", "halo"))
    glare = kind == "halo" and luminance(ground) > 0.5
    rim = float(rng.uniform(1.5, 3.5)) if rng.uniform() < 0.1 else 0.0
    return {
        "shadow": kind, "shadow_colour": shade(ground, 0.7 if glare else -0.6), "rim": rim,
        "rim_colour": shade(ground, 0.8 if rng.uniform() < 0.5 else -0.4),
        "glow": float(rng.uniform(0.3, 0.8)) if luminance(ground) > 0.45 and rng.uniform() < 0.08 else 0.0,
    }  # fmt: skip


def _compose(rng: np.random.Generator) -> Style:
    fill = _choice(rng, _FILLS)
    colours = _colours(rng)
    texture = _choice(rng, _TEXTURES)
    return Style(
        fill=fill, ground=_choice(rng, _GROUNDS), texture=texture,
        strength=float(rng.uniform(0.2, 0.9)) if texture != "soft" else float(rng.uniform(0.1, 0.6)),
        wash=float(rng.uniform(0, 0.9)) if fill in _PATTERNS else float(rng.uniform(0.75, 1)),
        period=float(rng.uniform(9, 18) if fill == "facets" else rng.uniform(4.2, 8.5)),
        angle=float(rng.uniform(0, 180)), **colours, **_mapping(rng), **_lines(rng, fill),
        **_shadows(rng, colours["ground_colour"]),
    )  # fmt: skip


def _legible(style: Style) -> Style:
    """Without lines, areas must differ from the ground; without solid areas, lines must."""
    ground = luminance(style.ground_colour)
    gap = abs(luminance(style.line) - ground)
    faint = style.fill == "none" or (style.fill in _PATTERNS and style.wash < 0.35)
    if faint and (gap < 0.35 or style.line_own or style.line_width < 1):
        return replace(style, fill="flat" if style.fill == "none" else style.fill, wash=0.8)
    blends = style.mapping != "natural" and any(abs(luminance(c) - ground) < 0.18 for c in style.colours)
    if style.line_width == 0 and (blends or ground < 0.8):
        return replace(style, line_width=1.0)
    return style


def _apart(style: Style) -> Style:
    """Break up the key features of the held-out styles, so that they never meet in a training style.

    - a dark ground never carries light lines, glow, bare outlines, open patterns or light rims (chalk, neon,
      blueprint);
    - wiped boards and ruled grids are light (chalk, blueprint);
    - panes have thin outlines on light glass (stained glass);
    - washes have no brushed lines (ink wash), stitches no woven ground and no dashes (embroidery);
    - cuts keep their colour and thin lines (woodcut); light lines are thin and cast no shadow (papercut).
    """
    ground = luminance(style.ground_colour)
    changes: dict[str, Any] = {}
    if ground < 0.5:
        changes |= {"wash": max(style.wash, 0.75), "glow": 0.0, "lightness": min(style.lightness, 0.0)}
        changes |= {"fill": "flat"} if style.fill in ("none", "hatch", "scribble") else {}
        changes |= {"line_own": 0.0, "line_kind": "solid", "rim": 0.0}
    if ground < 0.75 and style.ground in ("board", "grid", "panes"):
        changes["ground"] = "fade"
    light_lines = luminance(style.line) > ground
    if style.ground == "panes" or light_lines:
        changes["line_width"] = min(style.line_width, 1.0)
    if style.fill == "watercolour" and style.line_kind == "brush":
        changes["line_kind"] = "solid"
    if style.fill == "stitch":
        changes |= {"texture": "none" if style.texture == "weave" else style.texture, "line_kind": "solid"}
    if style.fill == "carved":
        changes |= {"wash": max(style.wash, 0.45), "line_width": min(style.line_width, 1.5)}
    if light_lines:
        changes |= {"shadow": "none", "glow": 0.0}
    return replace(style, **changes)


def random_style(rng: np.random.Generator) -> Style:
    """A composed training style, at least MARGIN from every held-out style."""
    while True:
        style = _apart(_legible(_compose(rng)))
        if all(distance(style, held) >= MARGIN for held in HELD_OUT.values()):
            return style
