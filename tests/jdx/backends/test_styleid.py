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

from jdx.backends.base import ModelSpec, StyleIdSpec
from jdx.backends.torch.attention import processors, self_attentions
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.styleid_checks import levels_of
from jdx.backends.torch.styleid_features import CONTENT, STYLE, Keeper
from jdx.backends.torch.styleid_layers import Capture, resolve_layers
from jdx.backends.torch.styleid_memory import FeatureMemory, Inverted, Place, size
from jdx.backends.torch.styleid_pictures import square
from jdx.errors import ConfigError
from jdx.methods.styleid import denoise
from tests.jdx.backends.styleid_jobs import CPU, RESOLUTION, SPEC, engine, forget, pictures, redrawn
from tests.tiny_sd import SCHEDULER

__all__ = ["forget", "pictures"]


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


@pytest.mark.parametrize("setting", [{}, {"set_alpha_to_one": False}, {"set_alpha_to_one": True}])
def test_the_clean_end_is_the_one_of_diffusers(models: Models, setting: dict[str, bool]) -> None:
    plain = {key: value for key, value in models.scheduler_config.items() if key != "set_alpha_to_one"}
    one = replace(models, scheduler_config=plain | setting)
    theirs = float(DDIMScheduler.from_config(one.scheduler_config).final_alpha_cumprod)
    assert levels_of(one, 5).amplitudes[0][0] ** 2 == pytest.approx(theirs, rel=1e-6)
