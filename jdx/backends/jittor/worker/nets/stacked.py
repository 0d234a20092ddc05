"""Low-rank adapters of several styles on one frozen network, as the torch backend stacks them.

LoRA (Hu et al. 2021, eq. 3) of style k: y = W x + alpha_k / rank_k · B_k A_k x. A batch is K equal groups, group k
being rows k·n … k·n + n − 1. Ranks smaller than the widest of a layer are padded with zeros, which stay zero. All
factors are in one (K, P) buffer in the order of the torch backend's, so that snapshots can be exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jittor as jt
import numpy as np
import numpy.typing as npt
from jittor import nn

from jdx.backends.adapter_files import LoraPair
from jdx.backends.base import LoraSpec
from jdx.backends.jittor.worker.nets.dropout import KeyedDropout
from jdx.backends.jittor.worker.nets.layers import Linear
from jdx.backends.owners import Owner, drawn_a, layout_of, salt_of, targeted
from jdx.backends.windows import Window
from jdx.errors import ConfigError, Fault

Row = npt.NDArray[np.float32]


class Network(Protocol):
    """What can wear adapters: modules by path, in the order in which diffusers or transformers registers them."""

    @property
    def modules(self) -> Any:
        """{path: module}."""


class LowRank:
    """The low-rank term of one layer, for each of K equal groups of the batch; what `Linear.adapter` calls."""

    a: jt.Var  # (K, d_in, r)
    b: jt.Var  # (K, r, d_out), with alpha / rank multiplied in

    def __init__(self, path: str, dropout: KeyedDropout | None):
        self.salt, self.dropout = salt_of(path), dropout

    def __call__(self, x: jt.Var, y: jt.Var) -> jt.Var:
        """The sum of y and the term; x: (K·n, ..., d_in), y: (K·n, ..., d_out)."""
        K = self.a.shape[0]
        if x.shape[0] % K:
            raise ValueError(
                f"a batch of {x.shape[0]} rows is not {K} equal groups, one for each stacked adapter"
            )
        if self.dropout is not None:
            x = self.dropout(x, self.salt)
        down = nn.bmm(x.reshape(K, -1, x.shape[-1]), self.a)
        return y + nn.bmm(down, self.b).reshape(y.shape)


class Slot(NamedTuple):
    """One adapted layer: its place in the network and the factors' sizes there."""

    path: str  # canonical, as on disk
    layer: Linear
    term: LowRank
    rank: int  # padded
    ranks: tuple[int, ...]  # of each style; 0 = not adapted here


class Cut(jt.Function):  # type: ignore[misc]
    """Columns of a matrix, piece after piece; the gradient is put together in one piece as well.

    Jittor's slices would each add a whole matrix of zeros to the gradient.
    """

    def execute(self, flat: jt.Var, sizes: Sequence[int]) -> list[jt.Var]:
        """flat: (K, P); returns (K, size) for each of the sizes, whose sum is P."""
        self.rows, self.sizes = flat.shape[0], sizes
        ends = np.cumsum(sizes)
        return [flat[:, int(end - size) : int(end)] for size, end in zip(sizes, ends, strict=True)]

    def grad(self, *pieces: jt.Var | None) -> tuple[jt.Var, None]:
        """(K, P) from the pieces' gradients; None is zero."""
        given = zip(pieces, self.sizes, strict=True)
        return jt.concat([jt.zeros((self.rows, n)) if g is None else g for g, n in given], 1), None


