"""A trained VAE prompt enhancer: its file beside the adapter, and what it does to text states.

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

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jdx._version import __version__
from jdx.backends.torch.models import Models
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes
from jdx.methods.enhancer import Form, enhance, named

FILE = "vae_enhancer.safetensors"
HEADER = "jdx"
SEEN = "seen"


@dataclass(frozen=True)
class Enhancer:
    """One style's enhancer. vector: its parameters (P,); seen: its features (2C, 2·rows, 2·columns); on the CPU."""

    form: Form
    weight: float
    vector: Tensor
    seen: Tensor
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def bias(self) -> Tensor:
        """What is added to the text states, (tokens, width): weight · out."""
        return self.weight * enhance(self.vector[None], self.seen[None].to(self.vector), self.form)[0]


def form_of(models: Models) -> Form:
    """The sizes that fit this model's latents and text states."""
    return Form(models.latent_channels, models.max_tokens, int(models.text_encoder.config.hidden_size))


def add(states: Tensor, bias: Tensor) -> Tensor:
    """Text states plus a bias that broadcasts, summed in float32 or wider and rounded once."""
    return (states.to(torch.promote_types(states.dtype, bias.dtype)) + bias).to(states.dtype)


def save_enhancer(folder: Path, enhancer: Enhancer) -> Path:
    """Write `folder`/vae_enhancer.safetensors and return its path.

    Raises: ValueError when a number is not finite.
    """
    tensors = {SEEN: enhancer.seen.float(), **named(enhancer.vector.float(), enhancer.form)}
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"enhancer not saved: {', '.join(wrong)}: not finite")
    form = {"channels": enhancer.form.channels, "tokens": enhancer.form.tokens, "width": enhancer.form.width}
    about = {"version": __version__, **enhancer.metadata, "weight": enhancer.weight, **form}
    header = {HEADER: json.dumps(about, sort_keys=True, ensure_ascii=False, allow_nan=False)}
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(folder / FILE, safetensors.torch.save(whole, metadata=header))
    return folder / FILE


def load_enhancer(folder: Path, models: Models) -> Enhancer | None:
    """The enhancer in an adapter's folder, checked against the model; None when there is none.

    Raises: ConfigError with every fault: a file that cannot be read or was made for other text states, missing,
    unknown or misshapen parameters, numbers that are not finite.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[HEADER])
        tensors = safetensors.torch.load_file(str(file))
        form = Form(int(about["channels"]), int(about["tokens"]), int(about["width"]))
        weight = float(about["weight"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        allowed = f"a file that jdx wrote ({type(error).__name__}: {str(error)[:200]})"
        raise ConfigError([Fault("file", "cannot be read", allowed)], what=f"enhancer {file}") from error
    if faults := [*_form_faults(form, form_of(models)), *_tensor_faults(tensors, form)]:
        raise ConfigError(faults, what=f"enhancer {file}")
    vector = torch.cat([tensors[name].flatten() for name in form.shapes])
    return Enhancer(form, weight, vector, tensors[SEEN], about)


def _form_faults(form: Form, wanted: Form) -> list[Fault]:
    pairs = ((name, getattr(form, name), getattr(wanted, name)) for name in ("channels", "tokens", "width"))
    allowed = "{} for this base model: draw with the one that it was trained on"
    return [Fault(name, str(is_), allowed.format(want)) for name, is_, want in pairs if is_ != want]


def _tensor_faults(tensors: Mapping[str, Tensor], form: Form) -> list[Fault]:
    rows, columns = form.grid
    shapes = {SEEN: (2 * form.channels, 2 * rows, 2 * columns), **form.shapes}
    found = [Fault(name, "", "no tensor of an enhancer") for name in sorted(tensors.keys() - shapes.keys())]
    for name, shape in shapes.items():
        if name not in tensors:
            found.append(Fault(name, "missing", f"a tensor of {shape}"))
        elif tuple(tensors[name].shape) != shape:
            found.append(Fault(name, str(tuple(tensors[name].shape)), f"must be {shape}"))
        elif not tensors[name].isfinite().all():
            found.append(Fault(name, "", "numbers must be finite; the training that made them diverged"))
    return found
