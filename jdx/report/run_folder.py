"""A run folder read back: whatever is there, and a sentence for whatever is not."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from jdx.words import typed

DIAGNOSIS = "diagnosis.json"
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class RunFolder:
    """Reads a run folder's files. Missing or broken ones become empty values and a line in `problems`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.problems: list[str] = []
        self.metrics: dict[str, Any] = self._mapping("metrics.json", json.loads, "the run has no score yet")
        self.references = self._read_references()
        self.losses = self._read_losses()
        self.diagnosis = self._read_diagnosis()

    def config_text(self) -> str:
        """The composed config as YAML text."""
        return self._text(".hydra/config.yaml", "its settings are not known") or ""

    def command(self) -> str:
        """The command line that made the run, as a shell would take it."""
        text = self._text(".hydra/overrides.yaml", "its command line is not known")
        try:
            overrides = yaml.safe_load(text) if text else None
        except yaml.YAMLError as error:
            self.problems.append(f".hydra/overrides.yaml is not YAML ({_first_line(error)})")
            return ""
        if text is None:
            return ""
        given = overrides if isinstance(overrides, list) else []
        return typed(["python", "-m", "jdx.train", *map(str, given)])

    def styles(self) -> list[str]:
        """Ids of all styles that have pictures, scores or references, sorted."""
        images = self.root / "images"
        drawn = {p.name for p in images.iterdir() if p.is_dir()} if images.is_dir() else set()
        return sorted(drawn | set(self.style_scores()) | set(self.references))

    def style_scores(self) -> dict[str, dict[str, Any]]:
        """Per-style part of `metrics.json`; empty when there is none."""
        scores = self.metrics.get("styles")
        if not isinstance(scores, dict):
            return {}
        return {style: values for style, values in scores.items() if isinstance(values, dict)}

    def pictures(self, style: str) -> dict[str, Path]:
        """Generated pictures of one style by prompt: sorted by name."""
        folder = self.root / "images" / style
        found = {}
        if folder.is_dir():
            found = {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in PICTURE_SUFFIXES}
        return found

    def picture_scores(self, style: str) -> dict[str, dict[str, Any]]:
        """Per-picture scores of one style by prompt."""
        scores = self.style_scores().get(style, {}).get("pictures")
        if not isinstance(scores, dict):
            return {}
        return {prompt: values for prompt, values in scores.items() if isinstance(values, dict)}

    def _read_diagnosis(self) -> dict[str, Any]:
        """What `python -m jdx.diagnose` left, if somebody ran it."""
        if not (self.root / DIAGNOSIS).exists():
            return {}
        return self._mapping(DIAGNOSIS, json.loads, "the likely faults are not shown")

    def findings(self, style: str) -> list[dict[str, Any]]:
        """Findings of one style, as diagnosis.json has them: {"kind", "text", "prompt"}."""
        styles = self.diagnosis.get("styles")
        one = styles.get(style) if isinstance(styles, dict) else None
        found = one.get("findings") if isinstance(one, dict) else None
        if not isinstance(found, list):
            return []
        return [item for item in found if isinstance(item, dict) and {"kind", "text"} <= set(item)]

    def _read_references(self) -> dict[str, list[Path]]:
        raw = self._mapping("references.json", json.loads, "the reference pictures are not shown")
        return {
            style: [self.root / str(path) for path in paths]  # an absolute path stays as it is
            for style, paths in raw.items()
            if isinstance(paths, list)
        }

    def _read_losses(self) -> dict[str, list[tuple[float, float]]]:
        text = self._text("losses.csv", "there are no loss curves")
        curves: dict[str, list[tuple[float, float]]] = {}
        torn = 0
        for row in csv.DictReader((text or "").splitlines()):
            try:
                step, loss = float(row["step"]), float(row["loss"])
                style = str(row["style"])
            except (KeyError, TypeError, ValueError):
                torn += 1
                continue
            if math.isfinite(step) and math.isfinite(loss):
                curves.setdefault(style, []).append((step, loss))
        if torn:
            self.problems.append(f"losses.csv: {torn} lines could not be read (columns: step, style, loss)")
        return {style: sorted(points) for style, points in sorted(curves.items())}

    def _mapping(self, name: str, parse: Any, without: str) -> dict[str, Any]:
        text = self._text(name, without)
        if text is None:
            return {}
        try:
            value = parse(text)
        except ValueError as error:
            self.problems.append(f"{name} cannot be read ({_first_line(error)}): {without}")
            return {}
        if isinstance(value, Mapping):
            return dict(value)
        self.problems.append(f"{name} holds a {type(value).__name__}, not an object: {without}")
        return {}

    def _text(self, name: str, without: str) -> str | None:
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            self.problems.append(f"there is no {name}: {without}")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{name} cannot be read ({_first_line(error)}): {without}")
        return None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
