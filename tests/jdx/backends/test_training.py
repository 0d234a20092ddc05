"""Training: equal to the usual tools on the same draws; what is drawn, reported and refused."""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jdx.backends.base import AdapterSpec, LoraSpec, ModelSpec, ScheduleSpec
from jdx.backends.samples import plan_passes, read_sources
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.preparation import drawer_of
from jdx.backends.windows import has_prior
from jdx.errors import ConfigError
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    NONE,
    TEXT,
    THREE,
    Moments,
    Reference,
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


REFERENCES: dict[str, tuple[AdapterSpec, dict[str, Any]]] = {
    "unet": (THREE[1], {}),
    "everything": (
        with_text(with_prior(replace(THREE[0], max_grad_norm=0.02))),
        {
            "batch_size": 2,
            "accumulation": 2,
            "schedule": ScheduleSpec("cosine", warmup_steps=2),
            "schedule_steps": 6,
            "betas": (0.8, 0.99),
            "eps": 1e-6,
        },
    ),
    "min-SNR and prior, batch of 3": (
        replace(with_prior(THREE[0]), min_snr_gamma=5.0),
        {"batch_size": 3, "micro_batch": 2},
    ),
    "several sources, captions of views": (
        replace(
            THREE[0],
            style="joint",
            sources=("00", "few", "05"),
            captions=(
                "a cat",
                "a dog",
                ("an owl", "an owl, mirrored"),
                "a sun",
                ("a hat", "tah a"),
                "a cup",
                "a cow",
            ),
        ),
        {"batch_size": 3, "micro_batch": 2},
    ),
    "DoRA": (
        with_text(
            replace(THREE[0], unet=LoraSpec(2, 4.0, (*ATTENTION, "ff.net.2"), dora=True), weight_decay=0.5)
        ),
        {"batch_size": 2},
    ),
    "DoRA and rsLoRA": (
        replace(THREE[1], unet=LoraSpec(4, 3.0, ATTENTION, rslora=True, dora=True)),
        {"accumulation": 2},
    ),
    "rsLoRA": (replace(THREE[1], unet=LoraSpec(4, 3.0, ATTENTION, rslora=True)), {}),
    "DoRA in the text encoder": (
        replace(THREE[2], unet=NONE, text_encoder=LoraSpec(3, 3.0, TEXT, dora=True), text_encoder_lr=3e-3),
        {},
    ),
    "shares, batch of 3": (replace(with_share(THREE[2]), min_snr_gamma=1.0), {"batch_size": 3}),
}


