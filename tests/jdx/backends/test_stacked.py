"""Stacked adapters: equal to separate ones, to PEFT's, exact padding, honest errors, a clean removal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from jdx.backends.base import LoraSpec
from jdx.backends.owners import Owner
from jdx.backends.torch import dora
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.stacked import Stack, StackedLinear, inject
from jdx.errors import ConfigError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OWNERS = (
    Owner("00", 1, LoraSpec(2, 4.0, ATTENTION)),
    Owner("05", 2, LoraSpec(5, 5.0, ("to_q", "ff.net.2"))),
    Owner("11", 1, LoraSpec(0, 1.0, ())),
    Owner("03", 3, LoraSpec(3, 1.5, ATTENTION)),
    Owner("04", 4, LoraSpec(2, 3.0, (*ATTENTION, "ff.net.0"), dora=True)),
    Owner("06", 5, LoraSpec(4, 3.0, ("to_v", "to_out.0"), rslora=True, dora=True)),
)


class Block(nn.Module):
    """Two attention-like layers with the names that Stable Diffusion gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(6, 8), nn.Linear(6, 8, bias=False), nn.Linear(6, 8)
        self.to_out = nn.ModuleList([nn.Linear(8, 6), nn.Dropout(0.0)])
        self.ff = nn.ModuleDict({"net": nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))})
        self.conv = nn.Conv2d(1, 1, 3)
        self.into_q = nn.Linear(6, 6)  # ends like a target, but is none

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.to_q(x) @ self.to_k(x).transpose(-1, -2)).softmax(-1)
        x = x + self.to_out[0](weights @ self.to_v(x))
        y: Tensor = x + self.ff["net"](x)
        return y


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(Block(), Block()).double().requires_grad_(False).eval()


def filled(stack: Stack) -> Stack:
    """B is zero at the start, which would hide errors: give each style numbers of its own, by its seed."""
    with torch.no_grad():
        for k, owner in enumerate(stack.owners):
            size = stack.vector(k, stack.flat[k]).numel()
            generator = torch.Generator().manual_seed(owner.seed)
            stack.flat[k] = stack.row(k, torch.randn(size, generator=generator, dtype=torch.float64) / 3)
    stack.bind()
    return stack


def gradient(network: nn.Module, stack: Stack, x: Tensor, weights: Tensor) -> Tensor:
    stack.bind()
    return torch.autograd.grad((network(x) * weights).sum(), stack.flat)[0]


def batch(n: int, K: int = len(OWNERS)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(K * n, 4, 6, generator=generator, dtype=torch.float64)
    return x, torch.randn(x.shape, generator=generator, dtype=torch.float64)


def test_one_pass_equals_each_adapter_alone(network: nn.Module) -> None:
    n = 3
    x, weights = batch(n)
    together = filled(inject(network, OWNERS))
    y, grad = network(x).detach(), gradient(network, together, x, weights)
    together.remove()
    for k, owner in enumerate(OWNERS):
        rows = slice(k * n, (k + 1) * n)
        alone = filled(inject(network, [owner]))
        assert (network(x[rows]) - y[rows]).abs().max() < 1e-13
        if owner.spec.rank:
            want = alone.vector(0, gradient(network, alone, x[rows], weights[rows])[0])
            assert (together.vector(k, grad[k]) - want).abs().max() < 1e-12
            assert want.abs().max() > 1e-3
        alone.remove()


def test_padding_is_zero_and_its_gradient_exactly_so(network: nn.Module) -> None:
    stack = filled(inject(network, OWNERS))
    grad = gradient(network, stack, *batch(2))
    for k in range(len(OWNERS)):
        true = stack.row(k, stack.vector(k, torch.ones_like(grad[k]))).bool()
        assert not grad[k][~true].any()
        assert not stack.flat[k][~true].any()
        assert grad[k][true].all() or not true.any()


def peft_twin(network: nn.Module, stack: Stack, k: int) -> nn.Module:
    """The frozen network with PEFT's LoRA that holds the same numbers as adapter k."""
    spec = stack.owners[k].spec
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules=list(spec.targets),
        use_rslora=spec.rslora, use_dora=spec.dora,
    )  # fmt: skip
    twin: nn.Module = get_peft_model(copy.deepcopy(network), config)
    for path, pair in stack.pairs(k, stack.flat[k].detach()).items():
        layer: Any = twin.get_submodule(f"base_model.model.{path}")
        layer.lora_A["default"].weight.data = pair.down.clone()
        layer.lora_B["default"].weight.data = pair.up.clone()
        if pair.magnitude is not None:
            layer.lora_magnitude_vector["default"].weight.data = pair.magnitude.clone()
    return twin


