"""Backends by name. Importing this imports no framework; `make_backend` imports the one asked for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from jdx.backends.base import Backend
from jdx.errors import ConfigError, Fault

__all__ = ["Backend", "make_backend"]


def _torch(**settings: Any) -> Backend:
    from jdx.backends.torch.backend import TorchBackend

    return TorchBackend(**settings)


BACKENDS: dict[str, Callable[..., Backend]] = {"torch": _torch}


def make_backend(name: str, **settings: Any) -> Backend:
    """The backend called `name`, made with its settings (torch: those of `TorchBackend`).

    Raises ConfigError for an unknown name, with the nearest real one.
    """
    if name not in BACKENDS:
        near = difflib.get_close_matches(name, BACKENDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError([Fault("backend.name", name, f"one of: {', '.join(sorted(BACKENDS))}{hint}")])
    return BACKENDS[name](**settings)
