"""Fused kernels: PyTorch's and diffusers' own results, forward and backward, on a GPU or by Triton's interpreter."""

from __future__ import annotations

import copy
import importlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jdx.backends.base import LoraSpec, ModelSpec
from jdx.backends.torch import compile as compilation
from jdx.backends.torch import fused_modules, fusing
from jdx.backends.torch.models import Models, load
from tests.jdx.backends.small_models import of_two_blocks
from tests.jdx.backends.train_jobs import ATTENTION, THREE, Moments, make_job, run

pytest.importorskip("triton", reason="needs Triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def functions() -> ModuleType:
    """Imported late, where Triton is; interpreted where there is no GPU (see the tests' conftest)."""
    return importlib.import_module("jdx.backends.torch.fused_functions")


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules take the fused way on a CPU too."""
    monkeypatch.setattr(fused_modules, "fusible", lambda x: not torch.compiler.is_compiling())


def drawn(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (numbers + mean).float().to(DEVICE)


def both(ours: Any, theirs: Any, x: Tensor, *rest: Tensor | None) -> None:
    """Results and first gradients of ours, in float32, against theirs in float64."""
    x, y = x.clone().requires_grad_(), x.double().requires_grad_()
    found, want = ours(x, *rest), theirs(y, *(None if r is None else r.double() for r in rest))
    weights = drawn(*want.shape, seed=9)
    (grad,), (want_grad,) = (
        torch.autograd.grad(found, x, weights),
        torch.autograd.grad(want, y, weights.double()),
    )
    assert (found - want).abs().max() < 2e-5 * want.abs().max()
    assert (grad - want_grad).abs().max() < 2e-5 * want_grad.abs().max()


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 320, 3, 5), 32), ((1, 64, 40, 41), 8), ((3, 96, 1, 1), 1), ((2, 30, 7, 3), 10)],
)  # widths, places and pieces that tiles do not divide
def test_group_norm(shape: tuple[int, ...], groups: int, silu: bool, functions: ModuleType) -> None:
    C = shape[1]

    def ours(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
        y: Tensor = functions.group_norm(x, weight, bias, groups, 1e-5, silu=silu, shift=shift)
        assert y.is_contiguous(memory_format=torch.channels_last)
        return y

    def theirs(x: Tensor, weight: Tensor, bias: Tensor, shift: Tensor | None) -> Tensor:
        x = x if shift is None else x + shift[..., None, None]
        y = F.group_norm(x, groups, weight, bias, 1e-5)
        return F.silu(y) if silu else y

    x, weight, bias = drawn(*shape, mean=30.0), drawn(C, seed=1), drawn(C, seed=2)
    both(ours, theirs, x, weight, bias, None)
    both(
        ours,
        theirs,
        x.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        drawn(shape[0], C, seed=3),
    )


@pytest.mark.parametrize("width", [320, 33, 2100])
def test_layer_norm(width: int, functions: ModuleType) -> None:
    x, weight, bias = drawn(2, 5, width, mean=20.0), drawn(width, seed=1), drawn(width, seed=2)
    both(
        lambda x, w, b: functions.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (width,), w, b, 1e-5),
        x, weight, bias,
    )  # fmt: skip


def test_geglu(functions: ModuleType) -> None:
    def theirs(x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)

    both(functions.geglu, theirs, 3 * drawn(2, 9, 2 * 300))


def test_join(functions: ModuleType) -> None:
    x, y, one, two = drawn(2, 70, 3, 5), drawn(2, 70, 3, 5, seed=1), drawn(70, seed=2), drawn(70, seed=3)
    for biases in ((one, two), (one, None), (None, None)):
        both(
            functions.join,
            lambda x, y, *biases: sum((b[:, None, None] for b in biases if b is not None), x + y),
            x, y, *biases,
        )  # fmt: skip


def test_bfloat16_is_rounded_once(functions: ModuleType) -> None:
    """The float32 result, rounded, not rounded between norm and activation too; the interpreter cuts off instead."""
    x, weight, bias = (
        drawn(1, 64, 8, 8).bfloat16(),
        drawn(64, seed=1).bfloat16(),
        drawn(64, seed=2).bfloat16(),
    )
    found = functions.group_norm(x, weight, bias, 8, 1e-5, silu=True)
    want = F.silu(F.group_norm(x.double(), 8, weight.double(), bias.double(), 1e-5))
    assert found.dtype is torch.bfloat16
    step = torch.exp2(want.abs().log2().floor() - 7)  # between neighbours
    assert ((found.double() - want).abs() <= (0.51 if x.is_cuda else 1.01) * step).all()


def test_second_derivatives_are_refused(functions: ModuleType) -> None:
    """Rather than left out of the result."""
    x, weight = drawn(1, 64, 3, 3).requires_grad_(), drawn(64, seed=1)
    rows = x.permute(0, 2, 3, 1)
    for y in (
        functions.group_norm(x, weight, weight, 8, 1e-5),
        functions.layer_norm(rows, weight, weight, 1e-5),
        functions.geglu(rows),
    ):
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            (grad + x).sum().backward()  # type: ignore[no-untyped-call]


def test_a_sample_is_computed_as_if_alone(functions: ModuleType) -> None:
    x, weight, bias = drawn(3, 64, 20, 20), drawn(64, seed=1), drawn(64, seed=2)
    together = functions.group_norm(x, weight, bias, 32, 1e-5, silu=True)
    for i in range(3):
        assert torch.equal(
            functions.group_norm(x[i : i + 1], weight, bias, 32, 1e-5, silu=True)[0], together[i]
        )


@pytest.fixture
def models(tiny_sd: Path) -> Models:
    """Of two groups per norm: the interpreter takes them one by one."""
    found = of_two_blocks(load(ModelSpec(str(tiny_sd)), DEVICE, torch.float32, fused=False))
    found = replace(found, unet=found.unet.to(DEVICE), vae=copy.deepcopy(found.vae))
    for module in (*found.unet.modules(), *found.vae.modules()):
        if isinstance(module, nn.GroupNorm):
            module.num_groups = 2
    return found


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not convolved in TF32, where a GPU has it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def fused(models: Models) -> Models:
    unet, vae = copy.deepcopy(models.unet), copy.deepcopy(models.vae)
    fusing.fuse(unet)
    fusing.fuse(vae)
    return replace(models, unet=unet, vae=vae, fused=True)


def kinds(network: nn.Module) -> set[str]:
    return {type(module).__name__ for module in network.modules()}


@pytest.mark.usefixtures("everywhere")
def test_networks_compute_what_they_did(models: Models) -> None:
    ours = fused(models)
    assert {"FusedResnet", "FusedTransformer", "FusedGEGLU", "FusedLayerNorm", "FusedGroupNorm"} <= kinds(
        ours.unet
    )
    assert "ResnetBlock2D" not in kinds(ours.unet) | kinds(ours.vae)
    assert ours.unet.state_dict().keys() == models.unet.state_dict().keys()
    x, text = drawn(2, models.latent_channels, 8, 8), models.embed(["a", "b"])
    with torch.no_grad():
        answers = [
            m.unet(x, torch.tensor(400, device=DEVICE), encoder_hidden_states=text).sample
            for m in (models, ours)
        ]
    assert (answers[0] - answers[1]).abs().max() < 1e-4 * answers[0].abs().max()
    pixels = drawn(1, 3, 16, 16)
    means = [m.moments(pixels)[0] for m in (models, ours)]
    assert (means[0] - means[1]).abs().max() < 1e-4 * means[0].abs().max()
    pictures = [m.decode(x[:1, :, :2, :2]) for m in (models, ours)]
    assert (pictures[0] - pictures[1]).abs().max() < 1e-4 * pictures[0].abs().max()


@pytest.mark.usefixtures("everywhere")
def test_compiled_passes_are_traced_whole(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """By dynamo without a code generator, which meets diffusers' own passes."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    x, text, t = (
        drawn(1, models.latent_channels, 8, 8),
        models.embed(["a"]),
        torch.tensor(400, device=DEVICE),
    )
    ours = fused(models).unet
    with torch.no_grad(), compilation.opened(ours, "full") as run:
        want, found = compilation.plain(models.unet, x, t, text), run(x, t, text)
    assert (found - want).abs().max() < 1e-4 * want.abs().max()


