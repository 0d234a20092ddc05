"""Backends by name. Importing this imports no framework; `make_backend` imports the one asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jdx.backends.base import Backend
from jdx.errors import ConfigError, Fault

if TYPE_CHECKING:
    from jdx import schema

__all__ = ["Backend", "make_backend", "settings_of"]

KERNELS = ".kernels"
"""Folder of the store in which backends keep compiled code; no stage's results, so it may be deleted at any time."""


def _torch(**settings: Any) -> Backend:
    from jdx.backends.torch.backend import TorchBackend

    return TorchBackend(**settings)


def _jittor(*, timeout: float, **place: Any) -> Backend:
    from jdx.backends.jittor.backend import JittorBackend
    from jdx.backends.jittor.environment import Place

    return JittorBackend(Place(**place), timeout)


def _jdiffusion(*, timeout: float, **place: Any) -> Backend:
    from jdx.backends.jittor.environment import Place
    from jdx.backends.jittor.jdiffusion.backend import JDiffusionBackend

    return JDiffusionBackend(Place(**place), timeout)


BACKENDS: dict[str, Callable[..., Backend]] = {"torch": _torch, "jittor": _jittor, "jdiffusion": _jdiffusion}


def settings_of(config: schema.TrialConfig, device: str) -> dict[str, Any]:
    """What `make_backend` wants of a trial's settings; device: instead of theirs, where styles are shared out."""
    backend = config.backend
    common = {"device": device, "threads": backend.threads}
    if backend.name == "torch":
        return {
            **common,
            "dtype": backend.dtype,
            "memory": backend.memory,
            "kernels": Path(config.store.root) / KERNELS,
            "deterministic": config.train.deterministic,
            "fused": backend.fused == "auto",
        }
    places = {name: Path(path) for name in ("python", "home") if (path := getattr(backend, name)) is not None}
    return {**common, **places, "timeout": backend.timeout, "compile_limit": backend.compile_timeout}


def make_backend(name: str, **settings: Any) -> Backend:
    """The backend called `name`, made with its settings (`settings_of`).

    Raises ConfigError for an unknown name, with the nearest real one.
    """
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError([Fault("backend.name", name, f"one of: {', '.join(sorted(BACKENDS))}{hint}")])
    return BACKENDS[name](**settings)
