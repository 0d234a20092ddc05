"""What is trained in a pack, part by part: adapters of either network, enhancers and learnt words, in Jittor.

As in the torch backend a part holds one kind of parameters of all K styles in one (K, P) buffer `flat`, row k being
style k, and says how its row is written down. Rows and vectors are NumPy's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jittor as jt
import numpy as np
from safetensors.numpy import load_file

from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.enhancer_files import StoredEnhancer
from jdx.backends.jittor.worker.jobs.enhancer import enhance, features, form_of
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.jobs.words import TokensPart
from jdx.backends.jittor.worker.nets.dropout import KeyedDropout
from jdx.backends.jittor.worker.nets.models import Models
from jdx.backends.jittor.worker.nets.stacked import inject
from jdx.backends.lora_keys import canonical_te_path
from jdx.backends.owners import Owner
from jdx.backends.samples import MOMENTS, Drawn
from jdx.backends.windows import Window, windows_of
from jdx.methods.enhancer_form import first_numbers


class Part(Protocol):
    """One kind of parameters of the K styles of a pack; see jdx/backends/torch/parts.py."""

    flat: Any
    window: Window
    changes_text: bool

    @property
    def rates(self) -> Sequence[float]:
        """Learning rate of each style."""

    @property
    def decays(self) -> Sequence[float]:
        """Weight decay of each style."""

    def trains(self, k: int) -> bool:
        """Whether style k has this part at all."""

    def bind(self) -> None:
        """Give the networks their parameters for the next pass, as functions of `flat`."""

    def vector(self, k: int, row: Floats) -> Floats:
        """Style k's entries of a row (P,) without padding, in an order that its company does not change."""

    def row(self, k: int, vector: Floats) -> Floats:
        """The padded row (P,) of style k's vector. Raises ValueError on other lengths."""

    def layout(self, k: int) -> str:
        """A digest of what style k's vector is made of, to tell whether a saved one fits."""

    def result(self, k: int, row: Floats) -> Any:
        """Style k's part of an `Adapter` (the field of this part's name), from its row."""

    def remove(self) -> None:
        """Put everything back that the part changed in the models."""


class EnhancerPart:
    """One VAE prompt enhancer for each of K styles. `flat` is (K, P), a row in the order of `Form.shapes`."""

    window, changes_text = Window(), False

    def __init__(self, models: Models, adapters: Sequence[AdapterSpec], moments: Mapping[str, Path]):
        self.specs = [a.enhancer for a in adapters if a.enhancer is not None]
        self.form, self.factor = form_of(models), models.vae_factor
        self.rates = [spec.lr for spec in self.specs]
        self.decays = [a.weight_decay for a in adapters]
        views = [load_file(moments[a.style] / MOMENTS) for a in adapters]
        flat = [[x.reshape(-1, *x.shape[2:]) for x in (view["mean"], view["std"])] for view in views]
        self.seen = [features(mean, std, self.form) for mean, std in flat]
        self.resolutions = [mean.shape[-1] * self.factor for mean, _ in flat]
        starts = zip(adapters, self.specs, strict=True)
        self.flat = jt.array(
            np.stack([first_numbers(self.form, spec.zero, a.seed, a.style) for a, spec in starts])
        )
        with jt.no_grad():
            self.bind()

    def trains(self, k: int) -> bool:
        """Always: a pack's styles all have an enhancer, or none has."""
        return True

    def bind(self) -> None:
        """What the styles' text states get in the next pass, (K, tokens, width)."""
        weights = np.array([spec.weight for spec in self.specs], np.float32)[:, None, None]
        seen = jt.array(np.stack(self.seen)).stop_grad()
        self.bias = enhance(self.flat, seen, self.form) * jt.array(weights).stop_grad()

    def adjust(self, states: Any, drawn: Drawn) -> Any:
        """Add the bias to the instance samples' states; class samples say what the base says, without the style."""
        K, n = len(self.specs), len(drawn.t) // len(self.specs)
        own = np.logical_not(drawn.prior).astype(np.float32).reshape(K, n, 1, 1)
        bias = self.bias.reshape(K, 1, *self.bias.shape[1:]) * jt.array(own).stop_grad()
        return (states.float32() + bias.reshape(states.shape)).cast(states.dtype)

    def vector(self, k: int, row: Floats) -> Floats:
        """The row itself."""
        return row

    def row(self, k: int, vector: Floats) -> Floats:
        """The vector itself. Raises: ValueError when it has another length."""
        if vector.size != self.form.size:
            raise ValueError(f"{vector.size} entries, an enhancer has {self.form.size} here")
        return vector

    def layout(self, k: int) -> str:
        """A digest of the shapes and of what is seen: the parameters mean nothing for other pictures."""
        return hashlib.sha256(f"{self.form.shapes}".encode() + self.seen[k].tobytes()).hexdigest()[:16]

    def result(self, k: int, row: Floats) -> StoredEnhancer:
        """Style k's enhancer, ready for its file."""
        about = {"resolution": self.resolutions[k], "zero": self.specs[k].zero}
        return StoredEnhancer(self.form, self.specs[k].weight, row, self.seen[k], about)

    def remove(self) -> None:
        """Nothing to do: the models were not touched."""


@contextmanager
def opened_parts(
    job: TrainJob, models: Models, adapters: Sequence[AdapterSpec], dropout: KeyedDropout | None
) -> Iterator[dict[str, Part]]:
    """{name: part} of everything that these styles train, in the models until the block ends.

    Raises: ConfigError when targets match no linear layer.
    """
    parts: dict[str, Part] = {}
    windows = windows_of(adapters[0])
    try:
        if any(a.unet.rank for a in adapters):
            unet = [Owner(a.style, a.seed, a.unet, a.unet_lr, a.weight_decay) for a in adapters]
            parts["unet"] = inject(models.unet, unet, dropout=dropout, window=windows["unet"])
        if any(a.text_encoder.rank for a in adapters):
            text = [
                Owner(a.style, a.seed, a.text_encoder, a.text_encoder_lr, a.weight_decay) for a in adapters
            ]
            stack = inject(
                models.text_encoder,
                text,
                rename=canonical_te_path,
                dropout=dropout,
                window=windows["text_encoder"],
            )
            stack.changes_text = True
            parts["text_encoder"] = stack
        if adapters[0].enhancer is not None:
            parts["enhancer"] = EnhancerPart(models, adapters, job.enhancer_moments)
        if any(a.tokens for a in adapters):
            parts["tokens"] = TokensPart(models, [a.tokens for a in adapters], windows["tokens"])
        yield parts
    finally:
        for part in reversed(parts.values()):
            part.remove()


def trained(parts: Mapping[str, Part], k: int) -> dict[str, Part]:
    """The parts that adapter k has, whatever its company trains."""
    return {name: part for name, part in parts.items() if part.trains(k)}
