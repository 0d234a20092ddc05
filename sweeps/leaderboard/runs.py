"""One scored run as the leaderboard sees it, or the reason why it does not."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.formula import FID_CEILING, final_score
from jdx.digests import file_digest, set_digest
from sweeps.content import flat
from sweeps.statistics import NUMBERS, Cells, fid_shares

SEEDS = ("train.seed", "sampler.seed")
"""What makes two runs of one recipe different witnesses."""
NO_RECIPE = (
    *SEEDS,
    "backend", "data", "evaluation", "group_size", "jdx", "method.name", "model", "quiet", "store", "tags", "tracker",
    "launcher", "train.checkpoint_every", "train.log_every", "train.score_snapshots", "train.snapshots",
)  # fmt: skip
"""Settings that cannot change a score, or that make a board of their own (judges, data, model)."""
CLOSE = 1e-6
"""How far a score may lie from the formula of its own numbers: rounding."""


class LeftOutError(ValueError):
    """A run that cannot be ranked; the message says why, for the user."""


@dataclass(frozen=True)
class LeftOut:
    """What was looked at and is not on any board."""

    name: str
    reason: str


@dataclass(frozen=True)
class BoardKey:
    """What two runs must have in common to be compared."""

    judges: str  # digest of networks, settings and variants
    data: str
    model: str
    selected: bool = False  # whether the judges that score the pictures have chosen them among candidates


@dataclass(frozen=True)
class Run:
    """One scored run.

    name: where it is; metrics: as in metrics.json, pictures not needed; about: as in trial.json.
    """

    name: str
    metrics: Mapping[str, Any]
    about: Mapping[str, Any]
    data: Mapping[str, Any]  # digest, styles, prompts

    @cached_property
    def settings(self) -> dict[str, Any]:
        """{dotted key: value} of the whole configuration."""
        return flat(self.about["config"])

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.settings.get("method.name", "?"))

    @property
    def judges(self) -> str:
        """The judges' name."""
        return str(self.metrics["judges"].get("name", "?"))

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.settings.get("model.name", "?"))

    @cached_property
    def seed(self) -> tuple[Any, ...]:
        """Its seeds, by which runs of one recipe are told apart."""
        return tuple(self.settings.get(key) for key in SEEDS)

    @cached_property
    def key(self) -> BoardKey:
        """Its board."""
        judges = self.metrics["judges"]
        who = {
            "sha256": judges["sha256"],
            "settings": judges.get("settings"),
            "variants": self.metrics.get("variants"),
        }
        model = str(self.about["identity"]["model"])
        return BoardKey(_digest(who), str(self.data["digest"]), model, self.candidates > 1)

    @property
    def candidates(self) -> int:
        """Pictures per prompt among which its judges chose; 1 = the pictures as they come."""
        return int(self.settings.get("method.select.candidates") or 1)

    @cached_property
    def essence(self) -> dict[str, Any]:
        """The settings that make the recipe."""
        kept = {
            key: value
            for key, value in self.settings.items()
            if not any(key == one or key.startswith(f"{one}.") for one in NO_RECIPE)
        }
        identity = self.about["identity"]
        return kept | {f"backend.{name}": identity[name] for name in ("backend", "dtype") if name in identity}

    @cached_property
    def recipe(self) -> str:
        """Hash of what matters but the seed."""
        return _digest(self.essence)

    @property
    def score(self) -> float:
        """The final score."""
        return float(self.metrics["final_score"])

    @property
    def finished(self) -> str:
        """When, as text that sorts."""
        return str(self.about.get("finished", ""))

    @cached_property
    def styles(self) -> tuple[str, ...]:
        """Ids, sorted."""
        return tuple(sorted(self.metrics["styles"]))

    @property
    def knows_fid(self) -> bool:
        """Whether it says what each style does to FID."""
        return all("fid_without" in style for style in self.metrics["styles"].values())

    @cached_property
    def cells(self) -> Cells:
        """Its numbers by style, with one seed."""
        styles = [self.metrics["styles"][style] for style in self.styles]
        without = [style["fid_without"] for style in styles] if self.knows_fid else None
        fid = fid_shares(self.metrics["fid"], without, len(styles))
        numbers = [
            [*(float(one[name]) for name in NUMBERS[:-1]), share]
            for one, share in zip(styles, fid, strict=True)
        ]
        pictures = [[float(style["n_pictures"]) for style in styles]]
        return Cells(self.styles, np.array([numbers]), np.array(pictures))

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages."""
        stages = self.about.get("seconds")
        return float(sum(stages.values())) if isinstance(stages, Mapping) and stages else None

    @property
    def gpu_seconds(self) -> float | None:
        """Seconds × devices on GPUs; None on a CPU."""
        environment = self.about.get("environment") or {}
        if self.seconds is None or str(environment.get("device", "cpu")).startswith("cpu"):
            return None
        # Older runs have the setting alone, which does not say how many "auto" was.
        listed = self.settings.get("backend.devices")
        known = len(listed) if isinstance(listed, list) else 1
        return self.seconds * max(1, int(self.about.get("devices") or known))

    @property
    def reused(self) -> bool:
        """Whether some stages came from the store, so that its seconds say too little."""
        stages = self.about.get("stages") or {}
        return any(tally.get("reused") for tally in stages.values() if isinstance(tally, Mapping))


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checked(
    name: str, metrics: Mapping[str, Any], about: Mapping[str, Any], data: Mapping[str, Any] | None
) -> Run:
    """A run whose record is whole and says what it should. Raises: LeftOutError."""
    _check_ended(metrics)
    _check_known(metrics, about)
    try:
        run = Run(name, metrics, about, data or {"digest": ""})
        again = float(_score_again(run))
        touched = (run.key, run.recipe, run.seed, run.seconds, run.gpu_seconds, run.reused)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LeftOutError(
            f"its record is damaged or of another program ({type(error).__name__}: {error})"
        ) from error
    assert touched
    if abs(again - run.score) > CLOSE:
        raise LeftOutError(
            f"its final score {run.score:.6f} is not what its own styles give ({again:.6f}): edited by hand?"
        )
    if data is None:
        raise LeftOutError(
            "which set it was scored on is not known: no digest in it, and its references are gone"
        )
    return run


def _score_again(run: Run) -> float:
    styles = run.metrics["styles"].values()
    weights = [style["n_pictures"] for style in styles]
    values = {name: float(np.mean([style[name] for style in styles])) for name in ("dino", "hist", "lpips")}
    values["clip_iqa"] = float(np.mean([style["clip_iqa"] for style in styles]))
    values["clip_r"] = float(np.average([style["clip_r"] for style in styles], weights=weights))
    assert run.cells.score is not None
    return final_score(fid=min(float(run.metrics["fid"]), FID_CEILING), **values)


def _check_ended(metrics: Mapping[str, Any]) -> None:
    if metrics.get("stopped"):
        partial = metrics.get("partial_score")
        seen = f", {partial:.4f} on the styles it did" if isinstance(partial, float) else ""
        raise LeftOutError(f"stopped early by its sweep{seen}")
    failed = metrics.get("failed_styles")
    if failed:
        raise LeftOutError(f"styles failed: {', '.join(map(str, failed))}")
    score = metrics.get("final_score")
    if not isinstance(score, int | float) or not math.isfinite(score):
        if (metrics.get("judges") or {}).get("name") == "none":
            raise LeftOutError("it was not scored")
        faults = [fault for fault in metrics.get("faults") or [] if isinstance(fault, Mapping)]
        why = [str(fault.get("message")) for fault in faults if fault.get("severity") == "error"]
        raise LeftOutError("; ".join(why) or "no final score")
    if not metrics.get("complete"):
        missing = metrics.get("missing") or []
        raise LeftOutError(f"incomplete: {len(missing)} pictures are missing" if missing else "incomplete")


def _check_known(metrics: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    judges = metrics.get("judges")
    if not isinstance(judges, Mapping) or not judges.get("sha256"):
        raise LeftOutError("its judges' digests are not recorded, so it can be compared with nothing")
    if not isinstance(about.get("config"), Mapping) or not isinstance(about.get("identity"), Mapping):
        raise LeftOutError("its settings are not recorded (trial.json)")


def read_folder(folder: Path, name: str) -> Run:
    """A run folder. Raises: LeftOutError."""
    if not (folder / "metrics.json").exists():
        raise LeftOutError("unfinished: there is no metrics.json")
    if not (folder / "trial.json").exists():
        raise LeftOutError("unfinished: there is no trial.json")
    metrics, about = _read(folder / "metrics.json"), _read(folder / "trial.json")
    data = about.get("data")
    return checked(name, metrics, about, data if isinstance(data, Mapping) else _data_of(folder, metrics))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LeftOutError(f"{path.name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise LeftOutError(f"{path.name} holds a {type(content).__name__}, not an object")
    return content


def _data_of(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The set of a run that did not write it down, from references and prompts; None if they are gone."""
    try:
        references = json.loads((folder / "references.json").read_text(encoding="utf-8"))
        styles = {
            style: ([file_digest(folder / path) for path in references[style]], list(scores["pictures"]))
            for style, scores in metrics["styles"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    prompts = sum(len(words) for _, words in styles.values())
    return {"digest": set_digest(styles), "styles": len(styles), "prompts": prompts}