@pytest.mark.parametrize("k", [0, 1, 3, 4, 5])
def test_outputs_gradients_and_wrapped_modules_equal_peft(network: nn.Module, k: int) -> None:
    plain = copy.deepcopy(network)
    n = 2
    x, weights = batch(n)
    stack = filled(inject(network, OWNERS))
    y, grad = network(x), gradient(network, stack, x, weights)
    twin, rows = peft_twin(plain, stack, k), slice(k * n, (k + 1) * n)
    theirs = twin(x[rows])
    assert (theirs - y[rows]).abs().max() < 1e-13
    (theirs * weights[rows]).sum().backward()
    wrapped = {name for name, module in twin.named_modules() if hasattr(module, "lora_A")}
    pairs = stack.pairs(k, grad[k])
    assert {f"base_model.model.{path}" for path in pairs} == wrapped
    for path, pair in pairs.items():
        layer: Any = twin.get_submodule(f"base_model.model.{path}")
        assert (layer.lora_A["default"].weight.grad - pair.down).abs().max() < 1e-12
        assert (layer.lora_B["default"].weight.grad - pair.up).abs().max() < 1e-12
        if pair.magnitude is not None:
            lengths = layer.lora_magnitude_vector["default"].weight
            assert (lengths.grad - pair.magnitude).abs().max() < 1e-12


class Keyed(nn.Module):
    """Our dropout in the place of PEFT's, for one style."""

    def __init__(self, salt: Tensor, keys: Tensor):
        super().__init__()
        self.dropout, self.salt = KeyedDropout(0.4), salt
        self.dropout.keys = keys

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x, self.salt)


@pytest.mark.parametrize("k", [0, 4, 5])
def test_dropout_is_where_peft_has_it(network: nn.Module, k: int) -> None:
    """With DoRA the base's answer to the thinned input is scaled too, but its plain answer is what is added to."""
    plain, n = copy.deepcopy(network), 2
    x, weights = batch(n)
    dropout = KeyedDropout(0.4)
    dropout.keys = torch.arange(len(x)) + 1000
    stack = filled(inject(network, OWNERS, dropout=dropout))
    y, grad = network(x), gradient(network, stack, x, weights)
    twin, rows = peft_twin(plain, stack, k), slice(k * n, (k + 1) * n)
    for slot in stack.slots:
        if slot.ranks[k]:
            layer: Any = twin.get_submodule(f"base_model.model.{slot.path}")
            layer.lora_dropout["default"] = Keyed(slot.layer.salt, dropout.keys[rows])
    theirs = twin.train()(x[rows])
    assert (theirs - y[rows]).abs().max() < 1e-13
    (theirs * weights[rows]).sum().backward()
    for path, pair in stack.pairs(k, grad[k]).items():
        layer = twin.get_submodule(f"base_model.model.{path}")
        assert (layer.lora_B["default"].weight.grad - pair.up).abs().max() < 1e-12
        if pair.magnitude is not None:
            theirs = layer.lora_magnitude_vector["default"].weight.grad
            assert (theirs - pair.magnitude).abs().max() < 1e-12


