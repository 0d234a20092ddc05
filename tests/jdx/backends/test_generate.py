from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from jdx import files
from jdx.backends.base import (
    GenerateJob,
    InitSpec,
    ModelSpec,
    PictureSpec,
    PlainPrompt,
    SamplerSpec,
    StyleDrawJob,
)
from jdx.backends.torch import generate as module
from jdx.backends.torch import pictures
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.develop import Developer
from jdx.backends.torch.generate import decoded_at, generate
from jdx.backends.torch.inference import Denoiser
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.pictures import PictureWriter, to_levels
from jdx.errors import BackendError, ConfigError
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import random_adapter

SAMPLER = SamplerSpec("ddim", 2, 7.5)
WORDS = ("cat", "Ice cream", "boat")


@pytest.fixture(scope="module")
def tiny(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


@pytest.fixture(scope="module")
def adapters(tiny: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One of both networks and one of the UNet alone; alphas are not ranks."""
    folders = []
    for name, text_rank in (("a", 2), ("b", 0)):
        folder = tmp_path_factory.mktemp("adapters") / name
        adapter = random_adapter(tiny, rank=3, alpha=2.0, text_rank=text_rank)
        save_adapter(folder, adapter.unet, adapter.text_encoder, {})
        folders.append(folder)
    return folders[0], folders[1]


def style(name: str, adapter: Path | None, **changes: Any) -> StyleDrawJob:
    drawn = tuple(
        PictureSpec(f"{word}.png", f"an image of {word} in style_{name}", "blurry", 2**35 + index)
        for index, word in enumerate(WORDS)
    )
    return replace(StyleDrawJob(name, adapter, drawn), **changes)


def job(models: Models, *styles: StyleDrawJob, **changes: Any) -> GenerateJob:
    return replace(GenerateJob(models.spec, SAMPLER, 64, styles), **changes)


def run(models: Models, todo: GenerateJob, out: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """{style/file: levels}; checks that every folder is handed over once, in order, and complete."""
    finished = []

    def on_style(name: str, folder: Path) -> None:
        wanted = next(one for one in todo.styles if one.style == name)
        assert {path.name for path in folder.iterdir()} == {picture.file for picture in wanted.pictures}
        finished.append((name, folder))

    generate(todo, models, out, NullProgress(), on_style)
    assert finished == [(one.style, out / one.style) for one in todo.styles]
    return levels(out)


def levels(out: Path) -> dict[str, npt.NDArray[np.uint8]]:
    found = {}
    for path in sorted(out.rglob("*.png")):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (64, 64))
            found[path.relative_to(out).as_posix()] = np.asarray(picture)
    return found


def assert_same(ours: dict[str, npt.NDArray[np.uint8]], theirs: dict[str, npt.NDArray[np.uint8]]) -> None:
    """Equal to a level's rounding, and not by being grey."""
    assert ours.keys() == theirs.keys()
    for name, picture in ours.items():
        assert picture.std() > 10
        assert np.abs(picture.astype(int) - theirs[name]).max() <= 1, name


def test_pictures_are_those_of_a_diffusers_user(
    tiny: Models, adapters: tuple[Path, Path], tiny_sd: Path, tmp_path: Path
) -> None:
    """load_lora_weights and a CPU generator per picture; negative prompts meet the adapted encoder too."""
    ours = run(tiny, job(tiny, style("00", adapters[0]), style("01", adapters[1])), tmp_path)
    theirs: dict[str, npt.NDArray[np.uint8]] = {}
    for name, folder in (("00", adapters[0]), ("01", adapters[1])):
        pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
        pipeline.load_lora_weights(folder)
        pipeline.set_progress_bar_config(disable=True)
        wanted = style(name, folder).pictures
        pictures = pipeline(
            [one.prompt for one in wanted],
            negative_prompt=[one.negative_prompt for one in wanted],
            generator=[torch.Generator("cpu").manual_seed(one.seed) for one in wanted],
            num_inference_steps=2, guidance_scale=7.5, height=64, width=64,
        ).images  # fmt: skip
        theirs |= {f"{name}/{one.file}": np.asarray(p) for one, p in zip(wanted, pictures, strict=True)}
    assert_same(ours, theirs)


def test_neither_batch_nor_company_matters(tiny: Models, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    styles = (style("00", adapters[0]), style("01", None), style("02", adapters[1], lora_scale=0.5))
    together = run(tiny, job(tiny, *styles), tmp_path / "all")
    single = run(tiny, job(tiny, *styles[::-1], batch_size=1), tmp_path / "one by one")
    assert_same(together, single)
    alone = run(tiny, job(tiny, styles[1], batch_size=2), tmp_path / "alone")  # the base is untouched
    assert_same({name: picture for name, picture in together.items() if name.startswith("01/")}, alone)
    full = run(tiny, job(tiny, replace(styles[2], lora_scale=1.0)), tmp_path / "full")
    assert np.abs(full["02/cat.png"].astype(int) - together["02/cat.png"]).max() > 10


def test_plain_prompt_is_mixed_in_as_embeddings(
    tiny: Models, adapters: tuple[Path, Path], tiny_sd: Path, tmp_path: Path
) -> None:
    """Against a diffusers user who mixes the prompts' and the negatives' embeddings by hand; one picture has none."""
    drawn = style("00", adapters[0]).pictures
    plain = PlainPrompt("an image of cat", "dull", 0.25)
    ours = run(
        tiny,
        job(tiny, style("00", adapters[0], pictures=(replace(drawn[0], plain=plain), drawn[1]))),
        tmp_path,
    )
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    pipeline.load_lora_weights(adapters[0])
    pipeline.set_progress_bar_config(disable=True)

    def draw(one: PictureSpec, other: PlainPrompt | None) -> Any:
        own = pipeline.encode_prompt(one.prompt, "cpu", 1, True, one.negative_prompt)
        if other is not None:
            mixed = pipeline.encode_prompt(other.prompt, "cpu", 1, True, other.negative_prompt)
            own = [torch.lerp(a, b, other.share) for a, b in zip(own, mixed, strict=True)]
        return pipeline(
            prompt_embeds=own[0], negative_prompt_embeds=own[1], guidance_scale=7.5, height=64, width=64,
            generator=torch.Generator("cpu").manual_seed(one.seed), num_inference_steps=2,
        ).images[0]  # fmt: skip

    theirs = {
        f"00/{one.file}": np.asarray(draw(one, other))
        for one, other in zip(drawn, (plain, None), strict=False)
    }
    assert_same(ours, theirs)
    unmixed = np.asarray(draw(drawn[0], None)).astype(int)
    assert np.abs(unmixed - ours["00/cat.png"]).max() > 5


def test_batches_are_even(tiny: Models) -> None:
    developer = Developer(tiny, PictureWriter(), 8, lambda n: None)
    drawer = module.Drawer(job(tiny, batch_size=16), tiny, developer, Denoiser(tiny))
    assert [drawer._batch_size(count) for count in (25, 16, 1, 33)] == [13, 16, 1, 11]


def test_out_of_memory_halves_and_draws_the_same(
    tiny: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(tiny, job(tiny, style("00", None)), tmp_path / "whole")
    forward = tiny.unet.forward
    sizes = []

    def small(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError
        return forward(x, *rest, **named)

    monkeypatch.setattr(tiny.unet, "forward", small)
    assert_same(run(tiny, job(tiny, style("00", None)), tmp_path / "halved"), wanted)
    assert sizes == [6] + [2] * 6  # three guided pictures, then one by one, two steps each


def test_neighbours_of_equal_weights_share_batches(
    tiny: Models, adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: class pictures of several words at once, an adapter by itself; one of the words is half done."""
    styles = (style("a", None), style("b", None), style("c", adapters[0]), style("d", None))
    apart = run(tiny, job(tiny, *styles), tmp_path / "apart")
    kept = tmp_path / "together" / "b" / "cat.png"
    kept.parent.mkdir(parents=True)
    kept.write_bytes((tmp_path / "apart" / "b" / "cat.png").read_bytes())
    forward, sizes = tiny.unet.forward, []

    def watched(x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        sizes.append(len(x))
        return forward(x, *rest, **named)

    monkeypatch.setattr(tiny.unet, "forward", watched)
    monkeypatch.setattr(module, "SHARED_ON", "cpu")
    assert_same(run(tiny, job(tiny, *styles, batch_size=8), tmp_path / "together"), apart)
    assert sizes == [10, 10, 6, 6, 6, 6]  # guided: 3 + 2 pictures, then 3, then 3; two steps each


def test_an_interrupted_style_goes_on(tiny: Models, tmp_path: Path) -> None:
    todo = job(tiny, style("00", None))
    first = run(tiny, todo, tmp_path)
    kept, redrawn = tmp_path / "00/cat.png", tmp_path / "00/boat.png"
    redrawn.unlink()
    time = kept.stat().st_mtime_ns
    assert_same(run(tiny, todo, tmp_path), first)
    assert kept.stat().st_mtime_ns == time
    assert_same(run(tiny, todo, tmp_path), first)  # nothing to do: the folder is handed over all the same


def test_drawing_from_a_picture(tiny: Models, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    start = Image.fromarray(np.full((64, 64, 3), (250, 40, 40), dtype=np.uint8))
    start.save(tmp_path / "start.png")
    start.resize((96, 80)).save(tmp_path / "other size.png")
    sampler = SamplerSpec("ddim", 10, 2.0)

    def pictures(name: str, strength: float) -> dict[str, npt.NDArray[np.uint8]]:
        init = InitSpec(tmp_path / name, strength)
        todo = job(tiny, style("00", adapters[0], init=init), sampler=sampler)
        return run(tiny, todo, tmp_path / f"{name} {strength}")

    near, far = pictures("start.png", 0.1), pictures("start.png", 0.9)
    assert_same(pictures("other size.png", 0.1), near)  # one colour stays one colour, whatever its size
    assert np.abs(near["00/cat.png"].astype(int) - far["00/cat.png"]).max() > 10


def test_bfloat16_draws_finite_pictures(tiny_sd: Path, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    half = load(ModelSpec(str(tiny_sd)), "cpu", torch.bfloat16)
    drawn = run(half, job(half, style("00", adapters[0])), tmp_path)
    assert all(picture.std() > 10 for picture in drawn.values())


def test_all_faults_of_a_job_at_once(tiny: Models, tmp_path: Path) -> None:
    one = style("00", tmp_path / "none", init=InitSpec(tmp_path / "no picture", 0.5))
    twice = replace(one.pictures[0], file="CAT.png")
    bad = replace(one, pictures=(*one.pictures, twice))
    with pytest.raises(ConfigError) as caught:
        run(tiny, job(tiny, bad, style("00", None), resolution=60), tmp_path / "out")
    assert [fault.key for fault in caught.value.faults] == [
        "resolution", "style 00", "style 00", "style 00: adapter", "style 00: init.picture",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_finished_styles_are_handed_over_before_an_error(tiny: Models, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    finished: list[str] = []
    todo = job(tiny, style("00", None), style("01", tmp_path / "broken"))
    with pytest.raises(ConfigError, match="pytorch_lora_weights"):
        generate(todo, tiny, tmp_path / "out", NullProgress(), lambda name, folder: finished.append(name))
    assert finished == ["00"]


def test_a_full_disk_is_said_and_nothing_half_is_left(
    tiny: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[str] = []
    write = files.write_bytes

    def full(path: Path, content: bytes) -> None:
        if path.name == "boat.png":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(pictures, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        generate(
            job(tiny, style("00", None)),
            tiny,
            tmp_path,
            NullProgress(),
            lambda name, _: finished.append(name),
        )
    assert finished == []
    assert {path.name for path in (tmp_path / "00").iterdir()} == {"cat.png", "Ice cream.png"}


def test_an_adapter_beyond_the_finite_numbers(tiny: Models, tmp_path: Path) -> None:
    adapter = random_adapter(tiny, alpha=1e38, text_rank=0)
    save_adapter(tmp_path / "adapter", adapter.unet, {}, {})
    with pytest.raises(BackendError, match=r"cat\.png.*dtype=float32"):
        run(tiny, job(tiny, style("00", tmp_path / "adapter")), tmp_path / "out")


def test_levels_round_as_pil_and_numpy() -> None:
    """Origin of the rule: diffusers' numpy_to_pil, (x * 255).round()."""
    unit = torch.rand(1, 3, 4, 5)
    expected = (unit.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    assert np.abs(to_levels(unit * 2 - 1).numpy().astype(int) - expected).max() <= 1
    assert to_levels(torch.tensor([-9.0, -1.0, 1.0, 9.0]).expand(1, 3, 1, 4))[0, 0, :, 0].tolist() == [
        0,
        0,
        255,
        255,
    ]


def test_large_pictures_are_decoded_few_at_a_time() -> None:
    assert [decoded_at(side) for side in (128, 512, 768, 1024, 2048)] == [8, 8, 3, 2, 1]