@pytest.mark.usefixtures("everywhere")
def test_training_is_the_same(models: Models, tmp_path: Path) -> None:
    """With adapters in the layers around the kernels too, and in the time step's projection inside one."""
    targets = ((*ATTENTION, "proj_in", "proj_out", "ff.net.2"), ("time_emb_proj",))
    adapters = [replace(THREE[k], unet=LoraSpec(2, 2.0, targets[k])) for k in range(2)]
    job = make_job(Moments(tmp_path / "moments"), models, *adapters, snapshots=(2,), log_every=1)
    theirs, ours = run(job, models, tmp_path / "plain"), run(job, fused(models), tmp_path / "fused")
    for adapter in adapters:
        a, b = (result.tensors(adapter.style, 2)["unet.m"] for result in (theirs, ours))
        assert (a - b).norm() < 1e-3 * a.norm()  # Adam's means of the gradients


def test_a_cpu_and_float64_are_left_alone(tiny_sd: Path) -> None:
    found = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)
    assert not found.fused
    assert "ResnetBlock2D" in kinds(found.unet)
    assert "float64" in fusing.lack(torch.device("cuda"), torch.float64)


def test_what_is_lacking_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fusing, "missing", lambda device: "")
    monkeypatch.setattr(fusing, "_failure", lambda *_: "Triton failed (OSError: Python.h)")
    monkeypatch.setattr(fusing, "_failed", set())
    fusing.lack.cache_clear()
    card = torch.device("cuda", 7)
    assert fusing.offered(card, torch.bfloat16)
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert fusing.lack(card, torch.bfloat16) == "Triton failed (OSError: Python.h)"
    finally:
        fusing.lack.cache_clear()
    assert not fusing.offered(card, torch.bfloat16)  # nor does a trial's record say that it had them
    assert fusing.offered(card, torch.float32)
    assert [record.message.partition(";")[0] for record in caplog.records] == [
        "no fused kernels: Triton failed (OSError: Python.h)"
    ]