@pytest.mark.parametrize("case", REFERENCES)
def test_equals_peft_diffusers_and_torch_on_the_same_draws(
    case: str, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapter, settings = REFERENCES[case]
    job = make_job(moments, models, adapter, log_every=1, **settings)
    ours = run(job, models, tmp_path)
    reference = Reference(job, adapter, models)
    losses = [reference.step(step) for step in range(4)]
    assert bool(reference.classes) == has_prior(adapter)
    assert ours.means(adapter.style) == pytest.approx(losses, rel=1e-10)
    theirs = reference.weights()
    # Published weights are float32: half a unit in the last place of the largest is 2e-8.
    assert largest_gap(ours.weights(adapter.style), theirs) < 1e-7
    moved = max(p.abs().max().item() for name, p in theirs.items() if "lora_B" in name)
    assert moved > 1e-4


def test_sources_are_visited_equally_often_whatever_their_size(models: Models, moments: Moments) -> None:
    """Three sources of 3, 1 and 3 pictures: any three samples in a row of a round are of three sources."""
    captions = ("a1", "a2", "a3", "b", "c1", "c2", "c3")
    adapter = replace(THREE[0], style="joint", sources=("00", "few", "05"), captions=captions)
    texts, sources = read_sources(make_job(moments, models, adapter), [adapter])
    drawer = drawer_of(models, sources, plan_passes(3, 1, prior=False, most=3))
    steps = [[texts[row] for row in drawer(step)[0].captions.tolist()] for step in range(30)]
    assert all(sorted(text[0] for text in step) == ["a", "b", "c"] for step in steps)
    assert len({tuple(text[0] for text in step) for step in steps}) == 6  # in every order
    shown = Counter(text for step in steps for text in step)
    assert shown == {"b": 30} | {name: 10 for name in captions if name != "b"}


def test_sources_and_captions_that_do_not_fit_are_told(
    models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapter = replace(
        THREE[0], style="joint", sources=("00", "05"), captions=("one",) * 5 + (("a", "b", "c"),)
    )
    job = make_job(moments, models, adapter)
    with pytest.raises(ConfigError, match=r"(?s)2 views.*there are 3 captions for them"):
        run(job, models, tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)6 pictures.*there are 5 captions"):
        run(make_job(moments, models, replace(adapter, captions=("one",) * 5)), models, tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)05.*every source needs the folder"):
        run(replace(job, moments={"00": job.moments["00"]}), models, tmp_path)


@pytest.mark.parametrize("gamma", [None, 5.0])
def test_epsilon_models_learn_the_noise(
    gamma: float | None, tiny_sd_eps: Path, moments: Moments, tmp_path: Path
) -> None:
    models = load(ModelSpec(str(tiny_sd_eps)), "cpu", torch.float64)
    adapter = replace(THREE[0], min_snr_gamma=gamma)
    job = make_job(moments, models, adapter, snapshots=(1,))
    want = Reference(job, adapter, models).step(0)
    assert run(job, models, tmp_path).means("00") == pytest.approx([want], rel=1e-10)


def test_class_pictures_are_the_asked_share_of_the_samples(models: Models, moments: Moments) -> None:
    """Over 1000 samples; and a class sample comes with its own picture, caption and time step."""
    adapter = with_share(THREE[0], 0.3)
    texts, sources = read_sources(make_job(moments, models, adapter), [adapter])
    plan = plan_passes(5, 1, prior=False, most=2)
    drawer = drawer_of(models, sources, plan)
    passes = [one for step in range(200) for one in drawer(step)]
    captions = [texts[row] for one in passes for row in one.captions.tolist()]
    shown = Counter(captions)
    assert len(captions) == 1000
    assert set(shown) == {*THREE[0].captions, "a thing", "a being"}
    assert shown["a thing"] + shown["a being"] == pytest.approx(300, abs=45)  # three standard deviations
    assert shown["a thing"] / shown["a being"] == pytest.approx(2, rel=0.3)  # two pictures of it
    assert all(bool((one.weights == 1 / 5).all()) for one in passes)


def test_prior_of_weight_zero_draws_no_class_pictures(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    silent = [with_prior(adapter, 0.0) for adapter in THREE]
    assert same(
        run(make_job(moments, models, *silent, batch_size=2), models, tmp_path).tensors("05"),
        together.tensors("05"),
    )


def test_losses_are_the_means_of_the_windows(models: Models, moments: Moments, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"snapshots": (5,)}
    each = run(make_job(moments, models, THREE[0], **settings, log_every=1), models, tmp_path / "each")
    pairs = run(make_job(moments, models, THREE[0], **settings, log_every=2), models, tmp_path / "pairs")
    a, b, c, d, e = each.means("00")
    assert [step for step, _ in pairs.losses["00"]] == [2, 4, 5]
    assert pairs.means("00") == pytest.approx([(a + b) / 2, (c + d) / 2, e])
    with (pairs.folders["00", 5] / "losses.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert rows == pairs.losses["00"]


def test_bfloat16_base(tiny_sd: Path, moments: Moments, tmp_path: Path) -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        models = load(ModelSpec(str(tiny_sd)), "cpu", dtype)
        result = run(
            make_job(moments, models, *map(with_text, THREE), log_every=4), models, tmp_path / str(dtype)
        )
        assert not result.outcome.failed
        assert {t.dtype for name, t in result.tensors("00").items() if name != "loss_window"} == {
            torch.float32
        }
        losses[dtype] = [mean for style in ("00", "05", "11") for mean in result.means(style)]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_a_callback_may_move_the_folder_and_may_stop_the_training(
    models: Models, moments: Moments, tmp_path: Path
) -> None:
    def move_then_stop(style: str, step: int, folder: Path) -> None:
        folder.rename(tmp_path / f"{style} {step}")
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(
            make_job(moments, models, THREE[0], snapshots=(1, 2, 9)), models, tmp_path / "out", move_then_stop
        )
    assert {p.name for p in tmp_path.glob("00 *")} == {"00 1", "00 2"}
    assert not list((tmp_path / "out" / "00").iterdir())


def test_all_faults_of_a_job_are_reported_together(models: Models, moments: Moments, tmp_path: Path) -> None:
    bad = AdapterSpec(
        "00", ("one",), 0, LoraSpec(2, math.nan, ("to_x", *ATTENTION)), NONE, -1.0, 0.0, math.inf, 0.0
    )
    unknown = AdapterSpec(
        "77",
        ("one",),
        0,
        NONE,
        NONE,
        0.0,
        0.0,
        prior_weight=1.0,
        prior_fraction=1.0,
        min_snr_gamma=0.0,
        ema_decay=1.0,
    )
    (tmp_path / "00" / "000009").mkdir(parents=True)
    job = make_job(moments, models, bad, snapshots=(9,), batch_size=0, dropout=1.0, start_step=3)
    job = replace(
        job, adapters=(bad, unknown), schedule=ScheduleSpec("cosine", cycles=0), eps=0.0, betas=(0.9, 1.0)
    )
    with pytest.raises(ConfigError) as caught:
        run(job, models, tmp_path)
    keys = {fault.key for fault in caught.value.faults}
    assert keys == {
        *("batch_size", "dropout", "betas", "eps", "start_step", "schedule_steps", "schedule.cycles"),
        *("unet.targets", "out", "moments of 00", "moments of 77", "prior_moments of 77"),
        *(f"adapter 00: {name}" for name in ("unet.alpha", "unet_lr", "weight_decay", "max_grad_norm")),
        *(f"adapter 77: {name}" for name in ("rank", "prior_fraction", "min_snr_gamma", "ema_decay")),
    }
