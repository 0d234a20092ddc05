"""Training: an adapter's result does not depend on its company, on packs or on micro-batches."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jdx.backends.base import LoraSpec
from jdx.backends.torch.models import Models
from jdx.errors import ConfigError
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    NONE,
    THREE,
    Moments,
    Result,
    largest_gap,
    make_job,
    run,
    same,
    with_prior,
    with_share,
    with_text,
)

pytestmark = pytest.mark.usefixtures("networks_are_put_back")


def test_adapters_with_shares_weights_and_gammas_mix(
    models: Models, moments: Moments, tmp_path: Path
) -> None:
    mixed = (
        replace(THREE[0], min_snr_gamma=5.0),
        with_share(THREE[1], 0.4),
        with_prior(replace(THREE[2], min_snr_gamma=0.5)),
    )
    settings: dict[str, Any] = {"snapshots": (2,), "batch_size": 3}
    both = run(make_job(moments, models, *mixed, **settings), models, tmp_path / "both")
    for adapter in mixed:
        alone = run(make_job(moments, models, adapter, **settings), models, tmp_path / adapter.style)
        assert largest_gap(alone.tensors(adapter.style, 2), both.tensors(adapter.style, 2)) < 1e-10


def test_stacked_equals_separate(together: Result, models: Models, moments: Moments, tmp_path: Path) -> None:
    for adapter in THREE:
        alone = run(make_job(moments, models, adapter, batch_size=2), models, tmp_path / adapter.style)
        assert largest_gap(alone.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10
        want = together.means(adapter.style)
        assert alone.means(adapter.style) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize(
    "changed",
    [
        {"order": [2, 0, 1]},
        {"micro_batch": 1},
        {"micro_batch": 4},  # two packs
        {"batch_size": 1, "accumulation": 2},
        {"snapshots": (1, 4)},
    ],
    ids=str,
)
def test_order_packs_passes_and_snapshots_change_nothing(
    changed: dict[str, Any], together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    settings = {"batch_size": 2, **changed}
    adapters = [THREE[k] for k in settings.pop("order", [0, 1, 2])]
    other = run(make_job(moments, models, *adapters, **settings), models, tmp_path)
    for adapter in THREE:
        assert largest_gap(other.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10


def test_styles_of_different_structure_share_a_job(models: Models, moments: Moments, tmp_path: Path) -> None:
    mixed = (
        THREE[0],
        with_prior(THREE[1]),
        with_text(with_prior(THREE[2])),
        replace(with_text(THREE[0]), style="07"),
    )
    both = run(make_job(moments, models, *mixed, snapshots=(2,)), models, tmp_path / "both")
    for adapter in mixed:
        alone = run(make_job(moments, models, adapter, snapshots=(2,)), models, tmp_path / adapter.style)
        assert largest_gap(alone.tensors(adapter.style, 2), both.tensors(adapter.style, 2)) < 1e-10


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dora_and_others_share_a_stack(
    dropout: float, models: Models, moments: Moments, tmp_path: Path
) -> None:
    """Of different ranks and targets; and every one resumes exactly."""
    mixed = (
        replace(THREE[0], unet=LoraSpec(2, 4.0, ATTENTION, dora=True), ema_decay=0.5),
        THREE[1],
        replace(THREE[2], unet=LoraSpec(5, 1.0, ("to_q", "ff.net.2"), rslora=True, dora=True)),
    )
    settings: dict[str, Any] = {"batch_size": 2, "dropout": dropout}
    both = run(make_job(moments, models, *mixed, **settings, snapshots=(2, 3)), models, tmp_path / "both")
    for adapter in mixed:
        name = adapter.style
        alone = run(make_job(moments, models, adapter, **settings, snapshots=(3,)), models, tmp_path / name)
        assert largest_gap(alone.tensors(name, 3), both.tensors(name, 3)) < 1e-10
    resume = {adapter.style: both.folders[adapter.style, 2] for adapter in mixed}
    job = make_job(moments, models, *mixed, **settings, snapshots=(3,), resume=resume, start_step=2)
    again = run(job, models, tmp_path / "again")
    for adapter in mixed:
        assert same(again.tensors(adapter.style, 3), both.tensors(adapter.style, 3))
    assert any("magnitude" in key for key in again.weights("00", 3))
    assert not any("magnitude" in key for key in again.weights("05", 3))
    plain = replace(mixed[0], unet=LoraSpec(2, 4.0, ATTENTION))
    job = make_job(moments, models, plain, **settings, snapshots=(3,), resume=resume, start_step=2)
    with pytest.raises(ConfigError, match="ranks, targets"):
        run(job, models, tmp_path / "plain")


def test_text_encoder_adapters_of_mixed_rank(models: Models, moments: Moments, tmp_path: Path) -> None:
    only_text = replace(with_text(THREE[2], 5), unet=NONE)
    both = run(make_job(moments, models, with_text(THREE[0]), only_text), models, tmp_path / "both")
    assert all(name.startswith("text_encoder.text_model.encoder.layers.") for name in both.weights("11"))
    alone = run(make_job(moments, models, only_text), models, tmp_path / "alone")
    assert largest_gap(alone.tensors("11"), both.tensors("11")) < 1e-10


def test_a_style_that_explodes_leaves_the_others_bit_identical(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    wild = replace(THREE[1], unet_lr=1e200, max_grad_norm=None)
    result = run(make_job(moments, models, THREE[0], wild, THREE[2], batch_size=2), models, tmp_path)
    assert set(result.outcome.failed) == {"05"}
    step, reason = result.outcome.failed["05"]
    assert step == 2
    assert "loss left the finite numbers" in reason
    assert {style for style, _ in result.folders} == {"00", "11"}
    for style in ("00", "11"):
        assert same(result.tensors(style), together.tensors(style))
        assert result.losses[style] == together.losses[style]
    assert len(result.losses["05"]) == 1  # the mean of its finite steps only
    assert math.isfinite(result.losses["05"][0][1])


def test_training_ends_early_when_every_style_is_dead(
    models: Models, moments: Moments, tmp_path: Path
) -> None:
    wild = replace(THREE[0], unet_lr=1e200)
    result = run(make_job(moments, models, wild, snapshots=(2, 100_000)), models, tmp_path)
    assert result.outcome.failed["00"][0] == 2
    assert not result.folders


def test_dropout_changes_the_result_but_not_with_the_company(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    settings = {"batch_size": 2, "dropout": 0.3}
    dropped = run(make_job(moments, models, *THREE, **settings), models, tmp_path / "all")
    alone = run(make_job(moments, models, THREE[2], **settings, micro_batch=1), models, tmp_path / "alone")
    assert largest_gap(dropped.tensors("11"), together.tensors("11")) > 1e-5
    assert largest_gap(dropped.tensors("11"), alone.tensors("11")) < 1e-10