class Stack:
    """The adapters of K styles on one network. `flat` is (K, P): all A (d_in, r) of the slots in order, then all B.

    Rows and vectors are NumPy's; a style's *vector* is its part of a row without the padding, in the order of the
    network's layers, hence independent of who shares the stack.
    """

    changes_text = False

    def __init__(self, slots: Sequence[Slot], owners: Sequence[Owner], window: Window):
        self.rates, self.decays = [o.lr for o in owners], [o.weight_decay for o in owners]
        self.slots, self.owners, self.window = tuple(slots), tuple(owners), window
        self._a_sizes = [s.layer.d_in * s.rank for s in slots]
        self._b_sizes = [s.rank * s.layer.d_out for s in slots]
        rows = [self.row(k, self._first_vector(k)) for k in range(len(owners))]
        self.flat = jt.array(np.stack(rows))
        scales = [o.spec.plain_alpha / o.spec.rank if o.spec.rank else 1.0 for o in owners]
        self.scale = np.asarray(scales, np.float32)[:, None, None]
        with jt.no_grad():
            self.bind()

    @property
    def width(self) -> int:
        """P, the number of entries of a padded row."""
        return sum(self._a_sizes) + sum(self._b_sizes)

    def bind(self) -> None:
        """Give the layers their factors for the next pass, as functions of `flat`."""
        if not self.slots:
            return
        pieces = Cut.apply(self.flat, [*self._a_sizes, *self._b_sizes])
        scale = jt.array(self.scale).stop_grad()
        halves = pieces[: len(self.slots)], pieces[len(self.slots) :]
        for slot, a, b in zip(self.slots, *halves, strict=True):
            slot.term.a = a.reshape(-1, slot.layer.d_in, slot.rank)
            slot.term.b = b.reshape(-1, slot.rank, slot.layer.d_out) * scale

    def trains(self, k: int) -> bool:
        """Whether style k has a rank above 0 in this network."""
        return self.owners[k].spec.rank > 0

    def vector(self, k: int, row: Row) -> Row:
        """Style k's entries of a row (P,) without padding: A (d_in, r) and B (r, d_out) of layer after layer."""
        parts = [part.reshape(-1) for _, factors in self._factors(k, row) for part in factors]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def row(self, k: int, vector: Row) -> Row:
        """The padded row (P,) of style k's vector; the inverse of `vector`.

        Raises: ValueError when the vector has another length than style k's adapter here.
        """
        row = np.zeros(self.width, np.float32)
        factors = [part for _, some in self._factors(k, row) for part in some]
        if (want := sum(f.size for f in factors)) != vector.size:
            raise ValueError(f"style {self.owners[k].style}: {vector.size} entries, this adapter has {want}")
        start = 0
        for factor in factors:
            factor[...] = vector[start : start + factor.size].reshape(factor.shape)
            start += factor.size
        return row

    def pairs(self, k: int, row: Row) -> dict[str, LoraPair[Row]]:
        """Style k's adapter at its true rank, by canonical module path."""
        alpha = self.owners[k].spec.plain_alpha
        return {
            path: LoraPair(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), alpha)
            for path, (a, b) in self._factors(k, row)
        }

    def result(self, k: int, row: Row) -> dict[str, LoraPair[Row]]:
        """See `pairs`."""
        return self.pairs(k, row)

    def layout(self, k: int) -> str:
        """A digest of style k's modules and shapes, to tell whether a saved vector fits; the torch backend's."""
        return layout_of((s.path, s.layer.d_in, s.ranks[k], s.layer.d_out, False) for s in self.slots)

    def remove(self) -> None:
        """Take the terms out of the layers."""
        for slot in self.slots:
            slot.layer.adapter = None

    def _factors(self, k: int, row: Row) -> Iterator[tuple[str, tuple[Row, Row]]]:
        """Views (path, (A (d_in, r), B (r, d_out))) into a row, at style k's true ranks."""
        pieces = np.split(row, np.cumsum([*self._a_sizes, *self._b_sizes])[:-1])
        for slot, a, b in zip(self.slots, pieces, pieces[len(self.slots) :], strict=False):
            if r := slot.ranks[k]:
                yield slot.path, (a.reshape(-1, slot.rank)[:, :r], b.reshape(slot.rank, -1)[:r])

    def _first_vector(self, k: int) -> Row:
        """A ~ N(0, 1/r) with 1/r the standard deviation, B = 0: PEFT's "gaussian", the torch backend's numbers."""
        parts = [np.zeros(0, np.float32)]
        for slot in self.slots:
            if r := slot.ranks[k]:
                a = drawn_a(self.owners[k], slot.path, r, slot.layer.d_in) / np.float32(r)
                parts += [a.T.reshape(-1), np.zeros(r * slot.layer.d_out, np.float32)]
        return np.concatenate(parts)


def inject(
    network: Network,
    owners: Sequence[Owner],
    *,
    rename: Callable[[str], str] = str,
    dropout: KeyedDropout | None = None,
    window: Window = Window(),  # noqa: B008 (frozen)
) -> Stack:
    """Adapt the targeted linear layers of a frozen network for K styles; `Stack.remove` undoes it.

    A module is targeted when its path equals a target or ends with "." + target. Styles may differ in rank, alpha and
    targets. rename: from a path in memory to the canonical one.
    Raises: ConfigError for DoRA and for every target that matches no linear layer.
    """
    linears = {path: module for path, module in network.modules.items() if isinstance(module, Linear)}
    if worn := [path for path, layer in linears.items() if layer.adapter is not None]:
        raise RuntimeError(
            f"the network already carries adapters ({worn[0]}, ...): remove() that stack first"
        )
    if faults := target_faults(network, [owner.spec for owner in owners]):
        raise ConfigError(faults, "LoRA targets")
    slots = []
    for path, layer in linears.items():
        ranks = tuple(o.spec.rank if targeted(path, o.spec.targets) else 0 for o in owners)
        if max(ranks, default=0):
            slots.append(Slot(rename(path), layer, LowRank(rename(path), dropout), max(ranks), ranks))
    stack = Stack(slots, owners, window)
    for slot in slots:
        slot.layer.adapter = slot.term
    return stack


def target_faults(network: Network, specs: Iterable[LoraSpec], name: str = "") -> list[Fault]:
    """Targets that match no linear layer, and DoRA, in specs whose rank is above 0; `name`, the network's, leads."""
    used, of = [spec for spec in specs if spec.rank], f"{name}." if name else ""
    linears = [path for path, module in network.modules.items() if isinstance(module, Linear)]
    found = [
        Fault(of + "targets", target, "no linear layer's path ends so")
        for target in dict.fromkeys(target for spec in used for target in spec.targets)
        if not any(targeted(path, [target]) for path in linears)
    ]
    if any(spec.dora for spec in used):
        found.append(Fault(of + "dora", "true", "DoRA is trained by backend=torch only: false"))
    return found
