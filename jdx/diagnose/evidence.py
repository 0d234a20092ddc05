"""What a diagnosis rests on: the judges' marks of the pictures, and of each reference against the others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from data.faults import DataError
from data.names import object_word
from data.pictures import load_picture
from jdx.report.run_folder import RunFolder
from jdx.schema import Evaluation, Networks

if TYPE_CHECKING:
    from evaluation import Scorer
    from evaluation.report import PictureScore

MOST = 12
"""References that are held against the others, at most: each costs a pass over all of them."""


@dataclass(frozen=True)
class Judged:
    """A style as the judges see it. Similarities are DINO cosines, rows of pictures by columns of references."""

    pictures: Mapping[str, PictureScore]
    references: Sequence[PictureScore]  # each against the others
    similar: Mapping[str, Sequence[float]]
    among: Sequence[float]  # of each reference: to the reference most like it
    named: int  # references whose own word is among CLIP-R's first five


@dataclass(frozen=True)
class Evidence:
    """A style's pictures and references, decoded, and what the judges say of them (None: nobody was asked)."""

    id: str
    pictures: Mapping[str, Image.Image]
    references: Mapping[str, Image.Image]  # by object word
    judged: Judged | None
    problems: Sequence[str]


def read_style(folder: RunFolder, style: str, scorer: Scorer | None) -> Evidence:
    """Decode a style and ask the judges. What cannot be read is named in `problems` and left out."""
    problems: list[str] = []
    pictures = _decoded(folder.pictures(style), problems)
    words: dict[str, Path] = {}
    for path in folder.references.get(style, []):
        word = object_word(path.stem)
        words[word if word not in words else f"{word} ({path.name})"] = path
    references = _decoded(words, problems)
    judged = None
    if scorer is not None and pictures and len(references) > 1:
        judged = judge(scorer, style, pictures, references, _known(folder, style, scorer))
    return Evidence(style, pictures, references, judged, problems)


def judge(
    scorer: Scorer,
    style: str,
    pictures: Mapping[str, Image.Image],
    references: Mapping[str, Image.Image],
    known: Mapping[str, PictureScore] | None = None,
) -> Judged:
    """Marks of the pictures (`known`: those that are there already), and of each reference against the others."""
    words, drawings = list(references), list(references.values())
    known = known or {}
    if not set(pictures) <= set(known):
        known = scorer.marks(style, pictures, drawings).score.pictures
    chosen = _spaced(len(words), MOST)
    own = []
    for i in chosen:
        others = drawings[:i] + drawings[i + 1 :]
        own.append(scorer.marks(style, {words[i]: drawings[i]}, others).score.pictures[words[i]])
    table = scorer.similarities(references, drawings)
    among = [max(x for j, x in enumerate(table[word]) if j != i) for i, word in enumerate(words)]
    return Judged(
        pictures={prompt: known[prompt] for prompt in pictures},
        references=own,
        similar=scorer.similarities(pictures, drawings),
        among=among,
        named=sum(score.clip_r_hit for score in own),
    )


def _decoded(paths: Mapping[str, Path], problems: list[str]) -> dict[str, Image.Image]:
    found = {}
    for name, path in paths.items():
        try:
            found[name] = load_picture(path)
        except DataError as error:
            problems.append(str(error))
    return found


def _spaced(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced."""
    return sorted({round(i * (count - 1) / max(1, min(count, most) - 1)) for i in range(min(count, most))})


def _known(folder: RunFolder, style: str, scorer: Scorer) -> dict[str, PictureScore]:
    """Marks that metrics.json holds, if the same networks gave them with the same variants."""
    from evaluation.report import PictureScore

    options = scorer.options
    variants = {"histogram": options.histogram, "fid_resize": options.fid_resize}
    judges = folder.metrics.get("judges")
    same = isinstance(judges, Mapping) and judges == scorer.judges.to_json()
    if not same or folder.metrics.get("variants") != variants:
        return {}
    try:
        return {prompt: PictureScore.from_json(one) for prompt, one in folder.picture_scores(style).items()}
    except (KeyError, TypeError):  # an older file without all numbers: the judges are asked again
        return {}


def settings_of(folder: RunFolder) -> Evaluation | None:
    """How the run was scored, from trial.json, else the judges' name in metrics.json; None where neither says it."""
    try:
        content: Any = json.loads((folder.root / "trial.json").read_text(encoding="utf-8"))
        return Evaluation(**content["config"]["evaluation"])
    except (OSError, ValueError, KeyError, TypeError):
        judges = folder.metrics.get("judges")
    if not isinstance(judges, Mapping) or not judges.get("name"):
        return None
    variants = folder.metrics.get("variants")
    variants = variants if isinstance(variants, Mapping) else {}
    found: dict[str, Any] = {"judges": str(judges["name"]), "networks": Networks(), **variants}
    return Evaluation(**found)
