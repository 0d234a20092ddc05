"""What a file or a model is, as a short text that changes when its content does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.challenge import ChallengeSet
from jdx.backends.base import ModelSpec
from jdx.beside import threads
from jdx.files import write_text

MODEL_FILES = (".safetensors", ".bin", ".json", ".txt")
READERS = 4
"""Files of a model that are hashed at once: gigabytes, and hashing leaves the interpreter to others."""


@lru_cache(maxsize=4096)
def _digest(path: str, _size: int, _mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read once per process and change of its size or time."""
    stat = path.stat()
    return _digest(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


def set_digest(styles: Mapping[str, tuple[Iterable[str], Iterable[str]]]) -> str:
    """24 hexadecimal digits of what a challenge set asks for, of {style: (references' digests, prompts)}.

    The same for the same pictures and prompts in another folder, under other file names or in another order.
    """
    content = {
        style: [sorted(references), sorted(prompts)] for style, (references, prompts) in styles.items()
    }
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def data_identity(challenge: ChallengeSet) -> dict[str, Any]:
    """What a trial's scores stand for: digest, styles and prompts of its set."""
    content = {
        style.id: ([file_digest(one.path) for one in style.references], [one.text for one in style.prompts])
        for style in challenge.styles
    }
    return {
        "digest": set_digest(content),
        "styles": len(challenge.styles),
        "prompts": challenge.n_prompts,
    }


def model_identity(model: ModelSpec, cache: Path | None = None) -> str:
    """The weights' identity: a digest of a local folder, or a hub id with the commit in the local hub cache.

    cache: a JSON file that remembers large files' digests between processes by path, size and time.
    """
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        identity = "folder:" + _folder_digest(folder, cache)
    else:
        identity = f"hub:{model.path}@{_hub_commit(model)}"
    return identity + (f":{model.variant}" if model.variant else "")


def _folder_digest(folder: Path, cache: Path | None) -> str:
    known = _remembered(cache)
    total = hashlib.sha256()
    files = sorted(p for p in folder.rglob("*") if p.suffix in MODEL_FILES and p.is_file())
    names = [f"{path.resolve()}|{(stat := path.stat()).st_size}|{stat.st_mtime_ns}" for path in files]
    with ThreadPoolExecutor(threads(READERS)) as pool:
        digests = pool.map(lambda path, name: known.get(name) or file_digest(path), files, names)
        fresh = dict(zip(names, digests, strict=True))
    for path, name in zip(files, names, strict=True):
        total.update(f"{path.relative_to(folder).as_posix()}\0{fresh[name]}\n".encode())
    if cache is not None and not fresh.keys() <= known.keys():
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_text(cache, json.dumps(known | fresh, indent=0))
    return total.hexdigest()[:24]


def _remembered(cache: Path | None) -> dict[str, str]:
    """Digests of earlier processes; a torn or foreign file costs a second look at the weights, nothing more."""
    try:
        known = json.loads(cache.read_text()) if cache is not None and cache.is_file() else {}
    except ValueError:
        return {}
    if not isinstance(known, dict):
        return {}
    return {name: digest for name, digest in known.items() if isinstance(digest, str)}


def _hub_commit(model: ModelSpec) -> str:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model.path, "model_index.json", revision=model.revision)
    return Path(found).parent.name if isinstance(found, str) else (model.revision or "main")
