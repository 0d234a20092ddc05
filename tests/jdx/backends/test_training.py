"""Training: equal to the usual tools, whatever the company, the packs, the micro-batches and the restarts."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.training_utils import EMAModel

from jdx.backends.base import AdapterSpec, LoraSpec, ModelSpec, ScheduleSpec
from jdx.backends.samples import plan_passes, read_sources
from jdx.backends.torch import packs, preparation, styleid
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.preparation import drawer_of, measure
from jdx.backends.torch.stacked import StackedLinear
from jdx.backends.torch.styleid_memory import FeatureMemory, Place
from jdx.backends.windows import has_prior
from jdx.errors import BackendError, ConfigError
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


@pytest.fixture(autouse=True)
def networks_are_put_back(models: Models) -> Iterator[None]:
    yield
    for network in (models.unet, models.text_encoder):
        assert not any(isinstance(module, StackedLinear) for module in network.modules())
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


def values(result: Result, style: str) -> list[float]:
    """The losses reported for a style, without their steps."""
    return [mean for _, mean in result.losses[style]]


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
    assert values(ours, adapter.style) == pytest.approx(losses, rel=1e-10)
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
    assert values(run(job, models, tmp_path), "00") == pytest.approx([want], rel=1e-10)


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


@pytest.fixture(scope="module")
def together(models: Models, moments: Moments, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three adapters of mixed rank, alpha, targets, rate, decay and clipping in one stack."""
    return run(make_job(moments, models, *THREE, batch_size=2), models, tmp_path_factory.mktemp("together"))