def test_kernels_are_made_as_the_networks_use_them(
    functions: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In threads of their own, of which one that fails is heard."""
    used: set[tuple[str, torch.dtype]] = set()

    def noting(name: str) -> Callable[..., Tensor]:
        def note(x: Tensor, *_: object, **__: object) -> Tensor:
            used.add((name, x.dtype))
            return x * 1

        return note

    for name in ("group_norm", "layer_norm", "geglu", "join"):
        monkeypatch.setattr(functions, name, noting(name))
    fusing._make(functions, DEVICE, torch.bfloat16)
    both = {(name, kind) for name in ("group_norm", "join") for kind in (torch.bfloat16, torch.float32)}
    assert used == both | {("layer_norm", torch.bfloat16), ("geglu", torch.bfloat16)}
    monkeypatch.delattr(functions, "geglu")
    with pytest.raises(AttributeError):
        fusing._make(functions, DEVICE, torch.bfloat16)


def test_kernels_that_fail_or_err_are_not_used(
    functions: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> Tensor:
        raise OSError("Python.h: no such file\nand more")

    assert fusing._failure(DEVICE, torch.float32) == ""
    monkeypatch.setattr(functions, "group_norm", failing)
    assert fusing._failure(DEVICE, torch.float32) == "Triton failed (OSError: Python.h: no such file)"
    monkeypatch.setattr(functions, "group_norm", lambda x, *_, **__: x)
    assert "off on this GPU" in fusing._failure(DEVICE, torch.float32)
