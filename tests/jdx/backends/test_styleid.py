"""StyleID on a tiny Stable Diffusion: against a slow one-picture program; what must not change its result."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from PIL import Image
from torch import Tensor

from jdx.backends.base import ModelSpec, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch import styleid
from jdx.backends.torch.attention import processors, self_attentions
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.styleid import StyleId, square
from jdx.backends.torch.styleid_checks import levels_of
from jdx.backends.torch.styleid_features import CONTENT, STYLE, Keeper
from jdx.backends.torch.styleid_layers import Capture, resolve_layers
from jdx.backends.torch.styleid_memory import FeatureMemory, Inverted, Key, Place, places, size
from jdx.errors import BackendError, ConfigError
from jdx.methods.styleid import denoise
from jdx.progress import NullProgress
from tests.tiny_sd import SCHEDULER

CPU = torch.device("cpu")
LAYERS = ("7", "8", "9", "10", "11")
SPEC = StyleIdSpec(layers=LAYERS, gamma=0.6, temperature=1.5, steps=4)
RESOLUTION = 64


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    styleid.release()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five smooth coloured pictures: 0 to 2 are contents, 3 and 4 references (one of them not square)."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    files = []
    for i in range(5):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize((80, 64) if i == 4 else (64, 64), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        files.append(folder / f"{i}.png")
    return files


def engine(
    models: Models, spec: StyleIdSpec = SPEC, *, memory: FeatureMemory | None = None, batch: int = 0
) -> StyleId:
    memory = memory if memory is not None else FeatureMemory(places(CPU))
    return StyleId(models, spec, resolve_layers(models.unet, spec.layers), RESOLUTION, memory, batch)


def redrawn(one: StyleId, pictures: Sequence[Path], which: Sequence[int] = (0, 1, 0)) -> Tensor:
    """Latents of contents 0 to 2 in the style of references 3 and 4."""
    contents, references = pictures[:3], pictures[3:]
    keys = [one.key(path, CONTENT) for path in contents] + [one.key(path, STYLE) for path in references]
    with one.memory.using(keys):
        styles = one.inverted([(path, STYLE) for path in references])
        made = one.inverted([(path, CONTENT) for path in contents])
        return one.redraw(made, [styles[i] for i in which])


# A slow program: one picture, dictionaries by time step, explicit softmax, diffusers' schedulers.


class Slow:
    def __init__(self, models: Models, spec: StyleIdSpec, layers: Sequence[str]):
        self.models, self.spec = models, spec
        self.attentions = {path: models.unet.get_submodule(path) for path in layers}
        config = SCHEDULER | {"prediction_type": models.prediction_type}
        self.up, self.down = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
        for scheduler in (self.up, self.down):
            scheduler.alphas_cumprod = models.alphas_cumprod
            scheduler.set_timesteps(spec.steps)
        self.up.initial_alpha_cumprod = self.down.final_alpha_cumprod = models.alphas_cumprod[0]

    def unet(self, x: Tensor, t: int) -> Tensor:
        text = self.models.embed([""])
        return torch.as_tensor(self.models.unet(x, t, encoder_hidden_states=text).sample)

    @torch.no_grad()
    def invert(self, picture: Path) -> tuple[Tensor, dict[tuple[int, str, str], Tensor]]:
        met: dict[tuple[int, str, str], Tensor] = {}
        x = self.models.vae.encode(square(picture, RESOLUTION)[None].double()).latent_dist.mode() * 0.18215
        for t in self.up.timesteps.tolist():
            hooks = [
                getattr(attention, f"to_{part}").register_forward_hook(
                    lambda _, __, y, key=(t, path, part): met.update({key: y})
                )
                for path, attention in self.attentions.items()
                for part in "qkv"
            ]
            answer = self.unet(x, t)
            for hook in hooks:
                hook.remove()
            x = self.up.step(answer, t, x).prev_sample
        return x, met

    @torch.no_grad()
    def redraw(self, content: Path, reference: Path) -> Tensor:
        z_c, of_content = self.invert(content)
        z_s, of_style = self.invert(reference)
        z = z_c
        if self.spec.adain:
            z = z_c.clone()
            for c in range(z.shape[1]):
                z[0, c] = (
                    z_s[0, c].std() * (z_c[0, c] - z_c[0, c].mean()) / z_c[0, c].std() + z_s[0, c].mean()
                )
        for step, t in enumerate(self.down.timesteps.tolist()):
            if step < self.spec.start_step:
                answer = self.unet(z, t)
            else:
                with self.injected(t, of_content, of_style):
                    answer = self.unet(z, t)
            z = self.down.step(answer, t, z).prev_sample
        return z

    @contextmanager
    def injected(self, t: int, of_content: dict[Any, Tensor], of_style: dict[Any, Tensor]) -> Iterator[None]:
        def attend(attn: Any, x: Tensor, *_: object, path: str, **__: object) -> Tensor:
            q = self.spec.gamma * of_content[t, path, "q"] + (1 - self.spec.gamma) * attn.to_q(x)
            k, v = of_style[t, path, "k"], of_style[t, path, "v"]
            d = q.shape[-1] // attn.heads
            y = torch.empty_like(q)
            for head in range(attn.heads):
                at = slice(head * d, (head + 1) * d)
                logits = self.spec.temperature * q[..., at] @ k[..., at].mT / math.sqrt(d)
                y[..., at] = logits.softmax(-1) @ v[..., at]
            return torch.as_tensor(attn.to_out[0](y))

        originals = {path: attention.processor for path, attention in self.attentions.items()}
        for path, attention in self.attentions.items():
            attention.processor = partial(attend, path=path)
        yield
        for path, attention in self.attentions.items():
            attention.processor = originals[path]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("v", SPEC),
        ("eps", SPEC),
        ("v", replace(SPEC, layers=("up_blocks.1.attentions.0", "11"), start_step=0, adain=False, gamma=0.3)),
        ("v", replace(SPEC, start_step=3, temperature=1.0)),
    ],
)
def test_a_batch_equals_the_slow_program(
    kind: str, spec: StyleIdSpec, models: Models, models_eps: Models, pictures: list[Path]
) -> None:
    used = models if kind == "v" else models_eps
    fast = engine(used, spec)
    slow = Slow(used, spec, fast.layers)
    made = redrawn(fast, pictures)
    for i, which in enumerate((0, 1, 0)):
        want = slow.redraw(pictures[i], pictures[3 + which])
        torch.testing.assert_close(made[i : i + 1], want, rtol=1e-9, atol=1e-9)


def test_styles_and_settings_matter(models: Models, pictures: list[Path]) -> None:
    """Equality tests mean something only where the pictures differ visibly."""
    base = redrawn(engine(models), pictures)
    scale = float(base.std())
    changes = [replace(SPEC, gamma=0.1), replace(SPEC, temperature=3.0), replace(SPEC, start_step=3)]
    changes += [replace(SPEC, adain=False), replace(SPEC, layers=("7",))]
    for spec in changes:
        assert float((redrawn(engine(models, spec), pictures) - base).abs().max()) > 1e-4 * scale
    other = redrawn(engine(models), pictures, which=(1, 1, 0))
    assert float((other - base)[0].abs().max()) > 1e-2 * scale
    torch.testing.assert_close(other[1:], base[1:], rtol=1e-10, atol=1e-10)


def test_own_features_at_gamma_one_are_the_plain_drawing(models: Models, pictures: list[Path]) -> None:
    """Queries, keys and values met while drawing plainly, injected whole: nothing may change."""
    one = engine(models, replace(SPEC, gamma=1.0, temperature=1.0, start_step=0, adain=False))
    z = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = [
        Inverted(
            {n: torch.empty(s, dtype=torch.float64) for n, s in one.shapes(CONTENT + STYLE).items()}, latent
        )
        for latent in z
    ]

    def predict(x: Tensor, t: int) -> Tensor:
        captures = {path: Capture("qkv") for path in one.layers}
        with processors(models.unet, captures):
            text = one.text.expand(2, -1, -1)
            answer = torch.as_tensor(models.unet(x, t, encoder_hidden_states=text).sample)
        Keeper(own, CPU).keep(one.rows[t], {path: capture.taken() for path, capture in captures.items()})
        return answer

    with torch.no_grad():
        plain = denoise(z, one.levels, models.prediction_type, predict)
    torch.testing.assert_close(one.redraw(own, own), plain, rtol=1e-11, atol=1e-11)


def test_capturing_changes_no_answer_and_puts_the_processors_back(models: Models) -> None:
    unet = models.unet
    before = {path: attention.processor for path, attention in self_attentions(unet).items()}
    x, text = torch.ones(1, 4, 8, 8, dtype=torch.float64), models.embed([""])
    with torch.no_grad():
        plain = unet(x, 1, encoder_hidden_states=text).sample
        with processors(unet, {path: Capture("k") for path in before}):
            tapped = unet(x, 1, encoder_hidden_states=text).sample
    torch.testing.assert_close(tapped, plain, rtol=1e-12, atol=1e-12)
    with (
        pytest.raises(KeyError),
        processors(unet, {path: Capture("k") for path in before}),
    ):
        raise KeyError
    assert {path: attention.processor for path, attention in self_attentions(unet).items()} == before


@pytest.mark.parametrize("batch", [1, 2])
def test_neither_batch_nor_place_changes_the_result(batch: int, models: Models, pictures: list[Path]) -> None:
    whole = redrawn(engine(models), pictures)
    one = engine(models)
    content, style = (size(one.shapes(parts), torch.float64) for parts in (CONTENT, STYLE))
    # Room for both references and one content; the other two contents are in the second place.
    near, far = Place(CPU, lambda used: 2 * style + content), Place(CPU, lambda used: 10 * style)
    memory = FeatureMemory((near, far))
    split = redrawn(engine(models, memory=memory, batch=batch), pictures)
    assert (memory.used(near), memory.used(far)) == (2 * style + content, 2 * content)
    torch.testing.assert_close(split, whole, rtol=1e-10, atol=1e-10)


def job(
    tiny_sd: Path, pictures: Sequence[Path], spec: StyleIdSpec = SPEC, *, batch: int = 0, styles: int = 2
) -> StyliseJob:
    contents = {"Ice cream.png": (pictures[0], 0), "b.png": (pictures[1], 1), "c.png": (pictures[2], 0)}
    style = StyleStyliseJob("00", tuple(pictures[3:]), contents)
    other = StyleStyliseJob("01", tuple(pictures[4:]), {"b.png": (pictures[1], 0)})
    return StyliseJob(ModelSpec(str(tiny_sd)), spec, RESOLUTION, (style, other)[:styles], batch)


class Count(NullProgress):
    """Remembers how much was announced and how much was done."""

    total = done = 0

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Any]:
        self.total = total
        yield self

    def advance(self, n: int = 1, **fields: object) -> None:
        self.done += n


def test_job_writes_pictures_and_keeps_those_that_are_there(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path
) -> None:
    done: list[tuple[str, Path]] = []
    progress = Count()
    styleid.stylise(job(tiny_sd, pictures), models, tmp_path, progress, lambda *style: done.append(style))
    assert done == [("00", tmp_path / "00"), ("01", tmp_path / "01")]
    assert progress.done == progress.total == SPEC.steps * (2 * 3 + 2 + 2 * 1 + 1)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert files == ["00/Ice cream.png", "00/b.png", "00/c.png", "01/b.png"]
    latents = redrawn(engine(models), pictures)
    want = ((models.decode(latents) / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1)
    for file, levels in zip(("Ice cream.png", "b.png", "c.png"), want, strict=True):
        with Image.open(tmp_path / "00" / file) as image:
            assert (image.size, image.mode, image.format) == ((64, 64), "RGB", "PNG")
            assert np.abs(np.asarray(image, float) - levels.numpy()).max() <= 1  # a tie of rounding at most

    kept = (tmp_path / "00" / "b.png").stat().st_mtime_ns
    (tmp_path / "00" / "c.png").unlink()
    styleid.release()
    again = Count()
    styleid.stylise(job(tiny_sd, pictures), models, tmp_path, again, lambda *_: None)
    assert again.done == again.total == SPEC.steps * (2 + 1)
    assert (tmp_path / "00" / "c.png").exists()
    assert (tmp_path / "00" / "b.png").stat().st_mtime_ns == kept


class Calls:
    """Batch sizes of the UNet's passes."""

    def __init__(self, models: Models, monkeypatch: pytest.MonkeyPatch, most: int = 99):
        self.sizes: list[int] = []
        forward = models.unet.forward

        def counting(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.sizes.append(len(sample))
            if len(sample) > most:
                raise torch.cuda.OutOfMemoryError("as if")
            return forward(sample, *args, **kwargs)

        monkeypatch.setattr(models.unet, "forward", counting)


def test_another_gamma_draws_without_inverting_again(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(models, monkeypatch)
    run = partial(styleid.stylise, models=models, progress=NullProgress(), on_style=lambda *_: None)
    run(job(tiny_sd, pictures, styles=1), out=tmp_path / "a")
    assert calls.sizes[-12:] == [2] * 4 + [3] * 4 + [3] * 4  # references, contents, drawing
    calls.sizes.clear()
    other = replace(SPEC, gamma=0.2, temperature=2.0)
    run(job(tiny_sd, pictures, other, styles=1), out=tmp_path / "b")
    assert calls.sizes == [3] * 4
    styleid.release()
    run(job(tiny_sd, pictures, other, styles=1), out=tmp_path / "fresh")
    for file in ("Ice cream.png", "b.png", "c.png"):
        assert (tmp_path / "b" / "00" / file).read_bytes() == (tmp_path / "fresh" / "00" / file).read_bytes()
        assert (tmp_path / "b" / "00" / file).read_bytes() != (tmp_path / "a" / "00" / file).read_bytes()
    calls.sizes.clear()
    run(job(tiny_sd, pictures, replace(SPEC, start_step=2), styles=1), out=tmp_path / "c")
    assert len(calls.sizes) == 12  # other time steps are kept: inverted anew


def test_out_of_memory_halves_the_batch(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = partial(styleid.stylise, models=models, progress=NullProgress(), on_style=lambda *_: None)
    run(job(tiny_sd, pictures, styles=1), out=tmp_path / "whole")
    styleid.release()
    with monkeypatch.context() as patch:
        calls = Calls(models, patch, most=1)
        run(job(tiny_sd, pictures, styles=1), out=tmp_path / "halved")
    assert calls.sizes.count(1) == 4 * (2 + 3 + 3)
    for file in ("Ice cream.png", "b.png", "c.png"):
        whole, halved = (
            np.asarray(Image.open(tmp_path / d / "00" / file), float) for d in ("whole", "halved")
        )
        assert np.abs(whole - halved).max() <= 1
    # What the first job left behind is dropped too, before the next try.
    assert (memory := styleid._memories[models]).used(memory.places[0]) > 0
    with monkeypatch.context() as patch:
        Calls(models, patch, most=0)
        with pytest.raises(BackendError, match="does not fit"):
            run(job(tiny_sd, pictures, replace(SPEC, steps=3), styles=1), out=tmp_path / "never")
    assert memory.used(memory.places[0]) == 0


def test_pictures_that_are_not_finite_are_an_error(
    models: Models, tiny_sd: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        StyleId, "redraw", lambda self, contents, references: torch.full((3, 4, 8, 8), torch.nan)
    )
    with pytest.raises(BackendError, match=r"left the finite numbers in torch.float64: .*Ice cream.png"):
        styleid.stylise(job(tiny_sd, pictures), models, tmp_path, NullProgress(), lambda *_: None)
    assert not list(tmp_path.rglob("*.png"))


def test_only_what_is_injected_is_kept(models: Models, pictures: list[Path]) -> None:
    one = engine(models, replace(SPEC, layers=("7", "11"), start_step=1))
    with one.memory.using([one.key(pictures[0], CONTENT)]):
        (content,) = one.inverted([(pictures[0], CONTENT)])
    paths = [f"up_blocks.{b}.attentions.{a}.transformer_blocks.0.attn1" for b, a in ((2, 1), (3, 2))]
    # 64 px, 8 by 8 latents: 16 tokens of 32 numbers at up_blocks.2, 64 of 16 at up_blocks.3; 3 of 4 steps.
    want = {(paths[0], "q"): (3, 16, 32), (paths[1], "q"): (3, 64, 16)}
    assert {name: tuple(x.shape) for name, x in content.features.items()} == want


def test_bfloat16_stays_close(tiny_sd: Path, models: Models, pictures: list[Path]) -> None:
    half = load(ModelSpec(str(tiny_sd)), "cpu", torch.bfloat16)
    made, exact = redrawn(engine(half), pictures), redrawn(engine(models), pictures)
    assert made.dtype is torch.float32
    assert float((made - exact).norm() / exact.norm()) < 0.05


def test_latents_are_the_scaled_mode_of_the_centred_square(models: Models, pictures: list[Path]) -> None:
    with Image.open(pictures[4]) as image:
        centre = image.crop((8, 0, 72, 64))
    pixels = torch.from_numpy(np.array(centre)).double().permute(2, 0, 1)[None] / 127.5 - 1
    want = models.vae.encode(pixels).latent_dist.mean * 0.18215
    torch.testing.assert_close(engine(models).encode(pictures[3:])[1:], want.detach(), rtol=1e-5, atol=1e-5)


def attn(block: int, slot: int) -> str:
    return f"up_blocks.{block}.attentions.{slot}.transformer_blocks.0.attn1"


def test_layers_by_path_by_beginning_and_by_number(models: Models) -> None:
    paper = tuple(attn(b, a) for b in (2, 3) for a in (0, 1, 2))
    assert resolve_layers(models.unet, [6, 7, 8, 9, 10, 11]) == paper
    assert (
        resolve_layers(models.unet, ["11", "up_blocks.2", attn(3, 0), "up_blocks.3.attentions.1", 9]) == paper
    )
    assert resolve_layers(models.unet, ["mid_block"]) == (
        "mid_block.attentions.0.transformer_blocks.0.attn1",
    )
    assert len(self_attentions(models.unet)) == 16  # L68's numbering: 16 self-attentions in the whole UNet


def test_unknown_layers_are_one_error_with_all_that_there_are(models: Models) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_layers(
            models.unet, ["12", "7", 2, "up_blocks.2.attentions.1.transformer_blocks.0.attn2", "up_block"]
        )
    (fault,) = caught.value.faults
    assert fault.value == "12, 2, up_blocks.2.attentions.1.transformer_blocks.0.attn2, up_block"
    assert "up_blocks.1.attentions.0, " in fault.allowed
    assert fault.allowed.endswith("by number: 3, 4, 5, 6, 7, 8, 9, 10, 11")
    with pytest.raises(ConfigError, match="name at least one of"):
        resolve_layers(models.unet, [])


def test_all_faults_of_a_job_in_one_report(models: Models, tiny_sd: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.png"
    contents = {"a.png": (missing, 2), "A.png": (missing, 0)}
    style = StyleStyliseJob("00", (missing,), contents)
    spec = StyleIdSpec(("5", "99"), gamma=1.5, temperature=0.0, steps=1000, start_step=1001)
    bad = StyliseJob(ModelSpec(str(tiny_sd)), spec, 100, (style, style), -1)
    with pytest.raises(ConfigError) as caught:
        styleid.stylise(bad, models, tmp_path / "out", NullProgress(), lambda *_: None)
    text = str(caught.value)
    for part in ("gamma = 1.5", "temperature = 0.0", "steps = 1000", "start_step = 1001", "resolution = 100"):
        assert part in text
    for part in (
        "batch_size = -1",
        "styles = 00",
        "layers = 99",
        "a.png = reference 2",
        "nowhere.png",
        "2 times",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("setting", [{}, {"set_alpha_to_one": False}, {"set_alpha_to_one": True}])
def test_the_clean_end_is_the_one_of_diffusers(models: Models, setting: dict[str, bool]) -> None:
    plain = {key: value for key, value in models.scheduler_config.items() if key != "set_alpha_to_one"}
    one = replace(models, scheduler_config=plain | setting)
    theirs = float(DDIMScheduler.from_config(one.scheduler_config).final_alpha_cumprod)
    assert levels_of(one, 5).amplitudes[0][0] ** 2 == pytest.approx(theirs, rel=1e-6)


# The memory by itself: blobs of 100 bytes.

SHAPES = {("layer", "q"): (1, 1, 100)}
BYTE = torch.int8


def keep(memory: FeatureMemory, name: str) -> None:
    key: Key = (name,)
    with memory.using([key]):
        memory.allocate(key, SHAPES, BYTE).latent = torch.zeros(1)


def known(memory: FeatureMemory, names: str) -> str:
    return "".join(name for name in names if memory.get((name,)) is not None)


def test_memory_drops_stale_ones_first_then_the_most_recent() -> None:
    memory = FeatureMemory((Place(CPU, lambda used: 350),))
    memory.next_job()
    for name in "abcd":
        keep(memory, name)
    assert known(memory, "abcd") == "abd"  # c made room: in a second round, a and b are wanted before it
    for _ in range(2):
        memory.next_job()
    assert known(memory, "b") == "b"
    keep(memory, "e")
    assert known(memory, "abde") == "bde"  # a, unused for two jobs, left first
    memory.trim()  # to 140 bytes of 350
    assert known(memory, "abde") == "b"
    memory.clear()
    assert known(memory, "abde") == ""


def test_memory_never_drops_what_is_in_use() -> None:
    memory = FeatureMemory((Place(CPU, lambda used: 250),))
    with memory.using([("a",), ("b",), ("c",)]):
        memory.allocate(("a",), SHAPES, BYTE).latent = torch.zeros(1)
        memory.allocate(("b",), SHAPES, BYTE)
        assert memory.count_that_fit(100, 9) == 1
        memory.clear()
        with pytest.raises(BackendError, match=r"room for 0.00 GiB on cpu; ask for fewer"):
            memory.allocate(("c",), SHAPES, BYTE)
        assert memory.used(memory.places[0]) == 200
    assert known(memory, "abc") == "a"
    assert memory.used(memory.places[0]) == 100  # b was never finished


def test_memory_prefers_the_first_place_for_good_batches() -> None:
    def fit(near: int, far: int, wanted: int) -> int:
        memory = FeatureMemory((Place(CPU, lambda used: near), Place(CPU, lambda used: far)))
        return memory.count_that_fit(100, wanted)

    assert fit(near=1000, far=10_000, wanted=25) == 10  # enough to keep a device busy
    assert fit(near=300, far=10_000, wanted=25) == 25
    assert fit(near=300, far=0, wanted=2) == 2
    assert fit(near=0, far=0, wanted=25) == 1
    assert FeatureMemory(()).count_that_fit(0, 25) == 1
    assert FeatureMemory((Place(CPU, lambda used: 0),)).count_that_fit(0, 25) == 25
