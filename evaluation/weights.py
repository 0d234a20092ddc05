"""Finding the files of a judge set: local first, downloads for hub names and addresses only."""

import hashlib
import logging
import os
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from evaluation.errors import JudgesError
from evaluation.files import write_atomic
from evaluation.judges import NOUNS, ROLES, JudgeSpec, NetworkSpec

_log = logging.getLogger(__name__)

_TIMEOUT_S = 30
_REACH_S = 5
_READERS = 4  # weight files that are read at once
_HF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_HF_TOKENIZERS = ("tokenizer.json", "vocab.json")
_TOKENIZER_FILES = ("*.json", "*.txt")
_TOKENIZER_PARTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
_MODEL_FILES = (*_TOKENIZER_FILES, "model*.safetensors")

# Each entry: any one of these files must be there.
_MODEL_NEEDS = (("config.json",), _HF_WEIGHTS, ("preprocessor_config.json",))


@dataclass(frozen=True)
class Located:
    """A network whose files are here: a folder or a file, and the SHA-256 over all in it that counts."""

    spec: NetworkSpec
    place: Path
    digest: str
    tokenizer: Path | None = None


def weights_dir() -> Path:
    """Where downloaded weight files are kept: `$JDX_WEIGHTS`, else `~/.cache/jdx/weights`."""
    return Path(os.environ.get("JDX_WEIGHTS") or "~/.cache/jdx/weights").expanduser()


def locate(judges: JudgeSpec) -> dict[str, Located]:
    """Find, or fetch, the files of every role.

    Raises:
        JudgesError: names every network that cannot be had, why, and the option that points to a local copy.
    """
    found = _find(judges, fetch=True)
    _read_ahead(found.values())
    return {role: replace(one, digest=_digest(one)) for role, one in found.items()}


def check(judges: JudgeSpec) -> None:
    """Look for the files of every role without reading weights. What is not here counts as there, and is not fetched,
    as long as the hub answers.

    Raises:
        JudgesError: as `locate`.
    """
    if len(_find(judges, fetch=False)) < len(ROLES) and not _hub_answers():
        _find(judges, fetch=True)  # to be refused, in its words


def _hub_answers() -> bool:
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=_REACH_S, follow_redirects=True)
    except httpx.HTTPError:
        return False
    return True


def _find(judges: JudgeSpec, *, fetch: bool) -> dict[str, Located]:
    """Where the networks are, without their digests and without those that `fetch` would have to bring."""
    found: dict[str, Located] = {}
    faults: dict[str, list[str]] = {}
    for role, spec in judges.items():
        try:
            place = _place(spec, fetch)
            if place is None:
                continue
            if lacking := _missing(spec, place):
                faults[role] = lacking
                continue
            needs_tokenizer = spec.kind == "clip_rn50"
            tokenizer = _tokenizer(spec, judges, fetch) if needs_tokenizer else None
            if tokenizer is not None or not needs_tokenizer:
                found[role] = Located(spec, place, "", tokenizer)
        except JudgesError as error:
            faults[role] = [str(error)]
    if faults:
        hint = " ".join(f"--{role.replace('_', '-')} PATH" for role in faults)
        listed = "".join(f"\n  - {role}: {one}" for role, several in faults.items() for one in several)
        raise JudgesError(
            f"the judge set {judges.name!r} is not complete:{listed}\n"
            f"Point to local copies with {hint}, or use another set with --backbones (docs/judges.md)."
        )
    return found


def identity(judges: JudgeSpec) -> dict[str, Any]:
    """What a judge set is, without loading it: equal where every score is. Plain JSON values.

    Raises:
        JudgesError: as `locate`.
    """
    found = locate(judges)
    options = {role: {**spec.options} for role, spec in judges.items()}
    options["clip_r"].setdefault("nouns", NOUNS)
    return {
        "name": judges.name,
        **{
            role: {
                "kind": one.spec.kind,
                "sha256": one.digest,
                "tokenizer": digest_of_tokenizer(one.tokenizer) if one.tokenizer else None,
                "options": {key: _option(value) for key, value in sorted(options[role].items())},
            }
            for role, one in found.items()
        },
    }


def _option(value: Any) -> Any:
    """An option as it counts: a file by its content, a tokenizer's folder by that of its files."""
    if not isinstance(value, Path):
        return value
    if value.is_dir():
        return digest_of_tokenizer(value)
    return _known_digest(value)


def _place(spec: NetworkSpec, fetch: bool) -> Path | None:
    """None: it is not here, and was not to be fetched."""
    if spec.path is not None:
        return spec.path
    if spec.hub is not None:
        return _hub(spec.hub, _MODEL_FILES, (*_MODEL_NEEDS, *_needs_of(spec)), fetch)
    return _from_urls(spec.urls, spec.sha256) if fetch else _here(spec.urls)


