"""Training on a GPU: the same numbers as on the CPU, and no waiting for the device inside a step."""

from __future__ import annotations

import gc
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch._dynamo.utils import counters

from jdx.backends.base import LoraSpec, ModelSpec
from jdx.backends.torch import compile, fusing
from jdx.backends.torch.devices import limit_memory
from jdx.backends.torch.memory import GIB
from jdx.backends.torch.models import load
from jdx.backends.torch.replay import Feed, recorded
from tests.jdx.backends import train_jobs
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ADAPTERS = [with_text(with_prior(adapter)) for adapter in (*THREE[:2], with_word(THREE[2], 2))]


def test_equals_the_cpu_in_float64(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, results = Moments(tmp_path / "moments"), []
    for device in ("cpu", "cuda"):
        models = load(ModelSpec(str(tiny_sd)), device, torch.float64)
        embed = models.unet.time_proj.forward
        # diffusers embeds time steps in float32, where a GPU's sine differs from a CPU's in the last digit.
        on_cpu = lambda t, embed=embed: embed(t.cpu()).to(t.device)  # noqa: E731
        monkeypatch.setattr(models.unet.time_proj, "forward", on_cpu)
        job = make_job(moments, models, *ADAPTERS, batch_size=2, dropout=0.1)
        results.append(run(job, models, tmp_path / device))
    for adapter in ADAPTERS:
        assert largest_gap(results[0].tensors(adapter.style), results[1].tensors(adapter.style)) < 1e-9


@pytest.mark.parametrize("graphs", [False, True])
def test_a_step_never_waits_for_the_device(graphs: bool, tiny_sd: Path, tmp_path: Path) -> None:
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.bfloat16), Moments(tmp_path / "moments")

    def waits(steps: int) -> int:
        some = [replace(adapter, ema_decay=0.9) for adapter in (THREE if graphs else ADAPTERS)]
        settings = {"snapshots": (steps,), "log_every": 100, "dropout": 0.1, "micro_batch": 6}
        job = make_job(moments, models, *some, graphs=graphs, **settings)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run(job, models, tmp_path / str(steps))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)

    waits(2)  # what happens once in a process
    assert waits(12) == waits(8) > 0


def test_recorded_steps_are_the_steps(
    tiny_sd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As CUDA graphs: the same numbers in float64; dropout, averages, DoRA, a death and a resumption included."""
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.float64), Moments(tmp_path / "moments")
    adapters = [
        replace(THREE[0], ema_decay=0.9, unet=LoraSpec(2, 4.0, ATTENTION, dora=True)),
        replace(THREE[1], unet_lr=1e200, max_grad_norm=None),
        THREE[2],
    ]
    settings = {"dropout": 0.1, "batch_size": 2, "micro_batch": 6, "snapshots": (6, 12), "log_every": 4}
    job = make_job(moments, models, *adapters, **settings)
    plain = run(job, models, tmp_path / "plain")
    graphs = run(replace(job, graphs=True), models, tmp_path / "graphs")
    assert not caplog.text.count("could not be recorded")
    assert set(plain.outcome.failed) == set(graphs.outcome.failed) == {"05"}
    for style in ("00", "11"):
        assert largest_gap(plain.tensors(style, 12), graphs.tensors(style, 12)) < 1e-9
        for (_, a), (_, b) in zip(plain.losses[style], graphs.losses[style], strict=True):
            assert a == pytest.approx(b, rel=1e-9)
    resume = {style: graphs.folders[style, 6] for style in ("00", "11")}
    left = (adapters[0], adapters[2])
    job = replace(job, graphs=True, adapters=left, resume=resume, start_step=6, snapshots=(12,))
    resumed = run(job, models, tmp_path / "resumed")
    for style in ("00", "11"):
        assert largest_gap(plain.tensors(style, 12), resumed.tensors(style, 12)) < 1e-9


def test_a_part_that_begins_later_is_recorded_with_the_others(
    tiny_sd: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An enhancer alone, then the UNet too, in two passes a step with class pictures."""
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.float64), Moments(tmp_path / "moments")
    adapters = [replace(with_enhancer(with_prior(adapter)), unet_start=6) for adapter in THREE]
    job = make_job(moments, models, *adapters, accumulation=2, micro_batch=6, snapshots=(13,))
    plain = run(job, models, tmp_path / "plain")
    graphs = run(replace(job, graphs=True), models, tmp_path / "graphs")
    assert not caplog.text.count("could not be recorded")
    for adapter in adapters:
        assert largest_gap(plain.tensors(adapter.style, 13), graphs.tensors(adapter.style, 13)) < 1e-9


