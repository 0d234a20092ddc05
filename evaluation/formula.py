"""The final formula of the 4th Jittor challenge, track 2."""

import math

from evaluation.errors import ScoreError

# FID of 20 and above earns nothing.
FID_CEILING = 20.0
FID_NEEDS = "FID needs two pictures on each side"
_RANGES = {
    "dino": (-1.0, 1.0),
    "hist": (-1.0, 1.0),
    "fid": (0.0, math.inf),
    "lpips": (0.0, math.inf),
    "clip_iqa": (0.0, 1.0),
    "clip_r": (0.0, 1.0),
}
# Rounding may put a cosine a hair above 1; anything more is a mistake of the caller.
_SLACK = 1e-5


def fid_is_defined(generated: int, references: int) -> bool:
    """Whether there are pictures enough (`FID_NEEDS`): one has no covariance. Without FID there is no final score."""
    return min(generated, references) >= 2


def final_score(
    *, dino: float, hist: float, fid: float, lpips: float, clip_iqa: float, clip_r: float
) -> float:
    """Style × quality, the contest's final score (higher is better).

    `dino` and `hist` in [−1, 1], `clip_iqa` and `clip_r` in [0, 1], `fid` and `lpips` >= 0 (lower is better).

    Raises:
        ScoreError: NaN, infinite or out-of-range values, all named.
    """
    given = {"dino": dino, "hist": hist, "fid": fid, "lpips": lpips, "clip_iqa": clip_iqa, "clip_r": clip_r}
    check_metrics(given)
    return style_part(dino, hist, lpips) * quality_part(fid, clip_iqa, clip_r)


def style_part(dino: float, hist: float, lpips: float) -> float:
    """How well the style is met: 0.2·DINO + 0.4·Hist + 0.4·(1 − LPIPS)."""
    return 0.2 * dino + 0.4 * hist + 0.4 * (1.0 - lpips)


def quality_part(fid: float, clip_iqa: float, clip_r: float) -> float:
    """How good the pictures are: 0.5·CLIP-R + 0.4·(20 − min(FID, 20))/20 + 0.1·CLIP-IQA."""
    return 0.5 * clip_r + 0.4 * (FID_CEILING - min(fid, FID_CEILING)) / FID_CEILING + 0.1 * clip_iqa


def check_metrics(values: dict[str, float]) -> None:
    """Refuse metrics that are not finite or lie outside their range, all in one message.

    Raises:
        ScoreError: at least one is.
    """
    faults = []
    for name, value in values.items():
        low, high = _RANGES[name]
        if not math.isfinite(value) or not low - _SLACK <= value <= high + _SLACK:
            faults.append(f"{name} is {value}, allowed is [{low:g}, {high:g}]")
    if faults:
        raise ScoreError("no score can be made of these metrics: " + "; ".join(faults))
