"""A trained VAE prompt enhancer on disk, the same for every backend.

`vae_enhancer.safetensors` is complete in itself: the parameters by name and `seen`, the averaged moments that they
were trained with. So drawing needs neither the references nor their resolution, and pictures of any size are drawn
with the same bias.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from jdx._version import __version__
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes
from jdx.methods.enhancer_form import Form

Floats = npt.NDArray[np.float32]

FILE = "vae_enhancer.safetensors"
HEADER = "jdx"
SEEN = "seen"


@dataclass(frozen=True)
class StoredEnhancer:
    """One style's enhancer. vector: its parameters (P,) in the order of `Form.shapes`; seen: its features
    (2C, 2·rows, 2·columns); weight: of its output among the text states.
    """

    form: Form
    weight: float
    vector: Floats
    seen: Floats
    metadata: Mapping[str, Any] = field(default_factory=dict)


def write_enhancer(folder: Path, enhancer: StoredEnhancer) -> Path:
    """Write `folder`/vae_enhancer.safetensors and return its path.

    Raises: ValueError when a number is not finite.
    """
    cuts = np.cumsum([int(np.prod(shape)) for shape in enhancer.form.shapes.values()])[:-1]
    parts = zip(enhancer.form.shapes.items(), np.split(enhancer.vector, cuts), strict=True)
    tensors = {SEEN: enhancer.seen, **{name: part.reshape(shape) for (name, shape), part in parts}}
    if wrong := [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]:
        raise ValueError(f"enhancer not saved: {', '.join(wrong)}: not finite")
    form = {"channels": enhancer.form.channels, "tokens": enhancer.form.tokens, "width": enhancer.form.width}
    about = {"version": __version__, **enhancer.metadata, "weight": enhancer.weight, **form}
    header = {HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)}
    whole = {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}
    write_bytes(folder / FILE, safetensors.numpy.save(whole, metadata=header))
    return folder / FILE


def read_enhancer(folder: Path, wanted: Form) -> StoredEnhancer | None:
    """The enhancer in an adapter's folder, checked against the model's sizes; None when there is none.

    Raises: ConfigError with every fault: a file that cannot be read or was made for other text states, missing,
    unknown or misshapen parameters, numbers that are not finite.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="np") as opened:
            about = json.loads((opened.metadata() or {})[HEADER])
        tensors = safetensors.numpy.load_file(str(file))
        form = Form(int(about["channels"]), int(about["tokens"]), int(about["width"]))
        weight = float(about["weight"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        allowed = f"a file that jdx wrote ({type(error).__name__}: {str(error)[:200]})"
        raise ConfigError([Fault("file", "cannot be read", allowed)], what=f"enhancer {file}") from error
    if faults := [*_form_faults(form, wanted), *_tensor_faults(tensors, form)]:
        raise ConfigError(faults, what=f"enhancer {file}")
    vector = np.concatenate([tensors[name].reshape(-1) for name in form.shapes])
    return StoredEnhancer(form, weight, vector, tensors[SEEN], about)


def _form_faults(form: Form, wanted: Form) -> list[Fault]:
    pairs = ((name, getattr(form, name), getattr(wanted, name)) for name in ("channels", "tokens", "width"))
    allowed = "{} for this base model: draw with the one that it was trained on"
    return [Fault(name, str(is_), allowed.format(want)) for name, is_, want in pairs if is_ != want]


def _tensor_faults(tensors: Mapping[str, Floats], form: Form) -> list[Fault]:
    rows, columns = form.grid
    shapes = {SEEN: (2 * form.channels, 2 * rows, 2 * columns), **form.shapes}
    found = [Fault(name, "", "no tensor of an enhancer") for name in sorted(tensors.keys() - shapes.keys())]
    for name, shape in shapes.items():
        if name not in tensors:
            found.append(Fault(name, "missing", f"a tensor of {shape}"))
        elif tuple(tensors[name].shape) != shape:
            found.append(Fault(name, str(tuple(tensors[name].shape)), f"must be {shape}"))
        elif not np.isfinite(tensors[name]).all():
            found.append(Fault(name, "", "numbers must be finite; the training that made them diverged"))
    return found
