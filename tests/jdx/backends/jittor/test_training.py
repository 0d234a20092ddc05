"""Training by the real worker: equal to the torch backend's, which is equal to the usual tools."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from jdx.backends.base import (
    AdapterSpec,
    Backend,
    GenerateJob,
    ModelSpec,
    PictureSpec,
    SamplerSpec,
    ScheduleSpec,
    StyleDrawJob,
    TrainJob,
)
from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.torch.backend import TorchBackend
from jdx.backends.torch.models import Models, load
from jdx.errors import ConfigError
from jdx.progress import NullProgress
from tests.jdx.backends.jittor.test_jobs import psnr
from tests.jdx.backends.train_jobs import (
    THREE,
    Moments,
    Result,
    make_job,
    with_enhancer,
    with_prior,
    with_share,
    with_text,
    with_word,
)

pytestmark = pytest.mark.slow
Vectors = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def torch_backend() -> TorchBackend:
    return TorchBackend(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def models(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


def tensors(file: Path) -> Vectors:
    with safe_open(file, "np") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)


def state(result: Result, style: str, step: int) -> Vectors:
    return tensors(result.folders[style, step] / "state.safetensors")


def train(backend: Backend, job: TrainJob, out: Path) -> Result:
    result, out = Result(), out / backend.name
    result.outcome = backend.train(job, out, NullProgress(), result.add_snapshot, result.add_losses)
    return result


def gap(ours: Vectors, theirs: Vectors, *kinds: str) -> float:
    """Largest relative distance of two states' vectors of these kinds, each in the Euclidean norm."""
    assert ours.keys() == theirs.keys()
    names = [name for name in theirs if name.rpartition(".")[2] in kinds]
    assert names
    return max(
        float(np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name])) for name in names
    )


MIXED = (
    with_text(with_prior(THREE[0])),
    with_text(with_prior(replace(THREE[1], min_snr_gamma=5.0, ema_decay=0.99), 0.3), 3),
)


def test_one_step_has_the_same_gradients_and_losses(
    jittor_backend: JittorBackend,
    torch_backend: TorchBackend,
    models: Models,
    moments: Moments,
    tmp_path: Path,
) -> None:
    job = make_job(moments, models, *MIXED, snapshots=(1,), log_every=1)
    ours, theirs = (train(backend, job, tmp_path) for backend in (jittor_backend, torch_backend))
    for adapter in MIXED:
        # After one step m is a tenth of the clipped gradient and v a thousandth of its square.
        a, b = (state(one, adapter.style, 1) for one in (ours, theirs))
        assert gap(a, b, "m", "v") < 1e-4
        assert np.abs(b["unet.m"]).max() > 1e-6
        assert ours.losses[adapter.style][0][1] == pytest.approx(theirs.losses[adapter.style][0][1], rel=1e-5)