def _missing(spec: NetworkSpec, place: Path) -> list[str]:
    """What a place lacks to be of its kind."""
    if spec.kind in ("squeeze", "inception", "clip_rn50"):
        faults = [] if place.is_file() else [f"{place}: the weight file is missing"]
    elif spec.kind == "trunk":
        faults = _absent(place, [("config.json",), ("model.safetensors",)])
    else:
        faults = _absent(place, (*_MODEL_NEEDS, *_needs_of(spec)))
    for key in ("nouns", "heads"):
        value = spec.options.get(key)
        if isinstance(value, Path) and not value.is_file():
            faults.append(f"{value}: the file of `{key}` is missing")
    return faults


def _needs_of(spec: NetworkSpec) -> tuple[tuple[str, ...], ...]:
    return (_HF_TOKENIZERS,) if spec.kind == "clip" else ()


def _absent(place: Path, wanted: Iterable[tuple[str, ...]]) -> list[str]:
    if not place.is_dir():
        return [f"{place}: the folder is missing"]
    return [
        f"{place / names[0]} is missing" + (f" (or {', '.join(names[1:])})" if names[1:] else "")
        for names in wanted
        if not any((place / name).is_file() for name in names)
    ]


def _tokenizer(spec: NetworkSpec, judges: JudgeSpec, fetch: bool) -> Path | None:
    """CLIP's tokenizer: the one named, else that of the CLIP-R network, which is the same."""
    named = spec.options.get("tokenizer")
    if named is None:
        return _place(judges.clip_r, fetch)
    return named if isinstance(named, Path) else _hub(str(named), _TOKENIZER_FILES, (_HF_TOKENIZERS,), fetch)


@lru_cache(maxsize=32)
def _hub(
    name: str, patterns: tuple[str, ...], needs: tuple[tuple[str, ...], ...], fetch: bool
) -> Path | None:
    from huggingface_hub import snapshot_download

    wanted = list(patterns)
    try:
        local = Path(snapshot_download(name, allow_patterns=wanted, local_files_only=True))
        if not _absent(local, needs):
            return local
    except Exception as error:  # whatever the reason, the download below decides
        _log.debug("%s is not in the local cache: %s", name, error)
    if not fetch:
        return None
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=_TIMEOUT_S))
    except Exception as error:  # each library below raises its own; all mean "cannot be had"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise JudgesError(f"{name} is not in the local cache and cannot be downloaded ({reason})") from error


def torch_hub() -> Path:
    """Where torch.hub keeps what it downloads, as `torch.hub.get_dir` says without torch having to be imported."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub"


def _here(urls: tuple[str, ...]) -> Path | None:
    """A file of these addresses that somebody has downloaded before."""
    folders = (weights_dir(), torch_hub() / "checkpoints", Path("~/.cache/clip").expanduser())
    return next((path for folder in folders if (path := folder / _name(urls)).is_file()), None)


def _name(urls: tuple[str, ...]) -> str:
    return urls[0].rsplit("/", 1)[-1]


def _from_urls(urls: tuple[str, ...], sha256: str) -> Path:
    if (there := _here(urls)) is not None:
        return there
    name, reasons = _name(urls), []
    for url in urls:
        try:
            return _download(url, weights_dir() / name, sha256)
        except (OSError, ValueError) as error:
            reasons.append(f"{url}: {error}")
    raise JudgesError(f"{name} is not in {weights_dir()} and cannot be downloaded ({'; '.join(reasons)})")


def _download(url: str, to: Path, sha256: str) -> Path:
    _log.info("downloading %s to %s", url, to)
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
        data: bytes = response.read()
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(sha256):
        raise ValueError(f"its SHA-256 is {digest}, {sha256}… was expected")
    to.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(to, data)
    return to


def _digest(one: Located) -> str:
    """SHA-256 over names and contents of the files that can change a score."""
    return _digest_of(one.spec.kind, _files(one))


def digest_of_tokenizer(folder: Path) -> str:
    """SHA-256 over names and contents of a tokenizer's files."""
    return _digest_of("tokenizer", [folder / name for name in _TOKENIZER_PARTS if (folder / name).is_file()])


def _read_ahead(networks: Iterable[Located]) -> None:
    """Have the files of all networks hashed at once, each of them once: they are gigabytes."""
    files = dict.fromkeys(path for one in networks for path in _files(one))
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(_known_digest, files))


def _known_digest(path: Path) -> str:
    """SHA-256 of a file, read once per process and change of its size or time."""
    stat = path.stat()
    return _file_digest(path, stat.st_mtime_ns, stat.st_size)


def _digest_of(kind: str, files: Iterable[Path]) -> str:
    hasher = hashlib.sha256(kind.encode())
    for path in files:
        hasher.update(path.name.encode() + _known_digest(path).encode())
    return hasher.hexdigest()


def _files(one: Located) -> list[Path]:
    if one.place.is_file():
        return [one.place]
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    if one.spec.kind == "clip":
        names += _TOKENIZER_PARTS
    files = [one.place / name for name in names if (one.place / name).is_file()]
    if not (one.place / "model.safetensors").is_file():
        files += sorted([*one.place.glob("model-*.safetensors"), *one.place.glob("pytorch_model*.bin")])
    return files


@lru_cache(maxsize=256)
def _file_digest(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
