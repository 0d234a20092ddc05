"""A component's weights, read by name: what is missing, misshapen or left over is noted, and told all at once.

Jittor's own `load_state_dict` passes over missing, unknown and wrongly shaped entries without a word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import safetensors
from safetensors import SafetensorError, safe_open

from jdx.backends.layout import read_json, weight_file
from jdx.errors import BackendError

OLD_NAMES = ((".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0."))
"""Attention weights of autoencoders as diffusers called them before 0.15; the published Stable Diffusions do."""
IGNORED = re.compile(r"(^|\.)position_ids$")
"""Buffers that old versions of transformers wrote: 0, 1, 2, ..., no weights."""
KINDS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
"""Types of numbers in safetensors' words."""
SHOWN = 8
"""Names of one kind listed in full; the rest are counted."""


@dataclass
class Book:
    """The tensors of one component's files by canonical name, and what became of them."""

    shapes: dict[str, tuple[int, ...]]
    files: dict[str, tuple[Path, str]]  # where a tensor is: the file, and its name there
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    modules: dict[str, Any] = field(default_factory=dict)  # what was built, by path, in the order of building
    opened: dict[Path, Any] = field(default_factory=dict)
    widened: dict[Path, dict[str, np.ndarray[Any, Any]]] = field(default_factory=dict)  # files in bfloat16

    def take(self, name: str, shape: tuple[int, ...]) -> jt.Var:
        """The tensor in float32; where it cannot be had, a fault is noted and zeros stand for it."""
        self.taken.add(name)
        if name not in self.shapes:
            self.missing.append(f"{name} is missing")
        elif self.shapes[name] != shape and not _squeezed(self.shapes[name], shape):
            self.misshapen.append(f"{name} has the shape {self.shapes[name]}, config.json asks for {shape}")
        else:
            return frozen(self.read(name).reshape(shape))
        return jt.zeros(shape)

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor as it is on disk."""
        file, key = self.files[name]
        if file not in self.opened:
            self.opened[file] = safe_open(str(file), framework="numpy")
        try:
            return np.asarray(self.opened[file].get_tensor(key))
        except TypeError:  # bfloat16
            return self._wide(file)[key]

    def _wide(self, file: Path) -> dict[str, np.ndarray[Any, Any]]:
        if file not in self.widened:
            self.widened[file] = arrays(file)
        return self.widened[file]

    def close(self, what: Path) -> None:
        """Say everything that did not fit.

        Raises: BackendError.
        """
        self.opened.clear()
        self.widened.clear()
        unknown = [
            f"{name} is not a weight of this network" for name in self.shapes if name not in self.taken
        ]
        faults = [fault for some in (self.missing, self.misshapen, unknown) for fault in _shortened(some)]
        if faults:
            listed = "\n".join(f"  - {fault}" for fault in faults)
            raise BackendError(f"{what} does not hold the network of its config.json:\n{listed}")


@dataclass(frozen=True)
class Source:
    """A module's place in a `Book`: its weights are read by their last names."""

    book: Book
    path: str = ""

    def below(self, *names: str | int) -> Source:
        """The place of a part."""
        return replace(self, path=".".join(str(part) for part in (self.path, *names) if part != ""))

    def take(self, name: str, *shape: int) -> jt.Var:
        """The weight `name` of this module, no gradient of its own."""
        return self.book.take(self.below(name).path, shape)

    def register(self, module: object) -> None:
        """Make a built module findable by its path."""
        self.book.modules[self.path] = module


def frozen(values: np.ndarray[Any, Any]) -> jt.Var:
    """A constant in float32."""
    return jt.array(np.ascontiguousarray(values, np.float32)).stop_grad()


def open_weights(folder: Path, stem: str, variant: str | None) -> Source:
    """The weights of a component's folder, sharded or whole, in the variant asked for or else the plain one.

    Raises: BackendError when there are none or they cannot be read.
    """
    file = weight_file(folder, stem, variant) or weight_file(folder, stem, None)
    if file is None:
        raise BackendError(f"{folder} holds no {stem}.safetensors")
    files = _shards(file) if file.suffix == ".json" else [file]
    book = Book({}, {})
    for part in files:
        try:
            with safe_open(str(part), framework="numpy") as opened:
                for key in opened.keys():  # noqa: SIM118 (no mapping)
                    _enter(book, part, key, tuple(opened.get_slice(key).get_shape()))
        except (OSError, SafetensorError) as error:
            raise BackendError(f"{part} cannot be read: {error}") from error
    return Source(book)


def _shards(index: Path) -> list[Path]:
    content, fault = read_json(index)
    if content is None:
        raise BackendError(fault)
    return [index.with_name(name) for name in sorted(set(content.get("weight_map", {}).values()))]


def _enter(book: Book, file: Path, key: str, shape: tuple[int, ...]) -> None:
    name = canonical(key)
    if not IGNORED.search(name):
        book.shapes[name], book.files[name] = shape, (file, key)


def canonical(key: str) -> str:
    """A weight's name as the modules have it: without `text_model.`, attentions by their present names."""
    name = key.removeprefix("text_model.")
    if ".attentions." in name:
        for old, new in OLD_NAMES:
            name = name.replace(old, new)
    return name


def _squeezed(is_: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a linear layer's weight is stored as that of a 1 × 1 convolution, as old autoencoders do."""
    return is_ == (*wanted, 1, 1)


def arrays(file: Path) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of a safetensors file; NumPy has no bfloat16, whose bits are a float32's upper half."""
    found = {}
    for name, about in safetensors.deserialize(file.read_bytes()):  # type: ignore[no-untyped-call]
        shape, kind = about["shape"], about["dtype"]
        if kind == "BF16":
            bits = np.frombuffer(about["data"], np.uint16).astype(np.uint32) << 16
            found[name] = bits.view(np.float32).reshape(shape)
        elif kind in KINDS:
            found[name] = np.frombuffer(about["data"], KINDS[kind]).reshape(shape)
        else:
            raise BackendError(f"{file}: {name} is in {kind}; read are: {', '.join([*KINDS, 'BF16'])}")
    return found


def _shortened(faults: Sequence[str]) -> list[str]:
    """At most SHOWN faults of one kind: another model's file would list hundreds."""
    more = len(faults) - SHOWN
    return list(faults) if more <= 0 else [*faults[:SHOWN], f"... and {more} more of this kind"]
