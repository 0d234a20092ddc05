"""Marks of augmentation in a picture: borders, the empty corners of a turned frame, a tilted layout.

Mirrored views and corners filled by reflection leave nothing that one picture shows soundly; they are not looked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

EDGE = 128
"""Pixels of the longer side at which layouts are compared: thin lines are gone, bands and corners are not."""
SAME = 10.0
"""Levels by which pixels of one flat area may differ (JPEG, an autoencoder)."""
BAND, CORNER = 0.03, 0.08
"""Shares of the side: the thinnest band and the shortest leg of an empty corner that are told from a line."""
STRAIGHT = 0.25
"""Least concentration of edge directions with which a picture has an upright at all."""

Grey = NDArray[np.float32]
SIDES = ("top", "right", "bottom", "left")


@dataclass(frozen=True)
class Marks:
    """What was measured: flat bands by side (shares), the turn of empty corners, and the turn of straight edges."""

    bands: dict[str, float]
    corners: float | None  # degrees
    tilt: float | None  # degrees, counter-clockwise; None where the edges have no common direction
    straightness: float


def small(picture: Image.Image) -> NDArray[np.float32]:
    """(h, w, 3) float32 levels, the longer side EDGE pixels."""
    scale = EDGE / max(picture.size)
    size = (max(8, round(picture.width * scale)), max(8, round(picture.height * scale)))
    return np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BOX), dtype=np.float32)


def marks(picture: Image.Image) -> Marks:
    """Measure one picture."""
    levels = small(picture)
    tilt, straightness = edge_turn(levels)
    bands = {side: share for side in SIDES if (share := _band(levels, side)) >= BAND}
    return Marks(
        bands, empty_corners(levels), tilt if straightness >= STRAIGHT else None, round(straightness, 3)
    )


def _band(levels: Grey, side: str) -> float:
    """Share of the picture taken by a flat band along a side that ends in a straight edge; 0 without one."""
    rows = np.rot90(levels, SIDES.index(side))
    flat = [row for row in range(len(rows) // 3) if float(rows[row].std(axis=0).max()) < SAME / 2]
    depth = next((i for i, row in enumerate(flat) if i != row), len(flat))
    colour = rows[:1].mean(axis=(0, 1))
    while depth and float(np.abs(rows[depth - 1].mean(axis=0) - colour).max()) > SAME:
        depth -= 1
    if not depth or depth >= len(rows) // 3:
        return 0.0
    # One row may be a mixture of both. Ground that merely ends where something begins is flat beside it.
    beyond = rows[min(depth + 1, len(rows) - 1)]
    changed = (np.abs(beyond - colour).max(axis=1) > 2 * SAME).mean()
    return depth / len(rows) if changed > 0.8 else 0.0


def empty_corners(levels: Grey) -> float | None:
    """Degrees by which a frame was turned, from flat triangles in three corners or more; None without them.

    A frame turned by θ and filled leaves four right triangles whose legs' quotient is tan θ.
    """
    turns = [turn for k in range(4) if (turn := _corner_turn(np.rot90(levels, k))) is not None]
    if len(turns) < 3 or max(turns) - min(turns) > 5:
        return None
    return round(float(np.mean(turns)), 1)


def _corner_turn(levels: Grey) -> float | None:
    """The turn that the upper left corner's triangle shows, in degrees (0 to 90)."""
    flat = np.ascontiguousarray(levels.round().astype(np.uint8))
    mask = np.zeros((flat.shape[0] + 2, flat.shape[1] + 2), np.uint8)
    around = (SAME,) * 3
    cv2.floodFill(
        flat, mask, (0, 0), (0, 0, 0), around, around, cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY
    )
    region = mask[1:-1, 1:-1].astype(bool)
    across, down = _run(region[0]), _run(region[:, 0])
    least = CORNER * max(region.shape)
    if max(across, down) < least or min(across, down) < 3 or max(across, down) >= max(region.shape):
        return None
    y, x = np.mgrid[: region.shape[0], : region.shape[1]]
    triangle = (x + 0.5) / across + (y + 0.5) / down < 1
    overlap = (region & triangle).sum() / (region | triangle).sum()
    turn = math.atan2(down, across)
    return math.degrees(turn) if overlap > 0.8 and _as_turned(across, turn, region.shape) else None


def _as_turned(leg: int, turn: float, shape: tuple[int, ...]) -> bool:
    """Whether a leg is as long as a square turned about its centre leaves it: n/2 · (cos θ + sin θ - 1) / sin θ.

    A vignette or a round motif leaves corners too, of any size. Other formats than squares are not held to it.
    """
    if max(shape) > 1.02 * min(shape):
        return True
    expected = min(shape) / 2 * (math.cos(turn) + math.sin(turn) - 1) / math.sin(turn)
    return abs(leg - expected) < 0.3 * expected


def _run(line: NDArray[np.bool_]) -> int:
    """How many leading values are true."""
    return int(line.argmin()) if not line.all() else len(line)


def edge_turn(levels: Grey) -> tuple[float, float]:
    """Direction of the edges modulo 90°, in degrees (−45, 45], and its concentration (0 to 1).

    The mean of exp(4iφ) over the gradients' directions φ, weighted by their squared lengths: upright and level edges
    count alike, directions at random cancel. Counter-clockwise is positive.
    """
    grey = cv2.GaussianBlur(levels.mean(axis=2), (0, 0), 1.0)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    weight = dx**2 + dy**2
    total = float(weight.sum())
    if total <= 0:
        return 0.0, 0.0
    phase = np.exp(-4j * np.arctan2(dy, dx))  # rows count downwards
    mean = complex((weight * phase).sum() / total)
    return math.degrees(math.atan2(mean.imag, mean.real)) / 4, abs(mean)


def thumbprint(picture: Image.Image) -> Grey:
    """32 x 32 lightness less its mean, of length 1: two layouts' product is their correlation."""
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float32)
    grey = grey - grey.mean()
    return np.asarray(grey / (np.linalg.norm(grey) + 1e-6), dtype=np.float32)


def likeness(one: Grey, other: Grey) -> float:
    """Correlation of two layouts, or of one with the other's mirror image where that is higher."""
    return float(max((one * other).sum(), (one * other[:, ::-1]).sum()))
