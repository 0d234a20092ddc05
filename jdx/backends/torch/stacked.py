"""Low-rank adapters of several styles on one frozen network, trained as two batched products per layer.

LoRA (Hu et al. 2021, eq. 3) of style k: y = W x + alpha_k / rank_k · B_k A_k x. A batch is K equal groups,
group k being rows k·n … k·n + n − 1, and every wrapped layer multiplies group k by style k's own factors.
Ranks smaller than the widest of a layer are padded with zeros, which stay exactly zero: a padded column of A
meets a padded row of B, so both gradients are products with zero.

DoRA (Liu et al. 2024; see `dora`) adds trained lengths to the layers of those styles that want it; the others of the
stack go on as if there were none.

All factors of a network live in one (K, P) buffer, row k being style k, so an optimiser is a few operations
on it. `Stack.bind` cuts the buffer into the layers' factors inside the autograd graph: the scale and the
cast to the base's precision happen once for all layers, and the backward pass joins the gradient of the
whole buffer in one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends.base import LoraSpec
from jdx.backends.owners import Owner, drawn_a, layout_of, salt_of, targeted
from jdx.backends.torch import dora
from jdx.backends.torch.adapters import LoraPair
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.parts import Part, Window
from jdx.beside import threads
from jdx.errors import ConfigError, Fault

DRAWERS = 8
"""Threads that draw first factors: a tenth of a second a style at rank 32, in which the device has nothing to do."""


class StackedLinear(nn.Module):
    """A frozen linear layer with a low-rank adapter for each of K equal groups of the batch (Hu et al. 2021).

    The factors are plain tensors, not parameters: the network's own parameters and dtype stay the base's.
    """

    a: Tensor  # (K, d_in, r), in the base's precision
    b: Tensor  # (K, r, d_out), with alpha / rank multiplied in, and with DoRA the rows' gain
    gain: Tensor | None = (
        None  # (K, 1, d_out), DoRA's m / ‖W + ΔW‖ − 1; 0 for styles without, None without any
    )

    def __init__(self, base: nn.Linear, path: str, dropout: KeyedDropout | None):
        super().__init__()
        self.base = base
        # A tensor, since layers that differ in plain numbers only could not share one compilation.
        self.salt = torch.tensor(salt_of(path), device=base.weight.device)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """x: (K·n, ..., d_in) with any number of middle dimensions; returns (K·n, ..., d_out)."""
        K = self.a.shape[0]
        if x.shape[0] % K:
            raise ValueError(
                f"a batch of {x.shape[0]} rows is not {K} equal groups, one for each stacked adapter"
            )
        y = self.base(x)
        if self.dropout is not None:
            x = self.dropout(x, self.salt)
        down = torch.bmm(x.reshape(K, -1, x.shape[-1]), self.a)
        groups = y.reshape(K, -1, y.shape[-1])
        out = torch.baddbmm(groups, down, self.b)
        if self.gain is not None:
            out = torch.addcmul(out, self.gain, self._without_bias(x, groups))
        return out.view(y.shape)

    def _without_bias(self, x: Tensor, groups: Tensor) -> Tensor:
        """W x of DoRA's term, (K, ..., d_out). With dropout it sees the thinned x, unlike the base (as PEFT's)."""
        if self.dropout is not None:
            return F.linear(x, self.base.weight).reshape(groups.shape)
        return groups if self.base.bias is None else groups - self.base.bias


class Slot(NamedTuple):
    """One wrapped layer: its place in the network and the factors' sizes there."""

    path: str  # canonical, as on disk
    layer: StackedLinear
    parent: nn.Module  # the module that held the layer, and under which name
    name: str
    rank: int  # padded
    ranks: tuple[int, ...]  # of each style; 0 = not adapted here
    dora: tuple[bool, ...]  # whether each style trains the lengths of this layer's rows

    @property
    def d_in(self) -> int:
        return self.layer.base.in_features

    @property
    def d_out(self) -> int:
        return self.layer.base.out_features


