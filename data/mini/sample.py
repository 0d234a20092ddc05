"""The embedded sample: four styles that the mini model has never seen, in the challenge's layout.

make_sample(Path("outputs/sample"))  # writes 00 .. 03, ten references and twelve prompts each
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.folders import RECORD  # hidden in the root: version, seed, styles, and every file's SHA-256
from data.mini.world import HELD_OUT, OBJECTS, Style, paint

SAMPLE_STYLES: dict[str, str] = dict(zip(("00", "01", "02", "03"), HELD_OUT, strict=False))
"""Which held-out style each folder shows: 00 chalk, 01 neon, 02 ink wash, 03 papercut."""

REFERENCES, PROMPTS, SHARED = 10, 12, 2
"""Pictures and prompts of a style, and how many prompts name an object that is among its pictures."""

SEED = 2024
VERSION = 1


def sample_objects(style: str, seed: int = SEED) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reference objects and prompt objects of one sample style; no two styles share a reference."""
    k = list(SAMPLE_STYLES).index(style)
    order = np.random.default_rng([seed, 0]).permutation(len(OBJECTS))
    references = order[k * REFERENCES : (k + 1) * REFERENCES]
    others = np.setdiff1d(order, references)
    rng = np.random.default_rng([seed, 1, k])
    new, seen = (
        rng.choice(others, PROMPTS - SHARED, replace=False),
        rng.choice(references, SHARED, replace=False),
    )
    named = [OBJECTS[i] for i in rng.permutation([*new, *seen])]
    return tuple(OBJECTS[i] for i in references), tuple(named)


def make_sample(root: Path, seed: int = SEED) -> Path:
    """Write the sample set to `root` unless it is there; returns `root`.

    A set that someone has edited is theirs: it stays as it is. A set of an older version is replaced only if
    none of its files was changed, added or removed. Built beside and renamed, so nobody sees half a set.
    Raises FileExistsError where `root` holds something else.
    """
    root = Path(root)
    if _is_current(root, seed):
        return root
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        if not (root / RECORD).is_file():
            raise FileExistsError(
                f"{root} holds something other than the sample set and is left alone; point data.root at an"
                " empty or missing folder, or read your own set with data=challenge"
            )
        if not _is_untouched(root):
            return root
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        _write(beside, seed)
        _publish(beside, root, seed)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return root


def true_drawings(
    style: str | Style, objects: Sequence[str], n: int, seed: int, size: int = 128
) -> NDArray[np.uint8]:
    """What a perfect learner would draw: (objects, n, size, size, 3), for measuring judges and ceilings.

    `style` is a Style or the name of a held-out one. None is a picture of the sample, whatever the seed.
    """
    if isinstance(style, str):
        if style not in HELD_OUT:
            raise ValueError(f"held-out style {style!r} is unknown; allowed: {', '.join(HELD_OUT)}")
        style = HELD_OUT[style]
    keys = [[np.random.default_rng([seed, 2, OBJECTS.index(o), k]) for k in range(n)] for o in objects]
    return np.stack(
        [[paint(o, style, rng, size) for rng in row] for o, row in zip(objects, keys, strict=True)]
    )


def _write(root: Path, seed: int) -> None:
    for k, (folder, name) in enumerate(SAMPLE_STYLES.items()):
        references, prompts = sample_objects(folder, seed)
        images = root / folder / "images"
        images.mkdir(parents=True)
        for obj in references:
            picture = paint(obj, HELD_OUT[name], np.random.default_rng([seed, 3, k, OBJECTS.index(obj)]))
            Image.fromarray(picture).save(images / f"{obj.lower().replace(' ', '_')}.png")
        numbered = {str(i): obj for i, obj in enumerate(prompts)}
        (root / folder / "prompt.json").write_text(json.dumps(numbered, indent=4) + "\n", encoding="utf-8")
    record = {"version": VERSION, "seed": seed, "styles": SAMPLE_STYLES, "files": _hashes(root)}
    (root / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    root.chmod(0o755)  # mkdtemp makes it private


def _publish(beside: Path, root: Path, seed: int) -> None:
    """Rename into place. Another process may have been faster: then its set, which is the same, stays."""
    old = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        if root.is_dir() and (root / RECORD).is_file() and not _is_current(root, seed):
            os.replace(root, old)  # an untouched set of an older version
        os.replace(beside, root)
    except OSError:
        if not _is_current(root, seed):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _record(root: Path) -> dict[str, object]:
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


def _is_current(root: Path, seed: int) -> bool:
    record = _record(root)
    return record.get("version") == VERSION and record.get("seed") == seed


def _is_untouched(root: Path) -> bool:
    return _record(root).get("files") == _hashes(root)


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != RECORD)
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
