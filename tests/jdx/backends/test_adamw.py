"""The stacked optimiser against `torch.optim.AdamW` and `clip_grad_norm_` on each adapter alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jdx.backends.torch.adamw import Knobs, StackedAdamW
from jdx.backends.torch.parts import Window

K, SIZES = 4, {"unet": 11, "text_encoder": 7}
KNOBS = Knobs(
    lr={"unet": [1e-2, 3e-2, 1e-3, 0.0], "text_encoder": [5e-3, 1e-2, 2e-2, 1e-2]},
    weight_decay={"unet": [0.0, 0.1, 0.01, 0.5], "text_encoder": [0.3, 0.1, 0.0, 0.2]},
    max_grad_norm=[math.inf, 0.5, 2.0, 1e-3],
    betas=(0.8, 0.99),
    eps=1e-7,
)
FACTORS = [1.0, 0.5, 0.25, 1.0, 2.0, 0.0, 1.0, 1.0]


def made(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(K, p, generator=generator, dtype=torch.float64) for n, p in SIZES.items()}


def theirs(k: int, start: dict[str, Tensor], grads: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Adapter k trained alone by PyTorch."""
    params = {n: torch.nn.Parameter(p[k].clone()) for n, p in start.items()}
    optimiser = torch.optim.AdamW(
        [
            {"params": [p], "lr": KNOBS.lr[n][k], "weight_decay": KNOBS.weight_decay[n][k]}
            for n, p in params.items()
        ],
        betas=KNOBS.betas,
        eps=KNOBS.eps,
    )
    for factor, grad in zip(FACTORS, grads, strict=True):
        for (name, p), group in zip(params.items(), optimiser.param_groups, strict=True):
            p.grad = grad[name][k].clone()
            group["lr"] = KNOBS.lr[name][k] * factor
        torch.nn.utils.clip_grad_norm_(params.values(), KNOBS.max_grad_norm[k])
        optimiser.step()
    return {n: p.detach() for n, p in params.items()}


def ours(start: dict[str, Tensor], grads: list[dict[str, Tensor]], losses: Tensor) -> StackedAdamW:
    optimiser = StackedAdamW({n: p.clone() for n, p in start.items()}, KNOBS)
    for step, (factor, grad) in enumerate(zip(FACTORS, grads, strict=True)):
        optimiser.step(grad, losses[step], dict.fromkeys(SIZES, factor))
    return optimiser


def test_equals_torch_adamw_and_clipping_of_each_adapter_alone() -> None:
    start, grads = made(0), [made(10 + i) for i in range(len(FACTORS))]
    optimiser = ours(start, grads, torch.ones(len(FACTORS), K, dtype=torch.float64))
    for k in range(K):
        for name, want in theirs(k, start, grads).items():
            assert (optimiser.params[name][k] - want).abs().max() < 1e-12
    assert optimiser.alive.all()


def test_a_dead_adapter_keeps_its_last_numbers_and_harms_nobody() -> None:
    start, grads = made(0), [made(10 + i) for i in range(len(FACTORS))]
    losses = torch.ones(len(FACTORS), K, dtype=torch.float64)
    healthy = ours(start, grads, losses)
    grads[3]["unet"][1, 4] = math.nan
    grads[4]["unet"][1] = math.inf
    losses[5, 2] = math.inf
    hurt = ours(start, grads, losses)
    assert hurt.died_at.tolist() == [0, 4, 6, 0]
    assert hurt.loss_died.tolist() == [False, False, True, False]
    for name, p in hurt.params.items():
        assert torch.equal(p[[0, 3]], healthy.params[name][[0, 3]])
        for k, died in ((1, 4), (2, 6)):
            before = StackedAdamW({n: q.clone() for n, q in start.items()}, KNOBS)
            for step in range(died - 1):
                before.step(grads[step], losses[step], dict.fromkeys(SIZES, FACTORS[step]))
            assert torch.equal(p[k], before.params[name][k])
    assert all(torch.isfinite(x.m).all() and torch.isfinite(x.v).all() for x in hurt.moments.values())


def test_zero_entries_with_zero_gradient_stay_exactly_zero() -> None:
    start, grads = made(0), [made(10 + i) for i in range(len(FACTORS))]
    start["unet"][:, 3:6] = 0.0
    for grad in grads:
        grad["unet"][:, 3:6] = 0.0
    optimiser = ours(start, grads, torch.ones(len(FACTORS), K, dtype=torch.float64))
    assert not optimiser.params["unet"][:, 3:6].any()


def test_a_part_outside_its_window_rests_and_begins_afresh() -> None:
    """Text encoder in steps 3 to 6 of 8 (a window from 2 to 6): as if it had its own optimiser there alone."""
    start, grads = made(0), [made(10 + i) for i in range(8)]
    windows = {"text_encoder": Window(2, 6)}
    knobs = replace(KNOBS, max_grad_norm=[math.inf] * K, windows=windows)
    optimiser = StackedAdamW({n: p.clone() for n, p in start.items()}, knobs)
    plain = StackedAdamW({n: p.clone() for n, p in start.items()}, replace(knobs, windows={}))
    before = start["text_encoder"].clone()
    for step in range(8):
        names = ["unet", "text_encoder"] if 2 <= step < 6 else ["unet"]
        assert optimiser.learning == names
        optimiser.step({n: grads[step][n] for n in names}, torch.ones(K))
        if not 2 <= step < 6:
            assert torch.equal(optimiser.params["text_encoder"], before)
        before = optimiser.params["text_encoder"].clone()
    for step in range(4):
        plain.step(
            {"unet": grads[step]["unet"], "text_encoder": grads[step + 2]["text_encoder"]}, torch.ones(K)
        )
    assert torch.equal(before, plain.params["text_encoder"])
    for step in range(4, 8):
        plain.step(grads[step], torch.ones(K))
    assert torch.equal(optimiser.params["unet"], plain.params["unet"])
    with pytest.raises(ValueError, match="gradients of"):
        optimiser.step(grads[0], torch.ones(K))
