from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageOps
from scipy import stats
from torchvision.transforms import functional as vision

from jdx.backends.base import CropSpec, EncodeJob, ModelSpec
from jdx.backends.torch.encode import _rows, encode
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.pictures import to_pixels
from jdx.backends.views import cut, resize_short_edge, resized_edge, turned, view
from jdx.errors import ConfigError
from jdx.progress import NullProgress

CENTRE = CropSpec(resolution=64, scale=1.04, random=False, variants=1)
RANDOM = CropSpec(resolution=64, scale=1.25, random=True, variants=4, flip=0.5, seed=3)


@pytest.fixture(scope="module")
def tiny(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Smooth noise in landscape, portrait and square."""
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, size in (("boat", (150, 90)), ("tree", (70, 101)), ("cat", (80, 80))):
        levels = numbers.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return tuple(str(folder / f"{name}.png") for name in ("boat", "tree", "cat"))


def encoded(models: Models, job: EncodeJob, out: Path) -> dict[str, dict[str, torch.Tensor]]:
    finished: list[str] = []
    encode(job, models, out, NullProgress(), lambda style, folder: finished.append(f"{style}|{folder}"))
    assert finished == [f"{style}|{out / style}" for style in job.pictures]
    return {style: safetensors.torch.load_file(out / style / "moments.safetensors") for style in job.pictures}


@pytest.mark.parametrize("size", [(150, 90), (70, 101), (80, 80), (64, 1000), (333, 334)])
def test_resizing_and_centre_crop_are_torchvisions(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    picture = Image.fromarray(levels)
    theirs = vision.resize(picture, [67], vision.InterpolationMode.BILINEAR)
    ours = resize_short_edge(picture, resized_edge(CENTRE))
    assert ours.size == theirs.size
    assert ours.tobytes() == theirs.tobytes()
    assert cut(ours, CENTRE, 0).tobytes() == vision.center_crop(theirs, [64, 64]).tobytes()


def test_the_short_edge_of_the_published_recipe() -> None:
    assert resized_edge(CropSpec(resolution=512, scale=1.04)) == 532


def test_moments_are_the_posterior_of_the_views(
    tiny: Models, tiny_sd: Path, pictures: tuple[str, ...], tmp_path: Path
) -> None:
    got = encoded(tiny, EncodeJob(tiny.spec, CENTRE, {"00": pictures}), tmp_path)["00"]
    vae = AutoencoderKL.from_pretrained(tiny_sd, subfolder="vae")
    for index, path in enumerate(pictures):
        square = vision.center_crop(
            vision.resize(Image.open(path), [67], vision.InterpolationMode.BILINEAR), [64, 64]
        )
        with torch.no_grad():
            posterior = vae.encode(vision.to_tensor(square)[None] * 2 - 1).latent_dist
        assert got["mean"].shape == got["std"].shape == (3, 1, 4, 8, 8)
        assert (got["mean"][index] - posterior.mean).abs().max() < 1e-5
        assert (got["std"][index] - posterior.std).abs().max() < 1e-5
    assert got["mean"].dtype is torch.float32


def test_views_do_not_know_their_company(tiny: Models, pictures: tuple[str, ...], tmp_path: Path) -> None:
    """A style's views depend on (seed, style, stem, variant): not on order or company."""
    both = encoded(tiny, EncodeJob(tiny.spec, RANDOM, {"00": pictures, "01": pictures}), tmp_path / "a")
    alone = encoded(tiny, EncodeJob(tiny.spec, RANDOM, {"01": pictures[::-1][:2]}), tmp_path / "b")["01"]
    assert (both["01"]["mean"][[2, 1]] - alone["mean"]).abs().max() < 1e-5
    fewer = replace(RANDOM, variants=2)
    short = encoded(tiny, EncodeJob(tiny.spec, fewer, {"01": pictures}), tmp_path / "c")["01"]
    assert (both["01"]["mean"][:, :2] - short["mean"]).abs().max() < 1e-5
    assert (both["00"]["mean"] - both["01"]["mean"]).abs().max() > 0.1
    other = encoded(tiny, EncodeJob(tiny.spec, replace(RANDOM, seed=4), {"01": pictures}), tmp_path / "d")[
        "01"
    ]
    assert (both["01"]["mean"] - other["mean"]).abs().max() > 0.1


def test_the_bits_do_not_know_their_company(
    tiny: Models, pictures: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes are filled across styles, and the last one up to the same number of rows."""
    given: list[int] = []
    moments = Models.moments

    def noted(models: Models, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given.append(len(pixels))
        return moments(models, pixels)

    monkeypatch.setattr(Models, "moments", noted)
    one = replace(RANDOM, variants=1)
    many = encoded(tiny, EncodeJob(tiny.spec, one, {f"{i:02}": pictures for i in range(6)}), tmp_path / "a")
    assert given == [8, 8, 8]
    alone = encoded(tiny, EncodeJob(tiny.spec, one, {"04": pictures}), tmp_path / "b")
    assert given == [8] * 4
    for name in ("mean", "std"):
        assert torch.equal(alone["04"][name], many["04"][name])
        assert not torch.equal(many["03"][name], many["04"][name])


@pytest.mark.parametrize(("fit", "rows"), [(1, 1), (3, 2), (9, 8), (15, 8), (16, 16)])
def test_a_little_less_free_memory_leaves_the_passes(
    fit: int, rows: int, tiny: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jdx.backends.torch.encode.pictures_that_fit", lambda *_: fit)
    assert _rows(tiny, 512) == rows


def test_less_memory_than_thought(
    tiny: Models, pictures: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = EncodeJob(tiny.spec, RANDOM, {"00": pictures, "01": pictures[:2]})
    wanted = encoded(tiny, job, tmp_path / "a")
    moments = Models.moments

    def small(models: Models, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(pixels) > 3:
            raise torch.cuda.OutOfMemoryError
        return moments(models, pixels)

    monkeypatch.setattr(Models, "moments", small)
    got = encoded(tiny, job, tmp_path / "b")
    for style, some in wanted.items():
        assert (got[style]["mean"] - some["mean"]).abs().max() < 1e-5
        assert (got[style]["std"] - some["std"]).abs().max() < 1e-5


def test_offsets_cover_the_room_and_flips_their_share() -> None:
    """Every pixel's value is its column, so that a view tells where it was cut."""
    columns = np.tile(np.arange(80, dtype=np.uint8)[None, :, None], (80, 1, 3))
    picture = Image.fromarray(columns)
    crop = replace(RANDOM, resolution=76, flip=0.25)
    views = [np.asarray(cut(picture, crop, 3, "00", "cat", v))[0, :, 0] for v in range(400)]
    mirrored = [view[0] > view[-1] for view in views]
    lefts = {int(view.min()) for view in views}
    assert lefts == {0, 1, 2, 3, 4}
    assert 0.18 < np.mean(mirrored) < 0.32  # 0.25 ± 3 standard deviations
    assert all((np.abs(np.diff(view.astype(int))) == 1).all() for view in views)


@pytest.mark.parametrize("degrees", [0.0, 10.0, -7.3, 33.0, -90.0, 180.0])
@pytest.mark.parametrize("size", [(90, 60), (61, 84), (64, 64)])
def test_turning_equals_opencv_with_reflected_borders(degrees: float, size: tuple[int, int]) -> None:
    """Origin: albumentations' Rotate, which is cv2.warpAffine with INTER_LINEAR and BORDER_REFLECT_101."""
    levels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)
    width, height = size
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    theirs = cv2.warpAffine(
        np.asarray(picture), turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    gap = np.abs(np.asarray(turned(picture, degrees)).astype(int) - theirs)
    assert gap.max() <= 3  # OpenCV rounds places to 1/32 pixel
    assert gap.mean() < 0.5


def test_angles_are_uniform_within_the_limit() -> None:
    """A horizontal ramp's slope tells the angle: the view of a turned ramp falls by tan(angle) per row."""
    ramp = np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (80, 1, 3))
    crop = replace(RANDOM, resolution=32, scale=2.5, random=False, flip=0.0, rotation=10.0)
    angles = []
    for variant in range(300):
        middle = np.asarray(view(Image.fromarray(ramp), crop, 3, "00", "cat", variant)).astype(float)[..., 0]
        down, across = (np.diff(middle, axis=axis).mean() for axis in (0, 1))
        angles.append(np.degrees(np.arctan2(down, across)))
    assert max(np.abs(angles)) < 10.5
    assert stats.kstest(np.array(angles), stats.uniform(-10, 20).cdf).pvalue > 0.01
    straight = replace(crop, rotation=0.0)
    assert view(Image.fromarray(ramp), straight, 3, "00", "cat", 0) == cut(Image.fromarray(ramp), straight)


def test_mirroring_keeps_the_square(pictures: tuple[str, ...]) -> None:
    picture = Image.open(pictures[0])
    plain = cut(picture, replace(RANDOM, flip=0.0), 3, "00", "boat", 0)
    mirrored = cut(picture, replace(RANDOM, flip=1.0), 3, "00", "boat", 0)
    assert ImageOps.mirror(mirrored).tobytes() == plain.tobytes()


def test_finished_styles_are_kept_and_others_are_made_anew(
    tiny: Models, pictures: tuple[str, ...], tmp_path: Path
) -> None:
    job = EncodeJob(tiny.spec, RANDOM, {"00": pictures})
    encoded(tiny, job, tmp_path)
    file = tmp_path / "00/moments.safetensors"
    first = file.stat().st_mtime_ns
    encoded(tiny, job, tmp_path)
    assert file.stat().st_mtime_ns == first
    again = encoded(tiny, EncodeJob(tiny.spec, CENTRE, {"00": pictures}), tmp_path)
    assert again["00"]["mean"].shape[1] == 1
    file.write_bytes(b"torn")
    assert encoded(tiny, job, tmp_path)["00"]["mean"].shape[1] == 4
    assert [p.name for p in file.parent.iterdir()] == ["moments.safetensors"]


def test_any_memory_layout_is_saved(
    tiny: Models, pictures: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Convolutions may answer channels-last, which safetensors refuses to write."""
    moments = Models.moments

    def channels_last(self: Models, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(part.to(memory_format=torch.channels_last) for part in moments(self, pixels))

    wanted = encoded(tiny, EncodeJob(tiny.spec, CENTRE, {"00": pictures}), tmp_path / "a")
    monkeypatch.setattr(Models, "moments", channels_last)
    got = encoded(tiny, EncodeJob(tiny.spec, CENTRE, {"00": pictures}), tmp_path / "b")
    assert (got["00"]["mean"] - wanted["00"]["mean"]).abs().max() < 1e-5


def test_few_views_wait_for_the_device(
    tiny: Models, pictures: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches more than are taken, however many variants a picture has."""
    made: list[int] = []
    given: list[int] = []
    waiting: list[int] = []
    moments = Models.moments

    def noted(picture: Image.Image) -> torch.Tensor:
        made.append(1)
        return to_pixels(picture)

    def slowly(models: Models, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(0.05)  # for the threads, which would run further ahead if they might
        given.append(len(pixels))
        waiting.append(len(made) - sum(given))
        return moments(models, pixels)

    monkeypatch.setattr("jdx.backends.torch.encode.to_pixels", noted)
    monkeypatch.setattr(Models, "moments", slowly)
    job = EncodeJob(tiny.spec, CropSpec(64, variants=60), {"00": pictures[:1], "01": pictures[:1]})
    encode(job, tiny, tmp_path, NullProgress(), lambda style, folder: None)
    assert sum(given) == len(made) == 120
    assert max(waiting) <= 3 * max(given)


def test_all_faults_of_a_job_at_once(tiny: Models, tmp_path: Path) -> None:
    crop = CropSpec(resolution=60, scale=0.5, variants=0, flip=2.0, rotation=200.0)
    with pytest.raises(ConfigError) as caught:
        encoded(tiny, EncodeJob(tiny.spec, crop, {"00": ()}), tmp_path)
    assert [fault.key for fault in caught.value.faults] == [
        "crop.resolution", "crop.scale", "crop.variants", "crop.flip", "crop.rotation", "style 00",
    ]  # fmt: skip


def test_pixels_run_from_minus_one_to_one() -> None:
    levels = np.array([[[0, 255, 51]]], dtype=np.uint8)
    assert to_pixels(Image.fromarray(levels)).flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6])
