"""StyleBlend's drawing on a tiny Stable Diffusion: against slow programs of single pictures, and its identities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn

from jdx.backends.base import (
    BlendSpec,
    GenerateJob,
    InitSpec,
    PictureSpec,
    SamplerSpec,
    StyleDrawJob,
)
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.adapters import Adapter, LoraPair, save_adapter
from jdx.backends.torch.attention import self_attentions
from jdx.backends.torch.blend import blend_layers, branch_weights
from jdx.backends.torch.develop import Developer
from jdx.backends.torch.generate import Drawer, Prepared, generate
from jdx.backends.torch.inference import Denoiser
from jdx.backends.torch.merge import merge
from jdx.backends.torch.models import Models
from jdx.backends.torch.pictures import PictureWriter
from jdx.backends.torch.sampling import from_noise, start_run
from jdx.errors import ConfigError
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import TEXT_TARGETS, random_adapter, random_pairs
from tests.tiny_sd import SCHEDULER

SAMPLER = SamplerSpec("ddim", 5, 4.0)
C2F, F2C = ("4", "5", "6", "7", "8", "9"), ("0", "1", "2", "3", "10", "11", "12", "13", "14", "15")
SPEC = BlendSpec(C2F, 0.8, F2C, 0.6, lora_scale=0.3)
PATHS = [
    f"{block}.attentions.{i}.transformer_blocks.0.attn1"
    for block, count in (
        ("down_blocks.0", 2), ("down_blocks.1", 2), ("down_blocks.2", 2), ("mid_block", 1),
        ("up_blocks.1", 3), ("up_blocks.2", 3), ("up_blocks.3", 3),
    )
    for i in range(count)
]  # fmt: skip
"""0 to 15 in the authors' program."""


