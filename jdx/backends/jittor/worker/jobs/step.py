"""One training step in Jittor: losses and gradients of K styles from their drawn samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jittor as jt
import numpy as np

from jdx.backends.jittor.worker.jobs.parts import EnhancerPart, Part
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.nets.dropout import KeyedDropout
from jdx.backends.jittor.worker.nets.models import Models
from jdx.backends.samples import Drawn
from jdx.methods import diffusion


class Captions:
    """The text states of all distinct captions, by row.

    When nothing that is trained changes them they are computed once; otherwise token ids are kept and the states are
    computed in every pass, through the trained parts.
    """

    def __init__(self, models: Models, texts: Sequence[str], *, trained: bool):
        self._models, self._trained = models, trained
        self._table = models.tokenise(texts) if trained else models.embed(texts).float32().numpy()

    def states(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Any:
        """Text states (N, L, D) of the captions in these rows (N,)."""
        found = np.ascontiguousarray(self._table[rows])
        if self._trained:
            return self._models.text_encoder(found)
        return jt.array(found).cast(self._models.dtype).stop_grad()


@dataclass(frozen=True)
class Step:
    """Gradients of a step over its passes; the total is a sum over styles, so each gets its own gradient.

    kind: the network's prediction type.
    """

    models: Models
    captions: Captions
    parts: Mapping[str, Part]
    kind: str
    dropout: KeyedDropout | None = None

    def __call__(self, passes: Sequence[Drawn], learning: Sequence[str]) -> tuple[dict[str, Any], Floats]:
        """({part: gradient (K, P)} of the parts that learn, losses (K,)) of the passes together."""
        total: dict[str, Any] = {}
        losses: Floats | None = None
        for drawn in passes:
            grads, part = self._one(drawn, learning)
            total = {name: total[name] + grad if total else grad for name, grad in grads.items()}
            for grad in total.values():
                grad.sync()  # now: the next pass shall find this one's activations gone
            losses = part if losses is None else losses + part
        assert losses is not None, "a step has at least one pass"
        return total, losses

    def _one(self, drawn: Drawn, learning: Sequence[str]) -> tuple[dict[str, Any], Floats]:
        if self.dropout is not None:
            self.dropout.keys = drawn.keys
        for part in self.parts.values():
            part.bind()
        losses = self.losses(drawn)
        grads = jt.grad(losses.sum(), [self.parts[name].flat for name in learning])
        for grad in grads:
            grad.sync()
        return dict(zip(learning, grads, strict=True)), losses.numpy()

    def losses(self, drawn: Drawn) -> Any:
        """Each style's share of its loss in this pass, (K,): weighted mean squares (Ho et al. 2020, eq. 14).

        The prior's samples carry their weight, so the sum over a step's passes is L_instance + w · L_prior (DreamBooth,
        Ruiz et al. 2023, eq. 2).
        """
        z, noise, a, s = (np.asarray(x, np.float32) for x in (drawn.latents, drawn.noise, drawn.a, drawn.s))
        a, s = (x[:, None, None, None] for x in (a, s))
        x_t = diffusion.add_noise(z, noise, a, s)
        goal = diffusion.target(self.kind, z, noise, a, s)
        states = self.captions.states(drawn.captions)
        for part in self.parts.values():
            if isinstance(part, EnhancerPart):
                states = part.adjust(states, drawn)
        x = jt.array(x_t).cast(self.models.dtype).stop_grad()
        difference = self.models.unet(x, drawn.t, states).float32() - jt.array(goal).stop_grad()
        # An axis at a time: Jittor adds up in one float32, in which long sums lose digits.
        errors = (difference * difference).mean(3).mean(2).mean(1)
        weights = jt.array(drawn.weights.astype(np.float32)).stop_grad()
        return (errors.reshape(drawn.weights.shape) * weights).sum(1)
