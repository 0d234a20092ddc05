"""The VAE prompt enhancers of a pack's styles, trained with their adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from jdx.backends.base import AdapterSpec, EnhancerSpec
from jdx.backends.samples import MOMENTS
from jdx.backends.torch.batches import Pass
from jdx.backends.torch.enhancer import Enhancer, add, form_of
from jdx.backends.torch.models import Models
from jdx.backends.torch.parts import Part
from jdx.methods.enhancer import enhance, features, first_vector


@dataclass(frozen=True)
class View:
    """What a style's enhancer sees, (2C, 2·rows, 2·columns), and from pictures of which size, in pixels."""

    seen: Tensor
    resolution: int


class EnhancerPart(Part):
    """One enhancer for each of K styles. `flat` is (K, P), a row in the order of `Form.shapes`, without padding."""

    def __init__(self, models: Models, adapters: Sequence[AdapterSpec], moments: Mapping[str, Path]):
        self.specs = [_spec(adapter) for adapter in adapters]
        self.form = form_of(models)
        self.views = [view_of(models, moments[adapter.style]) for adapter in adapters]
        self.rates = [spec.lr for spec in self.specs]
        self.decays = [adapter.weight_decay for adapter in adapters]
        dtype = torch.float64 if models.dtype == torch.float64 else torch.float32
        rows = [first_vector(self.form, _spec(a).zero, a.seed, a.style) for a in adapters]
        self.flat = torch.stack(rows).to(models.device, dtype).requires_grad_()
        self.seen = torch.stack([view.seen for view in self.views]).to(self.flat.detach())
        self.weights = self.flat.new_tensor([spec.weight for spec in self.specs])[:, None, None]
        with torch.no_grad():
            self.bind()

    def trains(self, k: int) -> bool:
        """Always: a pack's styles all have an enhancer, or none has."""
        return True

    def bind(self) -> None:
        """Compute what the styles' text states get in the next pass, (K, tokens, width)."""
        self.bias = self.weights * enhance(self.flat, self.seen, self.form)

    def adjust(self, states: Tensor, drawn: Pass) -> Tensor:
        """Add the bias to the instance samples' states; class samples say what the base says, without the style."""
        n = len(states) // len(self.flat)
        own = torch.logical_not(drawn.prior)[:, None, None]
        return add(states, self.bias.repeat_interleave(n, dim=0) * own)

    def vector(self, k: int, row: Tensor) -> Tensor:
        """The row itself."""
        return row

    def row(self, k: int, vector: Tensor) -> Tensor:
        """The vector itself. Raises: ValueError when it has another length."""
        if vector.numel() != self.form.size:
            raise ValueError(f"{vector.numel()} entries, an enhancer has {self.form.size} here")
        return vector

    def layout(self, k: int) -> str:
        """A digest of the shapes and of what is seen: the parameters mean nothing for other pictures."""
        numbers = self.views[k].seen.numpy().tobytes()
        return hashlib.sha256(f"{self.form.shapes}".encode() + numbers).hexdigest()[:16]

    def result(self, k: int, row: Tensor) -> Enhancer:
        """Style k's enhancer, ready for its file."""
        spec, view = self.specs[k], self.views[k]
        about = {"resolution": view.resolution, "zero": spec.zero}
        return Enhancer(self.form, spec.weight, row, view.seen, about)

    def remove(self) -> None:
        """Nothing to do: the models were not touched."""

    def held(self) -> list[Tensor]:
        """The parameters, what they see, and the bias."""
        return [self.flat, self.seen, self.bias]


def view_of(models: Models, folder: Path) -> View:
    """What an enhancer sees of the pictures whose moments are in `folder`, all views averaged alike."""
    moments = load_file(folder / MOMENTS)
    mean, std = (moments[name].flatten(0, 1) for name in ("mean", "std"))
    return View(features(mean, std, form_of(models)), mean.shape[-1] * models.vae_factor)


def _spec(adapter: AdapterSpec) -> EnhancerSpec:
    if adapter.enhancer is None:
        raise ValueError(f"style {adapter.style} has no enhancer, others of its pack have one")
    return adapter.enhancer
