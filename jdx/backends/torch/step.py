"""One training step: losses and gradients of K styles from their drawn samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from jdx.backends.torch.batches import Pass
from jdx.backends.torch.compile import Denoise
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.models import Models
from jdx.backends.torch.parts import Part
from jdx.methods import diffusion

CAPTIONS_AT_ONCE = 64


class Captions:
    """The text states of all distinct captions, by row.

    When nothing that is trained changes them they are computed once; otherwise token ids are kept and the
    states are computed in every pass, through the trained parts. alone: whether each text is encoded by itself, for
    the same bits in any company.
    """

    def __init__(self, models: Models, texts: Sequence[str], *, trained: bool, alone: bool = False):
        at_once = 1 if alone else CAPTIONS_AT_ONCE
        cuts = range(0, len(texts), at_once)
        make = models.tokenise if trained else models.embed
        self._table = torch.cat([make(texts[i : i + at_once]) for i in cuts])
        self._encoder = models.text_encoder if trained else None

    def states(self, rows: Tensor) -> Tensor:
        """Text states (N, L, D) of the captions in these rows (N,)."""
        found: Tensor = self._table[rows]
        if self._encoder is None:
            return found
        return cast(Tensor, self._encoder(found)[0])


def losses_of(
    models: Models, denoise: Denoise, captions: Captions, parts: Iterable[Part], drawn: Pass
) -> Tensor:
    """Each style's share of its loss in this pass, (K,): weighted mean squares (Ho et al. 2020, eq. 14).

    denoise: the UNet's pass, see `compile.opened`. The network runs in the base's precision; noising, target and
    error are in the pass's own (float32 or float64). The prior's samples carry their weight, so the sum over a
    step's passes is L_instance + w · L_prior (DreamBooth, Ruiz et al. 2023, eq. 2).
    """
    d = drawn
    x_t = diffusion.add_noise(d.latents, d.noise, d.a, d.s)
    goal = diffusion.target(models.prediction_type, d.latents, d.noise, d.a, d.s)
    states = captions.states(d.captions)
    for part in parts:
        states = part.adjust(states, d)
    answer = denoise(x_t.to(models.dtype), d.t, states)
    errors: Tensor = (answer.to(goal.dtype) - goal).square().mean(dim=(1, 2, 3))
    return (errors.view_as(d.weights) * d.weights).sum(dim=1)


@dataclass(frozen=True)
class Step:
    """Gradients of a step over its passes; the total is a sum over styles, so each gets its own gradient."""

    models: Models
    denoise: Denoise
    captions: Captions
    parts: Mapping[str, Part]
    dropout: KeyedDropout | None = None

    def __call__(
        self, passes: Sequence[Pass], learning: Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """({part: gradient (K, P)} of the parts that learn (all), losses (K,)) of the passes together."""
        names = list(self.parts) if learning is None else learning
        total: tuple[Tensor, ...] | None = None
        losses = torch.zeros((), device=self.models.device)
        for drawn in passes:
            grads, part = self._one(drawn.to(self.models.device), names)
            total = grads if total is None else tuple(a.add_(b) for a, b in zip(total, grads, strict=True))
            losses = losses + part
        assert total is not None, "a step has at least one pass"
        return dict(zip(names, total, strict=True)), losses

    def _one(self, drawn: Pass, names: Sequence[str]) -> tuple[tuple[Tensor, ...], Tensor]:
        if self.dropout is not None:
            self.dropout.keys = drawn.keys
        with torch.enable_grad():
            for part in self.parts.values():
                part.bind()
            losses = losses_of(self.models, self.denoise, self.captions, self.parts.values(), drawn)
            grads: tuple[Tensor, ...] = torch.autograd.grad(
                losses.sum(), [self.parts[name].flat for name in names]
            )
        return grads, losses.detach()