@pytest.fixture(scope="module")
def adapters(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The fine branch's (UNet) and the coarse branch's (text encoder)."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(folder / "fine", random_adapter(models, rank=3, text_rank=0).unet, {}, {})
    save_adapter(folder / "coarse", {}, random_pairs(models.text_encoder, TEXT_TARGETS, 2, 3.0, 5), {})
    return folder / "fine", folder / "coarse"


def job(models: Models, style: StyleDrawJob, sampler: SamplerSpec = SAMPLER, batch: int = 0) -> GenerateJob:
    return GenerateJob(models.spec, sampler, 64, (style,), batch)


def style(adapters: tuple[Path, Path], blend: BlendSpec | None = SPEC, **changes: Any) -> StyleDrawJob:
    drawn = tuple(
        PictureSpec(f"{word}.png", f"a {word} of <F>", "blur", 7 + i, f"a {word} of <C>", "")
        for i, word in enumerate(("cat", "boat", "owl"))
    )
    spec = replace(blend, adapter=adapters[1]) if blend else None
    return replace(StyleDrawJob("00", adapters[0], drawn, blend=spec), **changes)


def latents_of(models: Models, todo: GenerateJob, start: Tensor | None = None) -> Tensor:
    """What a job draws, before decoding; `start`: other first latents than the seeds'."""
    (wanted,) = todo.styles
    drawer = Drawer(todo, models, Developer(models, PictureWriter(), 8, lambda n: None), Denoiser(models))
    with torch.no_grad():
        coarse = drawer._coarse_embeddings(wanted, wanted.pictures)
        assert wanted.adapter is not None
        with drawer._adapted(wanted, load_adapter(wanted.adapter, models)):
            texts = [word for one in wanted.pictures for word in (one.prompt, one.negative_prompt)]
            ready = Prepared(wanted, drawer._embeddings(texts), coarse, None)
            run = start_run(todo.sampler, models.scheduler_config)
            latents = from_noise(models, run, [one.seed for one in wanted.pictures], 64)
            return drawer._sample(run, latents if start is None else start, wanted.pictures, ready)


# A slow program: one picture in the rows of the authors' program, weights row by row, explicit softmax.


class Slow:
    def __init__(self, models: Models, wanted: StyleDrawJob, sampler: SamplerSpec):
        self.models, self.wanted, self.sampler = models, wanted, sampler
        assert wanted.adapter is not None
        self.fine: Adapter = load_adapter(wanted.adapter, models)

    @torch.no_grad()
    def draw(self, picture: PictureSpec) -> Tensor:
        models, blend = self.models, self.wanted.blend
        assert blend is not None
        assert blend.adapter is not None
        with merge(models, load_adapter(blend.adapter, models)):
            coarse = models.embed([picture.coarse_negative, picture.coarse_prompt])
        fine = models.embed([picture.negative_prompt, picture.prompt])
        text = torch.stack([coarse[0], fine[0], coarse[1], fine[1]])
        scheduler = DDIMScheduler.from_config(SCHEDULER | {"prediction_type": models.prediction_type})
        scheduler.set_timesteps(self.sampler.steps)
        z = torch.randn((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(picture.seed)).double()
        z = torch.cat([z, z])
        for step, t in enumerate(scheduler.timesteps):
            with self.hooked(step, blend):
                answer = models.unet(torch.cat([z, z]), t, encoder_hidden_states=text).sample
            negative, positive = answer[:2], answer[2:]
            answer = negative + self.sampler.guidance_scale * (positive - negative)
            z = scheduler.step(answer, t, z).prev_sample
        return z[1:]

    @contextmanager
    def hooked(self, step: int, blend: BlendSpec) -> Iterator[None]:
        unet, (c2f, f2c) = self.models.unet, self.windows(blend)
        with ExitStack() as stack:
            for path, pair in self.fine.unet.items():
                layer = unet.get_submodule(path)
                hook = partial(
                    self.row_by_row, pair=pair, scales=(blend.lora_scale, self.wanted.lora_scale) * 2
                )
                stack.callback(layer.register_forward_hook(hook).remove)
            for i, path in enumerate(PATHS):
                attention = unet.get_submodule(path)
                queries = str(i) in blend.c2f_layers and step < c2f
                values = str(i) in blend.f2c_layers and step < f2c
                stack.callback(setattr, attention, "processor", attention.processor)
                attention.processor = partial(self.attend, queries=queries, values=values)
            yield

    def windows(self, blend: BlendSpec) -> tuple[int, int]:
        return int(blend.c2f_share * self.sampler.steps), int(blend.f2c_share * self.sampler.steps)

    @staticmethod
    def row_by_row(
        layer: nn.Linear, given: tuple[Tensor], _: Tensor, *, pair: LoraPair, scales: tuple[float, ...]
    ) -> Tensor:
        rows = []
        for x, scale in zip(given[0], scales, strict=True):
            weight = layer.weight + scale * pair.alpha / pair.rank * (pair.up.double() @ pair.down.double())
            rows.append(x @ weight.T + (0.0 if layer.bias is None else layer.bias))
        return torch.stack(rows)

    @staticmethod
    def attend(attn: Any, x: Tensor, *_: object, queries: bool, values: bool, **__: object) -> Tensor:
        q, k, v = attn.to_q(x).clone(), attn.to_k(x).clone(), attn.to_v(x).clone()
        if queries:
            q[[1, 3]] = q[[2, 2]]
        if values:
            k[[0, 2]], v[[0, 2]] = k[[3, 3]], v[[3, 3]]
        d = q.shape[-1] // attn.heads
        y = torch.empty_like(q)
        for head in range(attn.heads):
            at = slice(head * d, (head + 1) * d)
            y[..., at] = (q[..., at] @ k[..., at].mT / math.sqrt(d)).softmax(-1) @ v[..., at]
        return torch.as_tensor(attn.to_out[0](y))


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_a_batch_equals_the_slow_program(
    kind: str, models: Models, models_eps: Models, adapters: tuple[Path, Path]
) -> None:
    used, wanted = models if kind == "v" else models_eps, style(adapters)
    made = latents_of(used, job(used, wanted))
    slow = Slow(used, wanted, SAMPLER)
    for i, picture in enumerate(wanted.pictures):
        torch.testing.assert_close(made[i : i + 1], slow.draw(picture), rtol=1e-8, atol=1e-8)


def test_queries_alone_equal_two_passes_one_after_the_other(
    models: Models, adapters: tuple[Path, Path]
) -> None:
    """Without f2c the coarse branch is a drawing of its own: draw it, note its queries, draw the fine one with them."""
    only = replace(SPEC, f2c_layers=(), c2f_share=1.0, lora_scale=1.0)
    sampler = replace(SAMPLER, guidance_scale=1.0)
    wanted = style(adapters, only)
    picture = wanted.pictures[0]
    made = latents_of(models, job(models, replace(wanted, pictures=(picture,)), sampler))
    layers = [models.unet.get_submodule(PATHS[int(i)]).to_q for i in C2F]
    noted: list[Tensor] = []
    with torch.no_grad(), merge(models, load_adapter(adapters[0], models)):
        with merge(models, load_adapter(adapters[1], models)):
            coarse = models.embed([picture.coarse_prompt])
        note = [layer.register_forward_hook(lambda _, __, y: noted.append(y)) for layer in layers]
        alone(models, sampler, coarse, picture.seed)
        for hook in note:
            hook.remove()
        queue = iter(noted)
        lend = [layer.register_forward_hook(lambda _, __, y: next(queue)) for layer in layers]
        want = alone(models, sampler, models.embed([picture.prompt]), picture.seed)
        for hook in lend:
            hook.remove()
    torch.testing.assert_close(made, want, rtol=1e-9, atol=1e-9)


def alone(models: Models, sampler: SamplerSpec, text: Tensor, seed: int) -> Tensor:
    """One branch without guidance, by diffusers' scheduler."""
    scheduler = DDIMScheduler.from_config(models.scheduler_config)
    scheduler.set_timesteps(sampler.steps)
    z = torch.randn((1, 4, 8, 8), generator=torch.Generator("cpu").manual_seed(seed)).double()
    for t in scheduler.timesteps:
        z = scheduler.step(models.unet(z, t, encoder_hidden_states=text).sample, t, z).prev_sample
    return z


def test_equal_branches_are_one_branch(models: Models, adapters: tuple[Path, Path]) -> None:
    plain = style(adapters, None)
    same = tuple(
        replace(p, coarse_prompt=p.prompt, coarse_negative=p.negative_prompt) for p in plain.pictures
    )
    spec = replace(SPEC, adapter=None, lora_scale=1.0)
    # Unconditional rows borrow from conditional ones, so with guidance equal branches are one only without it.
    sampler = replace(SAMPLER, guidance_scale=1.0)
    blended = latents_of(models, job(models, replace(plain, pictures=same, blend=spec), sampler))
    torch.testing.assert_close(
        blended, latents_of(models, job(models, plain, sampler)), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize(
    "changes",
    [{"c2f_share": 0.0, "f2c_share": 0.0}, {"c2f_layers": (), "f2c_layers": ()}, {"c2f_share": 0.0}],
)
def test_without_queries_the_fine_branch_is_alone(
    changes: dict[str, Any], models: Models, adapters: tuple[Path, Path]
) -> None:
    """Keys and values go the other way: lending them cannot change what is kept."""
    blended = latents_of(models, job(models, style(adapters, replace(SPEC, **changes))))
    plain = latents_of(models, job(models, style(adapters, None)))
    torch.testing.assert_close(blended, plain, rtol=1e-10, atol=1e-10)


def test_every_setting_matters(models: Models, adapters: tuple[Path, Path]) -> None:
    """Equality tests mean something only where the pictures differ visibly."""
    base = latents_of(models, job(models, style(adapters)))
    far = 1e-3 * float(base.std())
    variants: list[BlendSpec | None] = [
        None, replace(SPEC, c2f_share=0.2), replace(SPEC, f2c_share=0.0), replace(SPEC, lora_scale=1.0),
        replace(SPEC, c2f_layers=("6",)), replace(SPEC, f2c_layers=("0",)),
    ]  # fmt: skip
    for spec in variants:
        other = latents_of(models, job(models, style(adapters, spec)))
        assert float((other - base).abs().max()) > far, spec
    wanted = style(adapters)
    assert wanted.blend is not None
    untrained = replace(wanted, blend=replace(wanted.blend, adapter=None))
    assert float((latents_of(models, job(models, untrained)) - base).abs().max()) > far


def test_neither_batch_nor_neighbours_change_a_picture(
    models: Models, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    wanted = style(adapters)
    whole = latents_of(models, job(models, wanted))
    for i, picture in enumerate(wanted.pictures):
        one = latents_of(models, job(models, replace(wanted, pictures=(picture,))))
        torch.testing.assert_close(one, whole[i : i + 1], rtol=1e-10, atol=1e-10)
    for batch in (1, 2):
        out = tmp_path / str(batch)
        generate(job(models, wanted, batch=batch), models, out, NullProgress(), lambda *_: None)
    for picture in wanted.pictures:
        a, b = ((tmp_path / batch / "00" / picture.file).read_bytes() for batch in "12")
        assert a == b


def test_init_pictures_blend_over_the_steps_that_are_run(
    models: Models, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 30, 90)).save(tmp_path / "start.png")
    init = InitSpec(tmp_path / "start.png", 0.6)
    for name, spec in (("blended", SPEC), ("alone", None)):
        todo = job(models, style(adapters, spec, init=init))
        generate(todo, models, tmp_path / name, NullProgress(), lambda *_: None)
    a, b = ((tmp_path / name / "00" / "cat.png").read_bytes() for name in ("blended", "alone"))
    assert a != b


def test_numbers_are_the_authors(models: Models) -> None:
    for i, path in enumerate(PATHS):
        assert blend_layers(models.unet, [str(i)], "c2f") == (path,)
    assert list(self_attentions(models.unet)) == PATHS
    lowest = blend_layers(models.unet, ["up_blocks.1", "mid_block", "down_blocks.2"], "c2f")
    assert lowest == blend_layers(models.unet, C2F, "c2f")


def test_networks_are_put_back(models: Models, adapters: tuple[Path, Path]) -> None:
    before = {name: value.clone() for name, value in models.unet.state_dict().items()}
    processors = {path: one.processor for path, one in self_attentions(models.unet).items()}
    with pytest.raises(KeyError), branch_weights(models.unet, {f"{PATHS[0]}.to_q": torch.zeros(16, 16)}, 2):
        raise KeyError
    latents_of(models, job(models, style(adapters)))
    assert {path: one.processor for path, one in self_attentions(models.unet).items()} == processors
    assert all("forward" not in vars(module) for module in models.unet.modules())
    assert all(torch.equal(value, before[name]) for name, value in models.unet.state_dict().items())


def test_all_faults_are_told_together(models: Models, adapters: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = BlendSpec(("16", "up_blocks.0"), 1.5, ("attn9",), -0.1, tmp_path / "nowhere")
    todo = job(models, replace(style(adapters), blend=wrong))
    with pytest.raises(ConfigError) as caught:
        generate(todo, models, tmp_path, NullProgress(), lambda *_: None)
    text = str(caught.value)
    for part in ("16, up_blocks.0", "attn9", "c2f.share", "f2c.share", "nowhere", "up_blocks.1.attentions.0"):
        assert part in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15" in text


def test_a_coarse_adapter_of_the_unet_is_refused(
    models: Models, adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="own UNet adapter"):
        generate(
            job(models, style((adapters[0], adapters[0]))), models, tmp_path, NullProgress(), lambda *_: None
        )