def test_dora_starts_as_the_very_base(network: nn.Module) -> None:
    x, _ = batch(1, 1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        network.to(dtype)
        before = network(x.to(dtype))
        stack = inject(network, OWNERS[4:5])
        assert torch.equal(network(x.to(dtype)), before)
        stack.remove()


def test_lengths_are_those_of_the_changed_weight() -> None:
    weight, a, b = torch.randn(7, 5).double(), torch.randn(3, 5, 2).double(), torch.randn(3, 2, 7).double()
    got = dora.norms(weight, dora.squares(weight, torch.float64), a, b)
    want = torch.linalg.norm(weight + (a @ b).transpose(1, 2), dim=2)
    assert (got - want).abs().max() < 1e-13
    silent = torch.zeros(7, 5).double()
    zero = dora.norms(silent, dora.squares(silent, torch.float64), a, 0 * b)
    assert (zero > 0).all()  # a row of zeros is no division by zero


def test_middle_dimensions_and_two_dimensional_input() -> None:
    base = nn.Linear(6, 5).double().requires_grad_(False)
    holder = nn.ModuleDict({"to_q": base})
    stack = filled(inject(holder, [Owner("a", 1, LoraSpec(2, 2.0, ("to_q",)))]))
    x = torch.randn(4, 3, 2, 6, dtype=torch.float64)
    assert (holder["to_q"](x)[2, 1, 1] - holder["to_q"](x[2, 1, 1][None])[0]).abs().max() < 1e-14
    pair = stack.pairs(0, stack.flat[0].detach())["to_q"]
    assert (holder["to_q"](x) - (base(x) + x @ pair.down.T @ pair.up.T)).abs().max() < 1e-14


def test_unequal_groups_are_refused(network: nn.Module) -> None:
    inject(network, OWNERS)
    with pytest.raises(ValueError, match="batch of 7 rows is not 6 equal groups"):
        network(torch.zeros(7, 4, 6, dtype=torch.float64))


def test_first_numbers_are_pefts_gaussian_and_ignore_the_company(network: nn.Module) -> None:
    big = nn.ModuleDict({"to_q": nn.Linear(4096, 8)})
    stack = inject(big, [Owner("07", 3, LoraSpec(16, 16.0, ("to_q",)))])
    pair = stack.pairs(0, stack.flat[0].detach())["to_q"]
    assert pair.down.std().item() == pytest.approx(1 / 16, rel=0.02)  # peft: init.normal_(std=1 / r)
    assert pair.down.mean().abs() < 1e-3
    assert not pair.up.any()
    together = inject(network, OWNERS)
    rows = [together.vector(k, together.flat[k].detach()) for k in range(len(OWNERS))]
    together.remove()
    for order in ([3, 0], [1]):
        some = inject(network, [OWNERS[k] for k in order])
        for place, k in enumerate(order):
            assert torch.equal(some.vector(place, some.flat[place].detach()), rows[k])
        some.remove()
    other_style = inject(network, [Owner("01", 1, OWNERS[0].spec)])
    assert not torch.equal(other_style.vector(0, other_style.flat[0].detach()), rows[0])


def test_removal_gives_the_very_modules_back(network: nn.Module) -> None:
    before = dict(network.named_modules())
    stack = inject(network, OWNERS)
    assert sum(isinstance(m, StackedLinear) for m in network.modules()) == 2 * 6
    with pytest.raises(RuntimeError, match=r"already carries adapters \(0.to_q"):
        inject(network, OWNERS)
    stack.remove()
    after = dict(network.named_modules())
    assert list(after) == list(before)
    assert all(after[path] is before[path] for path in before)


def test_all_wrong_targets_are_reported_with_the_right_ones(network: nn.Module) -> None:
    spec = LoraSpec(2, 2.0, ("to_qq", "to_q", "conv", "to_out"))
    with pytest.raises(ConfigError) as caught:
        inject(network, [Owner("00", 0, spec)])
    faults = {fault.value: fault.allowed for fault in caught.value.faults}
    assert set(faults) == {"to_qq", "conv", "to_out"}
    assert faults["to_qq"].endswith("linear layers here: into_q, net.0, net.2, to_k, to_out.0, to_q, to_v")
    assert "0.conv is a Conv2d" in faults["conv"]
    assert "did you mean to_out.0?" in faults["to_out"]
    assert not any(isinstance(m, StackedLinear) for m in network.modules())


def test_bfloat16_base_keeps_float32_adapters(network: nn.Module) -> None:
    network.to(torch.bfloat16)
    stack = inject(network, OWNERS)
    assert stack.flat.dtype == torch.float32
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}  # the network's dtype is the base's
    x, weights = batch(2)
    grad = gradient(network, stack, x.to(torch.bfloat16), weights.to(torch.bfloat16))
    assert grad.dtype == torch.float32
    assert grad.isfinite().all()


def test_dropout_does_not_depend_on_the_company(network: nn.Module) -> None:
    n = 2
    x, weights = batch(n)
    dropout = KeyedDropout(0.4)
    keys = torch.arange(len(x)) + 1000
    together = filled(inject(network, OWNERS, dropout=dropout))
    dropout.keys = keys
    y, grad = network(x).detach(), gradient(network, together, x, weights)
    together.remove()
    plain = filled(inject(network, OWNERS))
    assert (network(x) - y)[:n].abs().max() > 1e-3
    plain.remove()
    rows = slice(3 * n, 4 * n)
    alone = filled(inject(network, OWNERS[3:4], dropout=dropout))
    dropout.keys = keys[rows]
    assert (network(x[rows]) - y[rows]).abs().max() < 1e-13
    want = alone.vector(0, gradient(network, alone, x[rows], weights[rows])[0])
    assert (together.vector(3, grad[3]) - want).abs().max() < 1e-12