def test_stacked_equals_separate(together: Result, models: Models, moments: Moments, tmp_path: Path) -> None:
    for adapter in THREE:
        alone = run(make_job(moments, models, adapter, batch_size=2), models, tmp_path / adapter.style)
        assert largest_gap(alone.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10
        want = values(together, adapter.style)
        assert values(alone, adapter.style) == pytest.approx(want, rel=1e-10)


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


def test_prior_of_weight_zero_draws_no_class_pictures(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    silent = [with_prior(adapter, 0.0) for adapter in THREE]
    assert same(
        run(make_job(moments, models, *silent, batch_size=2), models, tmp_path).tensors("05"),
        together.tensors("05"),
    )


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


@pytest.mark.parametrize("log_every", [2, 3])
def test_resume_equals_straight_through_bit_for_bit(
    log_every: int, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapters = [with_text(with_prior(adapter)) for adapter in THREE[:2]]
    settings = {"log_every": log_every, "schedule": ScheduleSpec("linear", 1), "schedule_steps": 9}
    whole = run(make_job(moments, models, *adapters, **settings, snapshots=(5,)), models, tmp_path / "whole")
    first = run(make_job(moments, models, *adapters, **settings, snapshots=(2,)), models, tmp_path / "first")
    resume = {style: folder for (style, _), folder in first.folders.items()}
    job = make_job(moments, models, *adapters, **settings, snapshots=(5,), resume=resume, start_step=2)
    second = run(job, models, tmp_path / "second")
    for adapter in adapters:
        straight, resumed = (r.folders[adapter.style, 5] for r in (whole, second))
        for file in ("pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
            assert (straight / file).read_bytes() == (resumed / file).read_bytes(), file


def test_losses_are_the_means_of_the_windows(models: Models, moments: Moments, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"snapshots": (5,)}
    each = run(make_job(moments, models, THREE[0], **settings, log_every=1), models, tmp_path / "each")
    pairs = run(make_job(moments, models, THREE[0], **settings, log_every=2), models, tmp_path / "pairs")
    a, b, c, d, e = values(each, "00")
    assert [step for step, _ in pairs.losses["00"]] == [2, 4, 5]
    assert values(pairs, "00") == pytest.approx([(a + b) / 2, (c + d) / 2, e])
    with (pairs.folders["00", 5] / "losses.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert rows == pairs.losses["00"]


@pytest.mark.parametrize("limit", [5, 1])
def test_out_of_memory_halves_the_pack_and_changes_nothing(
    limit: int,
    together: Result,
    models: Models,
    moments: Moments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forward, calls = models.unet.forward, []

    def small(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(x))
        if len(x) > limit and len(calls) > 3:  # full at first, then another program takes memory
            raise torch.cuda.OutOfMemoryError("simulated")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(models.unet, "forward", small)
    kept = FeatureMemory((Place(torch.device("cpu"), lambda used: 1000),))
    with kept.using([("of an earlier trial",)]):
        kept.allocate(("of an earlier trial",), {}, torch.int8).latent = torch.zeros(1)
    monkeypatch.setitem(styleid._memories, models, kept)
    result = run(make_job(moments, models, *THREE, batch_size=2, snapshots=(2, 4)), models, tmp_path)
    assert "out of GPU memory on styles 00, 05, 11" in caplog.text
    assert max(calls[4:]) <= 6
    assert kept.get(("of an earlier trial",)) is None  # StyleID's memory was given up first
    assert len(result.folders) == 6  # the snapshots before the accident are not handed over again
    for adapter in THREE:
        assert largest_gap(result.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10
        rows = (result.folders[adapter.style, 4] / "losses.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == ["step", "2", "4"]


def test_losses_of_steps_that_are_repeated_are_told_once(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = models.unet.forward, []

    def small(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(x))
        if len(x) > 4 and len(calls) > 3:  # after two steps of all styles
            raise torch.cuda.OutOfMemoryError("simulated")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(models.unet, "forward", small)
    result = run(make_job(moments, models, *THREE, batch_size=2, log_every=1), models, tmp_path)
    assert calls[:5] == [1, 6, 6, 6, 2]  # the probe, two steps, the accident, a part from the beginning
    for style in ("00", "05", "11"):
        assert [step for step, _ in result.losses[style]] == [1, 2, 3, 4]


def test_not_even_one_sample_fitting_is_an_error_that_says_so(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("simulated")

    monkeypatch.setattr(models.unet, "forward", full)
    with pytest.raises(BackendError, match="one training sample does not fit into the GPU's memory"):
        run(make_job(moments, models, THREE[0]), models, tmp_path)
    with pytest.raises(BackendError, match="style 00: one training sample does not fit"):
        packs.Pack(THREE[:1], 1).smaller([])


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
        losses[dtype] = [mean for style in ("00", "05", "11") for mean in values(result, style)]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_dropout_changes_the_result_but_not_with_the_company(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    settings = {"batch_size": 2, "dropout": 0.3}
    dropped = run(make_job(moments, models, *THREE, **settings), models, tmp_path / "all")
    alone = run(make_job(moments, models, THREE[2], **settings, micro_batch=1), models, tmp_path / "alone")
    assert largest_gap(dropped.tensors("11"), together.tensors("11")) > 1e-5
    assert largest_gap(dropped.tensors("11"), alone.tensors("11")) < 1e-10


def test_memory_counts_what_masks_take_while_they_are_made(
    models: Models, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].numel()))
        for path, module in models.unet.named_modules()
        if path.endswith(("to_q", "to_v"))
    ]
    job = make_job(moments, models, THREE[2], dropout=0.3)
    whole = measure(job, models, [THREE[2]]).sample
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr(preparation, "BYTES_AN_ENTRY", 0)
    assert whole - measure(job, models, [THREE[2]]).sample == 12 * max(seen)


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


def test_averages_are_diffusers_and_only_the_drawn_weights_are_averaged(
    together: Result, models: Models, moments: Moments, tmp_path: Path
) -> None:
    """Adapters with and without an average in one stack; the raw parameters are those of a run without any."""
    mixed = [replace(THREE[0], ema_decay=0.25), THREE[1], replace(THREE[2], ema_decay=0.999)]
    steps = (1, 2, 3, 4)
    result = run(make_job(moments, models, *mixed, batch_size=2, snapshots=steps), models, tmp_path)
    for adapter in (mixed[0], mixed[2]):
        theirs = EMAModel([torch.nn.Parameter(torch.zeros(()))], decay=adapter.ema_decay)
        for step in steps:
            state = result.tensors(adapter.style, step)
            now = torch.nn.Parameter(state["unet.param"])
            if step == 1:
                theirs.shadow_params = [now.detach().clone()]
            theirs.step([now])
            assert (state["unet.ema"] - theirs.shadow_params[0]).abs().max() < 1e-15
        assert (state["unet.ema"] - state["unet.param"]).abs().max() > 1e-5
        weights = result.weights(adapter.style)
        paths = [path for path, _ in models.unet.named_modules() if f"unet.{path}.lora_A.weight" in weights]
        names = [f"unet.{path}.lora_{half}.weight" for path in paths for half in "AB"]
        drawn = torch.cat([weights[name].T.flatten() for name in names])
        assert (drawn - state["unet.ema"]).abs().max() < 1e-7
        for name, row in together.tensors(adapter.style).items():
            assert torch.equal(state[name], row), name
    assert same(result.tensors("05"), together.tensors("05"))


def test_a_resumed_average_goes_on_bit_for_bit(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapters = [replace(with_text(THREE[0]), ema_decay=0.9, text_encoder_start=1), with_text(THREE[1])]
    adapters[1] = replace(adapters[1], text_encoder_start=1)
    whole = run(make_job(moments, models, *adapters, snapshots=(2, 5)), models, tmp_path / "whole")
    resume = {style: whole.folders[style, 2] for style in ("00", "05")}
    job = make_job(moments, models, *adapters, snapshots=(5,), resume=resume, start_step=2)
    second = run(job, models, tmp_path / "second")
    for style in ("00", "05"):
        for file in ("pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
            straight, resumed = (r.folders[style, 5] / file for r in (whole, second))
            assert straight.read_bytes() == resumed.read_bytes(), file
    job = replace(job, adapters=(adapters[0], replace(adapters[1], ema_decay=0.9)))
    with pytest.raises(ConfigError, match="holds no running average"):
        run(job, models, tmp_path / "third")


def test_a_snapshot_of_another_shape_is_not_resumed(models: Models, moments: Moments, tmp_path: Path) -> None:
    first = run(make_job(moments, models, THREE[0], snapshots=(1,)), models, tmp_path / "first")
    resume = {"00": first.folders["00", 1]}
    other = replace(THREE[0], unet=LoraSpec(3, 4.0, ATTENTION))
    with pytest.raises(ConfigError, match="ranks, targets, words or base model differ"):
        run(make_job(moments, models, other, resume=resume, start_step=1), models, tmp_path / "second")
    with pytest.raises(ConfigError, match="was written at step 1, not at start_step = 2"):
        run(make_job(moments, models, THREE[0], resume=resume, start_step=2), models, tmp_path / "third")