CASES: dict[str, tuple[tuple[AdapterSpec, ...], dict[str, Any]]] = {
    "prior, text, min-SNR, average": (
        MIXED,
        {
            "schedule": ScheduleSpec("cosine", 3),
            "schedule_steps": 20,
            "accumulation": 2,
            "snapshots": (8, 20),
        },
    ),
    "three ranks": (THREE, {"batch_size": 2, "betas": (0.8, 0.99)}),
    "share of class pictures": (
        (with_share(THREE[0]), with_share(THREE[1])),
        {"micro_batch": 1, "batch_size": 2},
    ),
    "enhancer": (
        (with_enhancer(with_prior(THREE[0])), with_enhancer(with_prior(THREE[1], 0.4), "last")),
        {},
    ),
    "words": (
        (with_word(with_prior(THREE[0])), with_word(with_prior(THREE[1]), 3, init="pots", steps=5)),
        {},
    ),
    "dropout and a late text encoder": (
        (replace(with_text(THREE[0]), text_encoder_start=4),),
        {"dropout": 0.3, "schedule": ScheduleSpec("step", 2, 1, 3, 0.5)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_trainings_lead_to_the_same_adapters(
    jittor_backend: JittorBackend,
    torch_backend: TorchBackend,
    models: Models,
    moments: Moments,
    tmp_path: Path,
    case: str,
) -> None:
    adapters, settings = CASES[case]
    job = make_job(moments, models, *adapters, **{"snapshots": (3, 8), **settings})
    ours, theirs = (train(backend, job, tmp_path) for backend in (jittor_backend, torch_backend))
    assert ours.folders.keys() == theirs.folders.keys()
    for style, step in theirs.folders:
        a, b = (one.folders[style, step] for one in (ours, theirs))
        assert {file.name for file in a.iterdir()} == {file.name for file in b.iterdir()}
        for file in (file for file in b.iterdir() if file.suffix == ".safetensors"):
            mine, other = tensors(a / file.name), tensors(file)
            assert mine.keys() == other.keys()
            whole = [np.concatenate([x[name].ravel() for name in sorted(other)]) for x in (mine, other)]
            assert np.linalg.norm(whole[0] - whole[1]) < 1e-4 * np.linalg.norm(whole[1]), (
                style,
                step,
                file.name,
            )
        for name in ("jdx_train_state", "lora_adapter_metadata"):
            assert header(a, name) == header(b, name)
    for style, told in theirs.losses.items():
        steps, values = zip(*told, strict=True)
        assert [step for step, _ in ours.losses[style]] == list(steps)
        assert [value for _, value in ours.losses[style]] == pytest.approx(values, rel=1e-4)


def header(folder: Path, name: str) -> str | None:
    """An entry of the header of whichever file of a snapshot has it."""
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "np") as opened:
            if name in (opened.metadata() or {}):
                return str(opened.metadata()[name]) if "enhancer" not in opened.metadata()[name] else None
    return None


@pytest.mark.parametrize("first", ["torch", "jittor"])
def test_a_snapshot_of_either_backend_goes_on_in_jittor(
    jittor_backend: JittorBackend,
    torch_backend: TorchBackend,
    models: Models,
    moments: Moments,
    tmp_path: Path,
    first: str,
) -> None:
    whole = make_job(moments, models, *MIXED, snapshots=(3, 7))
    straight = train(torch_backend, whole, tmp_path / "straight")
    before = straight if first == "torch" else train(jittor_backend, whole, tmp_path / "first")
    resume = {a.style: before.folders[a.style, 3] for a in MIXED}
    rest = train(
        jittor_backend, replace(whole, snapshots=(7,), resume=resume, start_step=3), tmp_path / "rest"
    )
    for a in MIXED:
        assert gap(state(rest, a.style, 7), state(straight, a.style, 7), "param", "ema", "m") < 1e-4
        theirs, ours = straight.folders[a.style, 7], rest.folders[a.style, 7]
        rows = [(folder / "losses.csv").read_text().splitlines() for folder in (theirs, ours)]
        assert len(rows[0]) == len(rows[1])
        for one, other in zip(*(r[1:] for r in rows), strict=True):
            assert [float(x) for x in one.split(",")] == pytest.approx(
                [float(x) for x in other.split(",")], rel=1e-4
            )


def test_an_adapter_that_leaves_the_finite_numbers_dies_alone(
    jittor_backend: JittorBackend, models: Models, moments: Moments, tmp_path: Path
) -> None:
    bad = replace(THREE[1], unet_lr=1e25)
    both = make_job(moments, models, THREE[0], bad, snapshots=(6,))
    alone = make_job(moments, models, THREE[0], snapshots=(6,))
    together, single = (
        train(jittor_backend, both, tmp_path / "2"),
        train(jittor_backend, alone, tmp_path / "1"),
    )
    assert list(together.outcome.failed) == [bad.style]
    step, reason = together.outcome.failed[bad.style]
    assert 1 < step <= 6
    assert "left the finite numbers" in reason
    assert list(together.folders) == [(THREE[0].style, 6)]
    style = THREE[0].style
    assert gap(state(together, style, 6), state(single, style, 6), "param") < 1e-5


def test_an_adapter_of_either_backend_draws_the_same_picture_in_both(
    jittor_backend: JittorBackend,
    torch_backend: TorchBackend,
    models: Models,
    moments: Moments,
    tmp_path: Path,
) -> None:
    adapters = tuple(
        with_enhancer(replace(a, unet_lr=3e-2))
        for a in (with_text(THREE[0]), with_word(with_text(THREE[1]), 2, lr=0.1))
    )
    job = make_job(moments, models, *adapters, snapshots=(6,))
    pictures = (
        PictureSpec("a cat.png", "a cat", "", 3),
        PictureSpec("a pen.png", "a pen in <style_05>", "grey", 4),
    )
    for maker in (jittor_backend, torch_backend):
        made = train(maker, job, tmp_path / "trained")
        styles = tuple(
            StyleDrawJob(a.style, made.folders[a.style, 6], pictures, lora_scale=0.9) for a in adapters
        )
        drawing = GenerateJob(models.spec, SamplerSpec("ddim", 5, 4.0), 64, styles)
        base = GenerateJob(
            models.spec, SamplerSpec("ddim", 5, 4.0), 64, (StyleDrawJob("00", None, pictures),)
        )
        out = tmp_path / f"by {maker.name}"
        torch_backend.generate(base, out / "base", NullProgress(), lambda *_: None)
        for backend in (jittor_backend, torch_backend):
            backend.generate(drawing, out / backend.name, NullProgress(), lambda *_: None)
        for a in adapters:
            for picture in pictures:
                ours, theirs = (out / name / a.style / picture.file for name in ("jittor", "torch"))
                assert psnr(ours, theirs) > 40
                assert psnr(theirs, out / "base" / "00" / picture.file) < 35, "the adapter changes nothing"


def test_faults_of_a_training_are_told_together(
    jittor_backend: JittorBackend, models: Models, moments: Moments, tmp_path: Path
) -> None:
    odd = with_word(replace(THREE[0], unet=replace(THREE[0].unet, dora=True, targets=("to_x",))), 99)
    job = make_job(moments, models, odd, snapshots=(), log_every=0)
    with pytest.raises(ConfigError) as caught:
        jittor_backend.train(job, tmp_path, NullProgress(), lambda *_: None, lambda *_: None)
    keys = {fault.key for fault in caught.value.faults}
    assert {"log_every", "snapshots", "tokens.vectors", "unet.dora", "unet.targets"} <= keys


def test_snapshots_of_other_adapters_are_refused_together(
    jittor_backend: JittorBackend, models: Models, moments: Moments, tmp_path: Path
) -> None:
    before = train(jittor_backend, make_job(moments, models, *THREE[:2], snapshots=(1,)), tmp_path / "first")
    resume = {a.style: before.folders[a.style, 1] for a in THREE[:2]}
    others = (replace(THREE[0], unet=replace(THREE[0].unet, rank=5)), replace(THREE[1], ema_decay=0.9))
    job = make_job(moments, models, *others, snapshots=(2,), resume=resume, start_step=1)
    with pytest.raises(ConfigError) as caught:
        train(jittor_backend, job, tmp_path / "rest")
    assert [(fault.key, fault.value) for fault in caught.value.faults] == [("resume", "00"), ("resume", "05")]
    job = make_job(moments, models, *THREE[:2], snapshots=(2,), resume=resume, start_step=1)
    assert not train(jittor_backend, job, tmp_path / "again").outcome.failed  # the networks are as they were