class Stack(Part):
    """The adapters of K styles on one network. `flat` is (K, P): all A of the slots in order, then all B, then the
    lengths m of all slots that have any.

    A style's *vector* is its part of a row without the padding, in the order of the network's layers, hence
    independent of who shares the stack; `vector` and `row` convert.
    """

    def __init__(
        self, slots: Sequence[Slot], owners: Sequence[Owner], device: torch.device, base_dtype: torch.dtype
    ):
        self.rates, self.decays = [o.lr for o in owners], [o.weight_decay for o in owners]
        self.slots, self.owners, self.base_dtype = tuple(slots), tuple(owners), base_dtype
        self._a_sizes = [s.d_in * s.rank for s in slots]
        self._b_sizes = [s.rank * s.d_out for s in slots]
        self._m_sizes = [s.d_out if any(s.dora) else 0 for s in slots]
        dtype = torch.float64 if base_dtype == torch.float64 else torch.float32
        self._squares = [dora.squares(s.layer.base.weight, dtype) if any(s.dora) else None for s in slots]
        self._with_dora = [torch.tensor(s.dora, device=device)[:, None] for s in slots]
        with ThreadPoolExecutor(threads(DRAWERS)) as pool:
            rows = list(pool.map(lambda k: self.row(k, self._first_vector(k, dtype)), range(len(owners))))
        self.flat = torch.stack(rows).to(device).requires_grad_()
        scales = [o.spec.plain_alpha / o.spec.rank if o.spec.rank else 1.0 for o in owners]
        self.scale = torch.tensor(scales, dtype=dtype, device=device)[:, None]
        with torch.no_grad():
            self.bind()

    @property
    def width(self) -> int:
        """P, the number of entries of a padded row."""
        return sum(self._a_sizes) + sum(self._b_sizes) + sum(self._m_sizes)

    def bind(self) -> None:
        """Give the layers their factors for the next pass; under grad mode, as functions of `flat`."""
        if not self.slots:
            return
        a, b, m = torch.split(self.flat, self._thirds, dim=1)
        b = b * self.scale
        cut_a = torch.split(a.to(self.base_dtype), self._a_sizes, dim=1)
        cut_b = torch.split(b.to(self.base_dtype), self._b_sizes, dim=1)
        for slot, a_cast, b_cast in zip(self.slots, cut_a, cut_b, strict=True):
            slot.layer.a = a_cast.view(-1, slot.d_in, slot.rank)
            slot.layer.b = b_cast.view(-1, slot.rank, slot.d_out)
        if any(self._m_sizes):
            self._bind_lengths(a, b, m)

    def _bind_lengths(self, a: Tensor, b: Tensor, m: Tensor) -> None:
        """DoRA's gains from the three parts of `flat`, b scaled, all still in its precision."""
        cuts = (torch.split(x, s, 1) for x, s in ((a, self._a_sizes), (b, self._b_sizes), (m, self._m_sizes)))
        places = zip(self.slots, self._squares, self._with_dora, *cuts, strict=True)
        for slot, squared, here, a_k, b_k, m_k in places:
            if squared is None:
                continue
            layer, b_k = slot.layer, b_k.view(-1, slot.rank, slot.d_out)
            length = dora.norms(layer.base.weight, squared, a_k.view(-1, slot.d_in, slot.rank), b_k)
            gain = torch.where(here, m_k / length - 1, 0.0)[:, None, :]
            # As a difference from 1 it keeps its digits in bfloat16, whose 1 knows its neighbours at 0.4 % only.
            layer.gain = gain.to(self.base_dtype)
            layer.b = (b_k * (1 + gain)).to(self.base_dtype)

    @property
    def _thirds(self) -> list[int]:
        return [sum(self._a_sizes), sum(self._b_sizes), sum(self._m_sizes)]

    def trains(self, k: int) -> bool:
        """Whether style k has a rank above 0 in this network."""
        return self.owners[k].spec.rank > 0

    def held(self) -> list[Tensor]:
        """The buffer and the layers' factors."""
        factors = [f for slot in self.slots for f in (slot.layer.a, slot.layer.b, slot.layer.gain)]
        return [self.flat, *(factor for factor in factors if factor is not None)]

    def vector(self, k: int, row: Tensor) -> Tensor:
        """Style k's entries of a row (P,) without padding: A (d_in, r), B (r, d_out) and with DoRA m (d_out,) of
        layer after layer.
        """
        parts = [part.reshape(-1) for _, factors in self._factors(k, row) for part in factors]
        return torch.cat(parts) if parts else row.new_zeros(0)

    def row(self, k: int, vector: Tensor) -> Tensor:
        """The padded row (P,) of style k's vector; the inverse of `vector`.

        Raises: ValueError when the vector has another length than style k's adapter here.
        """
        row = vector.new_zeros(self.width)
        factors = [part for _, some in self._factors(k, row) for part in some]
        if sum(f.numel() for f in factors) != vector.numel():
            want = sum(f.numel() for f in factors)
            raise ValueError(
                f"style {self.owners[k].style}: {vector.numel()} entries, this adapter has {want}"
            )
        for factor, part in zip(factors, torch.split(vector, [f.numel() for f in factors]), strict=True):
            factor.copy_(part.view(factor.shape))
        return row

    def result(self, k: int, row: Tensor) -> dict[str, LoraPair]:
        """See `pairs`."""
        return self.pairs(k, row)

    def pairs(self, k: int, row: Tensor) -> dict[str, LoraPair]:
        """Style k's adapter at its true rank, by canonical module path."""
        alpha = self.owners[k].spec.plain_alpha
        return {
            path: LoraPair(a.T.contiguous(), b.T.contiguous(), alpha, *(m.clone() for m in lengths))
            for path, (a, b, *lengths) in self._factors(k, row)
        }

    def layout(self, k: int) -> str:
        """A digest of style k's modules and shapes, to tell whether a saved vector fits."""
        return layout_of((s.path, s.d_in, s.ranks[k], s.d_out, s.dora[k]) for s in self.slots)

    def remove(self) -> None:
        """Put the frozen layers back; the network is again the very object it was."""
        for slot in self.slots:
            setattr(slot.parent, slot.name, slot.layer.base)

    def _factors(self, k: int, row: Tensor) -> Iterable[tuple[str, tuple[Tensor, ...]]]:
        """Views (path, (A (d_in, r), B (r, d_out), with DoRA m (d_out,))) into a row, at style k's true ranks."""
        a_all, b_all, m_all = torch.split(row, self._thirds)
        a_parts, b_parts = torch.split(a_all, self._a_sizes), torch.split(b_all, self._b_sizes)
        for slot, a, b, m in zip(
            self.slots, a_parts, b_parts, torch.split(m_all, self._m_sizes), strict=True
        ):
            if r := slot.ranks[k]:
                factors = a.view(slot.d_in, slot.rank)[:, :r], b.view(slot.rank, slot.d_out)[:r]
                yield slot.path, (*factors, m) if slot.dora[k] else factors

    def _first_vector(self, k: int, dtype: torch.dtype) -> Tensor:
        """A ~ N(0, 1/r) with 1/r the standard deviation, B = 0: PEFT's "gaussian", as in diffusers' scripts. With DoRA
        m = ‖W‖, so that the first W' is W.

        Drawn as (r, d_in), so that a smaller rank's numbers are the first rows of a larger one's, times a
        factor.
        """
        parts = []
        owner = self.owners[k]
        for slot, squared in zip(self.slots, self._squares, strict=True):
            if r := slot.ranks[k]:
                A = torch.from_numpy(drawn_a(owner, slot.path, r, slot.d_in)).to(dtype) / r
                parts += [A.T.reshape(-1), torch.zeros(r * slot.d_out, dtype=dtype)]
            if slot.dora[k] and squared is not None:
                parts.append(squared.sqrt().cpu())
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


