"""`train.deterministic`: the same bits again, in any company and in any row of the pack."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import deterministic

from jdx.backends.base import AdapterSpec, LoraSpec, ModelSpec
from jdx.backends.torch import packs, repeatable
from jdx.backends.torch.backend import TorchBackend
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.step import Step
from jdx.errors import BackendError
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    THREE,
    Moments,
    largest_gap,
    make_job,
    run,
    same,
    with_enhancer,
    with_prior,
    with_text,
    with_word,
)

SPEC = LoraSpec(4, 4.0, ATTENTION)
SEVEN = [replace(THREE[i % 2], style=f"{i:02d}", unet=SPEC, max_grad_norm=0.5) for i in range(7)]


@pytest.fixture(scope="module")
def models(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


KINDS: dict[str, Callable[[AdapterSpec], AdapterSpec]] = {
    "prior and text": lambda adapter: with_text(with_prior(adapter)),
    "word": lambda adapter: with_word(adapter, 2),
    "enhancer, DoRA, average": lambda adapter: with_enhancer(
        replace(adapter, unet=replace(SPEC, dora=True), ema_decay=0.9)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_styles_bits_do_not_depend_on_its_company_or_its_row(
    kind: str, models: Models, moments: Moments, tmp_path: Path
) -> None:
    """Packs of 4: seven styles in two of them, the same in reverse, and two of them alone."""
    adapters = [KINDS[kind](adapter) for adapter in SEVEN]
    settings = {"deterministic": True, "micro_batch": 8 if adapters[0].prior_weight else 4, "dropout": 0.1}
    job = make_job(moments, models, *adapters, **settings, snapshots=(2,))
    several = run(job, models, tmp_path / "several")
    turned = run(replace(job, adapters=job.adapters[::-1]), models, tmp_path / "turned")
    for adapter in adapters:
        assert same(several.tensors(adapter.style, 2), turned.tensors(adapter.style, 2))
    for adapter in (adapters[2], adapters[6]):
        alone = run(replace(job, adapters=(adapter,)), models, tmp_path / adapter.style)
        assert list(alone.folders) == [(adapter.style, 2)]
        assert same(several.tensors(adapter.style, 2), alone.tensors(adapter.style, 2))
    usual = run(replace(job, deterministic=False, micro_batch=0), models, tmp_path / "usual")
    assert largest_gap(usual.tensors("02", 2), several.tensors("02", 2)) < 1e-3


def test_filled_packs_resume_and_fail_like_others(models: Models, moments: Moments, tmp_path: Path) -> None:
    words = [with_word(adapter, 1) for adapter in SEVEN[:2]]
    wild = replace(SEVEN[2], unet_lr=1e30, max_grad_norm=None)
    job = make_job(moments, models, *words, deterministic=True, micro_batch=3, snapshots=(1, 3))
    straight = run(job, models, tmp_path / "straight")
    resume = {adapter.style: straight.folders[adapter.style, 1] for adapter in words}
    resumed = run(replace(job, snapshots=(3,), resume=resume, start_step=1), models, tmp_path / "resumed")
    for adapter in words:
        assert same(straight.tensors(adapter.style, 3), resumed.tensors(adapter.style, 3))
    job = make_job(moments, models, wild, deterministic=True, micro_batch=3, snapshots=(3,))
    failed = run(job, models, tmp_path / "wild")
    assert set(failed.outcome.failed) == {wild.style}


def test_adapters_of_other_sizes_train_in_packs_of_their_own(moments: Moments, models: Models) -> None:
    wide = replace(SEVEN[3], unet=LoraSpec(8, 4.0, ATTENTION))
    job = make_job(moments, models, *SEVEN[:3], wide, deterministic=True)
    found = packs.plan(job, lambda: 0, lambda _: pytest.fail("sizes follow from settings alone"))
    assert [(len(pack.adapters), pack.rows, pack.most) for pack in found] == [(3, 16, 1), (1, 16, 1)]
    priors = replace(job, adapters=tuple(with_prior(a) for a in job.adapters[:3]), micro_batch=4)
    found = packs.plan(priors, lambda: 0, lambda _: pytest.fail("sizes follow from settings alone"))
    assert [(len(pack.adapters), pack.rows, pack.most) for pack in found] == [(1, 2, 2), (2, 2, 2)]


def test_a_pack_that_does_not_fit_is_no_smaller_one(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr(Step, "__call__", full)
    job = make_job(moments, models, *SEVEN[:2], deterministic=True, micro_batch=6)
    with pytest.raises(BackendError, match=r"fixed number of samples, 6 here: lower backend\.micro_batch"):
        run(job, models, tmp_path)


def test_kernels_are_asked_for_and_the_settings_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(repeatable.WORKSPACE, raising=False)
    TorchBackend("cpu")
    assert repeatable.WORKSPACE not in os.environ
    TorchBackend("cpu", deterministic=True)
    assert os.environ[repeatable.WORKSPACE] == ":4096:8"

    def settings() -> tuple[bool, ...]:
        cudnn = torch.backends.cudnn
        enabled = torch.are_deterministic_algorithms_enabled()
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        fills: bool = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
        return enabled, cudnn.deterministic, cudnn.benchmark, fills, warns

    def inside() -> None:
        with repeatable.fixed_order(True):
            assert settings() == (True, True, False, False, False)
            raise KeyError

    for enabled, warns in ((False, False), (True, True)):
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        try:
            before = settings()
            with repeatable.fixed_order(False):
                assert settings() == before
            with pytest.raises(KeyError):
                inside()
            assert settings() == before
        finally:
            torch.use_deterministic_algorithms(False)


def test_convolutions_see_one_style_at_a_time(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels sum the next sample in another order: cuDNN's did at Stable Diffusion's sizes on an H200."""
    met: set[int] = set()
    convolve = nn.Conv2d._conv_forward

    def noted(layer: nn.Conv2d, x: Tensor, *rest: Any) -> Tensor:
        met.add(len(x))
        y: Tensor = convolve(layer, x, *rest)
        return y

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", noted)
    job = make_job(
        moments, models, *SEVEN[:3], deterministic=True, micro_batch=6, batch_size=2, snapshots=(1,)
    )
    run(job, models, tmp_path)
    assert met == {2}
    assert {type(m) for m in models.unet.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}


def test_convolutions_apart_are_the_convolutions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3, stride=2)).double()
    x = torch.randn(6, 3, 9, 9, dtype=torch.float64)
    want = network(x)
    with repeatable.one_by_one(network, 3):
        assert torch.allclose(network(x), want, rtol=0, atol=1e-14)
    assert "groups_of_rows" not in vars(network[0])
