"""What scoring gives: numbers per picture, per style and overall, as dataclasses and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from evaluation.files import write_atomic
from evaluation.folders import Fault
from evaluation.formula import check_metrics, final_score, quality_part, style_part

METRICS = ("dino", "hist", "fid", "lpips", "clip_iqa", "clip_r")
_PACKAGES = ("torch", "torchvision", "transformers", "pillow", "numpy", "lpips")


@dataclass(frozen=True)
class PictureScore:
    """One generated picture against its style's references. `lpips` is better when lower.

    `clip_r_probability`: the softmax share of the wanted noun among all candidates, of which the hit is the rank.
    """

    dino: float
    hist: float
    lpips: float
    clip_iqa: float
    clip_r_hit: bool
    clip_r_probability: float
    clip_r_top5: tuple[str, ...]

    @property
    def style_part(self) -> float:
        """0.2·DINO + 0.4·Hist + 0.4·(1 − LPIPS) of this picture alone."""
        return style_part(self.dino, self.hist, self.lpips)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PictureScore":
        """The score that `to_json` wrote."""
        return cls(**{**data, "clip_r_top5": tuple(data["clip_r_top5"])})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self.__dict__, "clip_r_top5": list(self.clip_r_top5)}


@dataclass(frozen=True)
class StyleScore:
    """One style: means over its pictures. `fid` is None where the set is not larger than its dimensions."""

    dino: float
    hist: float
    lpips: float
    clip_iqa: float
    clip_r: float
    fid: float | None
    pictures: dict[str, PictureScore]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "StyleScore":
        """The score that `to_json` wrote."""
        pictures = {prompt: PictureScore.from_json(one) for prompt, one in data["pictures"].items()}
        numbers: dict[str, Any] = {name: data.get(name) for name in METRICS}
        return cls(**numbers, pictures=pictures)

    @property
    def n_pictures(self) -> int:
        """How many generated pictures were scored."""
        return len(self.pictures)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `fid` is left out where it means nothing."""
        data: dict[str, Any] = {name: getattr(self, name) for name in METRICS if name != "fid"}
        if self.fid is not None:
            data["fid"] = self.fid
        pictures = {prompt: picture.to_json() for prompt, picture in self.pictures.items()}
        return {**data, "n_pictures": self.n_pictures, "pictures": pictures}


@dataclass
class ScoreReport:
    """The score of a set, and what it rests on.

    `fid` is None, and so is the final score, with fewer than two pictures on either side. `fid_without`: FID of the
    set without each style, which tells what that style does to it; empty where that is not known.
    """

    styles: dict[str, StyleScore]
    fid: float | None
    judges: dict[str, Any]
    variants: dict[str, str]
    missing: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    fid_without: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_pictures(self) -> int:
        """How many generated pictures were scored."""
        return sum(style.n_pictures for style in self.styles.values())

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for was there."""
        return not self.missing and not any(fault.severity == "error" for fault in self.faults)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics overall: means over styles, CLIP-R over pictures, FID (if any) over the pool."""
        values = {name: self._mean(name) for name in ("dino", "hist", "lpips", "clip_iqa")}
        hits = [p.clip_r_hit for style in self.styles.values() for p in style.pictures.values()]
        values["clip_r"] = sum(hits) / len(hits)
        if self.fid is not None:
            values["fid"] = self.fid
        check_metrics(values)
        return values

    def _mean(self, name: str) -> float:
        return float(sum(getattr(style, name) for style in self.styles.values()) / len(self.styles))

    @property
    def final_score(self) -> float | None:
        """Style × quality, or None without FID."""
        return None if self.fid is None else final_score(**self.metrics)

    @property
    def style_part(self) -> float:
        """0.2·DINO + 0.4·Hist + 0.4·(1 − LPIPS)."""
        m = self.metrics
        return style_part(m["dino"], m["hist"], m["lpips"])

    @property
    def quality_part(self) -> float | None:
        """0.5·CLIP-R + 0.4·(20 − FID)/20 + 0.1·CLIP-IQA, or None without FID."""
        m = self.metrics
        return None if self.fid is None else quality_part(m["fid"], m["clip_iqa"], m["clip_r"])

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values (format in `docs/scoring.md`)."""
        return {
            "final_score": self.final_score,
            **{name: self.metrics.get(name) for name in METRICS},
            "style_part": self.style_part,
            "quality_part": self.quality_part,
            "complete": self.complete,
            "missing": self.missing,
            "n_pictures": self.n_pictures,
            "judges": self.judges,
            "variants": self.variants,
            "versions": versions(),
            "faults": [fault.to_json() for fault in self.faults],
            "styles": {style: self._style(style) for style in self.styles},
        }

    def _style(self, style: str) -> dict[str, Any]:
        without = {"fid_without": self.fid_without[style]} if style in self.fid_without else {}
        return without | self.styles[style].to_json()

    def write(self, path: Path | str) -> None:
        """Write the JSON beside its place and rename it, so that a reader never sees half of it."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(Path(path), (text + "\n").encode())


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """The releases that a score can depend on."""
    import cv2

    found = {"python": python_version(), "opencv": cv2.__version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
