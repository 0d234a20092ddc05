"""Features on disk, named by what they are made of, so nothing stale is read; many processes may write."""

import hashlib
import json
import logging
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evaluation.files import write_atomic

_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """`$JDX_CACHE`, else `jdx` in `$XDG_CACHE_HOME` or `~/.cache`; `features` below it."""
    home = os.environ.get("JDX_CACHE")
    if home:
        return Path(home).expanduser() / "features"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "jdx" / "features"


def feature_key(*parts: str) -> str:
    """SHA-256 over the parts: digests of content and network, preprocessing, and what else matters."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class FeatureCache:
    """Named tensors in `folder`, one file per key (a checksum and safetensors); `None` switches it off.

    A file is written beside its place and renamed, so a reader sees all of it or none. A file that cannot be
    read counts as absent and is replaced. A folder that cannot be written to costs one warning, not a score.
    """

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser()
        self._warned = False

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under `key`, or None."""
        if self.folder is None:
            return None
        try:
            return _unpack(self._path(key).read_bytes())
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError) as error:
            _log.warning("feature cache: %s is damaged (%s), made anew", self._path(key), error)
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        """Store the tensors under `key`."""
        if self.folder is None:
            return
        try:
            self._write(
                self._path(key), _pack({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
            )
        except OSError as error:
            if not self._warned:
                _log.warning(
                    "feature cache: %s cannot be written to (%s), going on without", self.folder, error
                )
            self._warned = True

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.features"

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data, sync=False)


def _pack(tensors: dict[str, Tensor]) -> bytes:
    """A checksum is cheaper than an fsync for each of hundreds of files, and finds what one prevents."""
    data: bytes = save(tensors)
    return hashlib.sha256(data).digest() + data


def _unpack(data: bytes) -> dict[str, Tensor]:
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise ValueError("its checksum does not match")
    tensors: dict[str, Tensor] = load(data[32:])
    return tensors
