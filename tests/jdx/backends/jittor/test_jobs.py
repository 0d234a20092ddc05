"""Encoding, drawing and StyleID by the real worker, against the torch backend on the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jdx import ROOT
from jdx.backends.base import (
    Backend,
    CropSpec,
    EncodeJob,
    GenerateJob,
    InitSpec,
    ModelSpec,
    PictureSpec,
    PlainPrompt,
    SamplerSpec,
    StyleDrawJob,
    StyleIdSpec,
    StyleStyliseJob,
    StyliseJob,
)
from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.torch.backend import TorchBackend
from jdx.errors import ConfigError
from jdx.progress import NullProgress

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backends(jittor_backend: JittorBackend) -> tuple[Backend, Backend]:
    """PyTorch's, the reference, and Jittor's."""
    return TorchBackend(device="cpu", dtype="float32"), jittor_backend


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four smooth coloured pictures of several shapes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files = []
    for i, size in enumerate(((80, 64), (64, 90), (64, 64), (70, 70))):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        files.append(folder / f"{i}.png")
        small.resize(size, Image.Resampling.BICUBIC).save(files[-1])
    return files


def psnr(a: Path, b: Path) -> float:
    """Peak signal-to-noise ratio of two pictures, in dB; equal pictures have 99."""
    x, y = (np.asarray(Image.open(file), np.float64) for file in (a, b))
    assert x.std() > 5, f"{a} shows nothing that could differ"
    error = ((x - y) ** 2).mean()
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def test_moments_agree(
    backends: tuple[Backend, Backend], tiny_sd: Path, pictures: list[Path], tmp_path: Path
) -> None:
    crop = CropSpec(resolution=64, scale=1.2, variants=2, flip=0.5, rotation=10.0, seed=3)
    some = {"00": tuple(map(str, pictures[:2])), "05": (str(pictures[2]),)}
    found = []
    job = EncodeJob(ModelSpec(str(tiny_sd)), crop, some)
    for backend in backends:
        handed: dict[str, Path] = {}
        backend.encode(job, tmp_path / backend.name, NullProgress(), handed.__setitem__)
        assert list(handed) == ["00", "05"]
        found.append(
            {style: load_file(tmp_path / backend.name / style / "moments.safetensors") for style in some}
        )
    torch_, jittor_ = found
    for style, moments in torch_.items():
        for name, values in moments.items():
            got = jittor_[style][name]
            assert got.shape == values.shape
            assert np.abs(got - values).max() < 1e-4 * np.abs(values).max(), (style, name)


def drawn(backend: Backend, job: GenerateJob, out: Path) -> dict[str, list[Path]]:
    """Files by style, in the job's order."""
    handed: dict[str, Path] = {}
    backend.generate(job, out, NullProgress(), handed.__setitem__)
    assert list(handed) == [style.style for style in job.styles]
    return {s.style: [handed[s.style] / picture.file for picture in s.pictures] for s in job.styles}


TWO = (
    PictureSpec("a cat.png", "a cat", "", 3),
    PictureSpec("an owl.png", "an owl, drawn", "grey", 2**32 - 1, plain=PlainPrompt("an owl", "", 0.4)),
)


@pytest.mark.parametrize(
    ("sampler", "guidance", "init"),
    [
        ("ddim", 5.0, None),
        ("unipc", 1.0, None),
        ("dpmpp", 5.0, (0.7, True)),
        ("euler", 3.0, None),
        ("unipc", 5.0, (0.7, False)),
    ],
)
def test_pictures_agree(
    backends: tuple[Backend, Backend],
    tiny_sd: Path,
    pictures: list[Path],
    tmp_path: Path,
    sampler: Any,
    guidance: float,
    init: tuple[float, bool] | None,
) -> None:
    start = None if init is None else InitSpec(pictures[0], *init)
    job = GenerateJob(
        ModelSpec(str(tiny_sd)),
        SamplerSpec(sampler, 6, guidance),
        64,
        (StyleDrawJob("00", None, TWO, start),),
    )
    ours, theirs = (drawn(backend, job, tmp_path / backend.name)["00"] for backend in reversed(backends))
    for one, other in zip(ours, theirs, strict=True):
        assert psnr(one, other) > 40, one.name