def test_what_comes_after_an_interrupted_training_waits_for_its_last_steps() -> None:
    """Its memory is given to others, who work on another stream."""
    device, numbers = torch.device("cuda", 0), torch.zeros(1, device="cuda")

    def slow(feed: Feed, learning: tuple[str, ...]) -> None:
        torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]  # clocks, some 0.1 s
        numbers.add_(1.0)

    def interrupted() -> None:
        with recorded(slow, device) as step:
            step(Feed((), torch.zeros(1), torch.zeros(0)), ("unet",))
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert numbers.item() == 1.0


@pytest.mark.parametrize("graphs", [False, True])
def test_fixed_bits_on_a_gpu(graphs: bool, tiny_sd: Path, tmp_path: Path) -> None:
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.bfloat16), Moments(tmp_path / "moments")
    spec = LoraSpec(4, 4.0, ATTENTION)
    adapters = [with_prior(replace(THREE[i % 2], style=f"{i:02d}", unet=spec)) for i in range(5)]
    job = make_job(
        moments, models, *adapters, deterministic=True, micro_batch=6, snapshots=(8,), graphs=graphs
    )
    several = run(job, models, tmp_path / "several")
    again = run(replace(job, adapters=job.adapters[::-1]), models, tmp_path / "again")
    alone = run(replace(job, adapters=job.adapters[1:2]), models, tmp_path / "alone")
    for adapter in adapters:
        assert same(several.tensors(adapter.style, 8), again.tensors(adapter.style, 8))
    assert same(several.tensors("01", 8), alone.tensors("01", 8))


@pytest.mark.parametrize("fused", [False, True])
def test_fixed_bits_at_real_sizes(
    fused: bool, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the widths and latents of Stable Diffusion 2.1, whose kernels are others than the tiny model's."""
    if torch.cuda.mem_get_info()[0] < 20 * GIB:
        pytest.skip("needs 20 GiB of free memory on the card")
    monkeypatch.setattr(train_jobs, "SIZE", 64)
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.bfloat16), Moments(tmp_path / "moments")
    with torch.random.fork_rng(), torch.device("cuda"):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=(5, 10, 20, 20),
            layers_per_block=1,
            cross_attention_dim=models.text_encoder.config.hidden_size,
            use_linear_projection=True,
        )
    unet = unet.to(torch.bfloat16).requires_grad_(False).eval()
    if fused:
        fusing.fuse(unet)
    models = replace(models, unet=unet)
    adapters = [
        with_prior(replace(THREE[1], style=f"{i:02d}", unet=LoraSpec(32, 32.0, ATTENTION))) for i in range(8)
    ]
    job = make_job(moments, models, *adapters, deterministic=True, snapshots=(5,), graphs=True)
    several = run(job, models, tmp_path / "several")
    turned = run(replace(job, adapters=job.adapters[::-1], graphs=False), models, tmp_path / "turned")
    alone = run(replace(job, adapters=job.adapters[5:6]), models, tmp_path / "alone")
    assert same(several.tensors("05", 5), alone.tensors("05", 5))
    for adapter in adapters:
        assert same(several.tensors(adapter.style, 5), turned.tensors(adapter.style, 5))


@pytest.mark.parametrize("mode", ["regional", "full"])
def test_compiled_for_a_gpu(mode: compile.Mode, tiny_sd: Path, tmp_path: Path) -> None:
    """With graphs on top; a second job of the same shapes compiles nothing."""
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.float64), Moments(tmp_path / "moments")
    if lack := compile.missing(models.device):
        pytest.skip(lack)
    job = make_job(moments, models, *THREE, dropout=0.1, batch_size=2, micro_batch=6, snapshots=(8,))
    plain = run(job, models, tmp_path / "plain")
    torch._dynamo.reset()
    counters.clear()
    found = run(replace(job, compile=mode, graphs=True), models, tmp_path / "compiled")
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    run(replace(job, compile=mode, graphs=True), models, tmp_path / "again")
    assert counters["stats"]["unique_graphs"] == graphs
    for adapter in THREE:
        ours, theirs = found.tensors(adapter.style, 8), plain.tensors(adapter.style, 8)
        gap = (ours["unet.param"] - theirs["unet.param"]).norm() / theirs["unet.param"].norm()
        assert gap < 1e-4  # time steps are embedded in float32


def test_a_memory_setting_is_kept(tiny_sd: Path, tmp_path: Path) -> None:
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda:0", torch.float32), Moments(tmp_path / "moments")
    adapters = [replace(THREE[1], style=f"{k:02d}") for k in range(8)]
    job = make_job(moments, models, *adapters, batch_size=4, snapshots=(2,))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    limit = 1.5
    limit_memory(models.device, limit)
    try:
        assert not run(job, models, tmp_path).outcome.failed
        assert torch.cuda.max_memory_reserved() <= limit * GIB
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(int(limit * GIB), dtype=torch.uint8, device="cuda")
    finally:
        limit_memory(models.device, 0.0)
