"""What is trained in a pack, part by part: the adapters of either network, and whatever else a style may learn.

A part holds one kind of parameters of all K styles of a pack in one (K, P) leaf, row k being style k, and says
how its row is written down. Everything around it (gradients, AdamW, clipping, snapshots, restarts, memory) asks
only this, so a further kind of parameters is one class here and one entry in `preparation.MAKERS`. A part's name
is that of the field of `adapters.Adapter` that holds its result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from jdx.backends.torch.batches import Pass
from jdx.backends.windows import Window

__all__ = ["Part", "Window"]


class Part(ABC):
    """One kind of parameters of the K styles of a pack.

    flat: (K, P), the leaf that is trained, float32 (float64 for a float64 base), on the device.
    rates, decays: learning rate and weight decay of each style. window: in which steps they learn.
    changes_text: whether a caption's text states depend on `flat` through the text encoder; they are then
    computed in every pass instead of once.
    """

    flat: Tensor
    rates: Sequence[float]
    decays: Sequence[float]
    window: Window = Window()
    changes_text: bool = False

    @abstractmethod
    def trains(self, k: int) -> bool:
        """Whether style k has this part at all; its row is zero and never written down otherwise."""

    @abstractmethod
    def bind(self) -> None:
        """Give the networks their parameters for the next pass; under grad mode, as functions of `flat`."""

    @abstractmethod
    def vector(self, k: int, row: Tensor) -> Tensor:
        """Style k's entries of a row (P,) without padding, in an order that its company does not change."""

    @abstractmethod
    def row(self, k: int, vector: Tensor) -> Tensor:
        """The padded row (P,) of style k's vector; the inverse of `vector`. Raises ValueError on other lengths."""

    @abstractmethod
    def layout(self, k: int) -> str:
        """A digest of what style k's vector is made of, to tell whether a saved one fits."""

    @abstractmethod
    def result(self, k: int, row: Tensor) -> Any:
        """Style k's part of an `Adapter` (the field of this part's name), from its row on the CPU in float32."""

    @abstractmethod
    def remove(self) -> None:
        """Put everything back that the part changed in the models; called once, in the end."""

    def adjust(self, states: Tensor, drawn: Pass) -> Tensor:
        """The text states (K·n, L, D) of a pass as the UNet shall see them, group k of n rows being style k's."""
        return states

    def held(self) -> list[Tensor]:
        """Tensors that a pass reads and that are there whatever its samples: no memory of a sample."""
        return [self.flat]

    @property
    def width(self) -> int:
        """P, the number of entries of a padded row."""
        return int(self.flat.shape[1])