def test_pictures_of_a_model_that_predicts_the_noise_agree(
    backends: tuple[Backend, Backend], tiny_sd_eps: Path, tmp_path: Path
) -> None:
    styles = (StyleDrawJob("00", None, TWO),)
    job = GenerateJob(ModelSpec(str(tiny_sd_eps)), SamplerSpec("unipc", 6, 4.0), 64, styles, batch_size=1)
    ours, theirs = (drawn(backend, job, tmp_path / backend.name)["00"] for backend in reversed(backends))
    assert all(psnr(one, other) > 40 for one, other in zip(ours, theirs, strict=True))


def test_pictures_of_the_embedded_model_agree(
    backends: tuple[Backend, Backend], pictures: list[Path], tmp_path: Path
) -> None:
    spec = ModelSpec(str(ROOT / "data" / "mini" / "weights" / "model"))
    job = GenerateJob(spec, SamplerSpec("unipc", 5, 5.0), 128, (StyleDrawJob("00", None, TWO[:1]),))
    redrawing = StyleIdSpec(("7", "8", "9"), gamma=0.75, temperature=1.5, steps=3)
    contents = {"0.png": (pictures[0], 0)}
    again = StyliseJob(spec, redrawing, 128, (StyleStyliseJob("01", (pictures[3],), contents),))
    for backend in backends:
        drawn(backend, job, tmp_path / backend.name)
        backend.stylise(again, tmp_path / backend.name, NullProgress(), lambda *_: None)
    for file in (f"00/{TWO[0].file}", "01/0.png"):
        assert psnr(tmp_path / "jittor" / file, tmp_path / "torch" / file) > 40, file


def test_a_half_written_style_is_finished_and_its_pictures_are_kept(
    jittor_backend: JittorBackend, tiny_sd: Path, tmp_path: Path
) -> None:
    job = GenerateJob(
        ModelSpec(str(tiny_sd)), SamplerSpec("ddim", 2, 1.0), 64, (StyleDrawJob("00", None, TWO),)
    )
    kept = tmp_path / "00" / TWO[0].file
    kept.parent.mkdir()
    kept.write_bytes(b"there before")
    files = drawn(jittor_backend, job, tmp_path)["00"]
    assert kept.read_bytes() == b"there before"
    assert Image.open(files[1]).size == (64, 64)


def test_faults_of_a_drawing_are_told_together(
    jittor_backend: JittorBackend, tiny_sd: Path, tmp_path: Path
) -> None:
    style = StyleDrawJob("00", tmp_path / "nothing", TWO)
    job = GenerateJob(ModelSpec(str(tiny_sd)), SamplerSpec("ddim", 2, -1.0), 63, (style, style))
    with pytest.raises(ConfigError) as caught:
        jittor_backend.generate(job, tmp_path, NullProgress(), lambda *_: None)
    keys = {fault.key for fault in caught.value.faults}
    assert keys == {"resolution", "sampler.guidance_scale", "style 00", "style 00: adapter"}


@pytest.mark.parametrize("start_step", [1, 3])
def test_redrawn_pictures_agree(
    backends: tuple[Backend, Backend], tiny_sd: Path, pictures: list[Path], tmp_path: Path, start_step: int
) -> None:
    spec = StyleIdSpec(
        ("7", "8", "9", "10", "11"), gamma=0.6, temperature=1.5, steps=4, start_step=start_step
    )
    contents = {f"{i}.png": (pictures[i], i % 2) for i in range(3)}
    styles = (StyleStyliseJob("00", (pictures[3], pictures[1]), contents),)
    job = StyliseJob(ModelSpec(str(tiny_sd)), spec, 64, styles)
    for backend in backends:
        handed: dict[str, Path] = {}
        backend.stylise(job, tmp_path / backend.name, NullProgress(), handed.__setitem__)
        assert handed == {"00": tmp_path / backend.name / "00"}
    for file in contents:
        assert psnr(tmp_path / "jittor" / "00" / file, tmp_path / "torch" / "00" / file) > 40, file


def test_faults_of_a_styleid_job_are_told_together(
    jittor_backend: JittorBackend, tiny_sd: Path, pictures: list[Path], tmp_path: Path
) -> None:
    spec = StyleIdSpec(("nowhere",), gamma=2.0, temperature=1.5, steps=4)
    styles = (StyleStyliseJob("00", (pictures[0],), {"a.png": (pictures[1], 7)}),)
    job = StyliseJob(ModelSpec(str(tiny_sd)), replace(spec, steps=5000), 64, styles)
    with pytest.raises(ConfigError) as caught:
        jittor_backend.stylise(job, tmp_path, NullProgress(), lambda *_: None)
    keys = {fault.key for fault in caught.value.faults}
    assert keys == {"gamma", "00.contents.a.png", "steps", "layers"}