def inject(
    network: nn.Module,
    owners: Sequence[Owner],
    *,
    rename: Callable[[str], str] = str,
    dropout: KeyedDropout | None = None,
    window: Window = Window(),  # noqa: B008 (frozen)
) -> Stack:
    """Wrap the targeted linear layers of a frozen network for K styles; `Stack.remove` undoes it.

    A module is targeted when its path equals a target or ends with "." + target, as PEFT does. Styles may
    differ in rank, alpha and targets. rename: from a path in memory to the canonical one.
    Raises: ConfigError naming every target that matches nothing (with the names that would) or no linear
    layer.
    """
    modules = dict(network.named_modules())
    stacked = [path for path, module in modules.items() if isinstance(module, StackedLinear)]
    if stacked:
        raise RuntimeError(
            f"the network already carries adapters ({stacked[0]}, ...): remove() that stack first"
        )
    if faults := target_faults(network, [owner.spec for owner in owners]):
        raise ConfigError(faults, "LoRA targets")
    weight = next(network.parameters())
    slots = []
    for path, module in modules.items():
        ranks = tuple(o.spec.rank if targeted(path, o.spec.targets) else 0 for o in owners)
        if isinstance(module, nn.Linear) and max(ranks):
            layer = StackedLinear(module, rename(path), dropout)
            above, _, name = path.rpartition(".")
            lengths = tuple(bool(o.spec.dora and rank) for o, rank in zip(owners, ranks, strict=True))
            slots.append(Slot(rename(path), layer, modules[above], name, max(ranks), ranks, lengths))
    stack = Stack(slots, owners, weight.device, weight.dtype)  # may not fit, so before the network changes
    stack.window = window
    for slot in slots:
        setattr(slot.parent, slot.name, slot.layer)
    return stack


def target_faults(network: nn.Module, specs: Iterable[LoraSpec], name: str = "") -> list[Fault]:
    """Faults of the targets of specs whose rank is above 0; `name`, the network's, leads their keys."""
    modules = dict(network.named_modules())
    targets = dict.fromkeys(target for spec in specs if spec.rank for target in spec.targets)
    key = f"{name}.targets" if name else "targets"
    return [fault for target in targets if (fault := _target_fault(key, modules, target)) is not None]


def _target_fault(key: str, modules: Mapping[str, nn.Module], target: str) -> Fault | None:
    hits = [path for path in modules if targeted(path, [target])]
    if not hits:
        return Fault(
            key, target, f"no module's path ends so; linear layers here: {', '.join(_suffixes(modules))}"
        )
    for path in hits:
        if not isinstance(modules[path], nn.Linear):
            kind = type(modules[path]).__name__
            inside = [s for s in _suffixes(modules) if s.startswith(target + ".")]
            hint = f"; did you mean {', '.join(inside)}?" if inside else ""
            return Fault(key, target, f"{path} is a {kind}; adapters are for linear layers only{hint}")
    return None


def _suffixes(modules: Mapping[str, nn.Module]) -> list[str]:
    """Valid targets: the linear layers' last names, with the parent's where the last is only a number."""
    names = set()
    for path, module in modules.items():
        if isinstance(module, nn.Linear):
            parts = path.split(".")
            start = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
            names.add(".".join(parts[start:]))
    return sorted(names)
