"""Enhancers in training: equal to an ordinary module and optimiser, whatever the company, packs and restarts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate

from jdx.backends.base import AdapterSpec, EnhancerSpec, ModelSpec
from jdx.backends.enhancer_files import FILE, HEADER
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.enhancer import form_of, load_enhancer
from jdx.backends.torch.models import Models, load
from jdx.errors import ConfigError
from jdx.methods.enhancer import first_vector, named
from tests.jdx.backends.train_jobs import (
    NONE,
    THREE,
    Moments,
    Reference,
    Result,
    largest_gap,
    make_job,
    run,
    with_enhancer,
    with_prior,
    with_share,
    with_text,
)
from tests.jdx.plain_enhancer import Published


class Enhanced(Reference):
    """With an ordinary module whose output joins the text states of the instance samples."""

    def further_groups(self) -> list[dict[str, Any]]:
        spec, a = self.adapter.enhancer, self.adapter
        assert spec is not None
        form = form_of(self.models)
        self.enhancer = Published().double()
        first = named(first_vector(form, spec.zero, a.seed, a.style), form)
        self.enhancer.load_state_dict(first)
        found = load_file(self.job.enhancer_moments[a.style] / "moments.safetensors")
        side = (8, 16)  # 8 × 8 latents for a width of 32 = 4 × 8
        self.seen = [
            interpolate(found[part].mean((0, 1))[None], side, mode="bilinear", antialias=True).double()
            for part in ("std", "mean")
        ]
        return [{"params": list(self.enhancer.parameters()), "lr": spec.lr}]

    def _states(self, texts: Sequence[str], prior: Sequence[bool]) -> Tensor:
        assert self.adapter.enhancer is not None
        own = torch.tensor([not one for one in prior]).double()[:, None, None]
        bias: Tensor = self.adapter.enhancer.weight * self.enhancer(*self.seen)
        return super()._states(texts, prior) + bias * own


CASES: dict[str, tuple[AdapterSpec, dict[str, Any]]] = {
    "alone with the UNet": (with_enhancer(THREE[0]), {}),
    "last layer zero": (with_enhancer(THREE[0], "last"), {"batch_size": 2}),
    "text, prior, clipping, passes": (
        with_enhancer(with_text(with_prior(replace(THREE[1], max_grad_norm=0.02)))),
        {"batch_size": 2, "accumulation": 2, "micro_batch": 3},
    ),
    "class pictures as a share": (with_enhancer(with_share(THREE[2])), {"batch_size": 3}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_an_ordinary_module_and_optimiser(
    case: str, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapter, settings = CASES[case]
    job = make_job(moments, models, adapter, log_every=1, **settings)
    ours = run(job, models, tmp_path)
    reference = Enhanced(job, adapter, models)
    first = {name: p.detach().clone() for name, p in reference.enhancer.named_parameters()}
    losses = [reference.step(step) for step in range(4)]
    assert [mean for _, mean in ours.losses[adapter.style]] == pytest.approx(losses, rel=1e-8)
    assert largest_gap(ours.weights(adapter.style), reference.weights()) < 1e-7
    folder = ours.folders[adapter.style, 4]
    file = load_file(folder / FILE)
    for name, p in reference.enhancer.named_parameters():
        assert (file[name].double() - p).abs().max() < 1e-6, name
        assert (p - first[name]).abs().max() > 1e-4, name
    enhancer = load_enhancer(folder, models)
    assert enhancer is not None
    want = reference.enhancer(*(part.float().double() for part in reference.seen))[0]
    assert torch.allclose(enhancer.bias().double(), enhancer.weight * want, atol=1e-4)


def test_the_file_says_what_it_is(models: Models, moments: Moments, tmp_path: Path) -> None:
    job = make_job(moments, models, with_enhancer(THREE[1]), snapshots=(2,))
    folder = run(job, models, tmp_path).folders["05", 2]
    with safe_open(folder / FILE, "pt") as file:
        about = json.loads(file.metadata()[HEADER])
    del about["version"]
    assert about == {
        "base_model": models.spec.path, "style": "05", "step": 2, "seed": 2,
        "resolution": 64, "zero": "first", "weight": 0.5, "channels": 4, "tokens": 77, "width": 32,
    }  # fmt: skip


def test_company_and_packs_change_nothing(models: Models, moments: Moments, tmp_path: Path) -> None:
    mixed = (with_enhancer(THREE[0]), THREE[1], with_enhancer(THREE[2], "last"))
    mixed = (replace(mixed[0], enhancer=EnhancerSpec(1.5, 1e-3, "first")), *mixed[1:])
    settings: dict[str, Any] = {"snapshots": (3,), "batch_size": 2}
    both = run(make_job(moments, models, *mixed, **settings), models, tmp_path / "both")
    split = run(make_job(moments, models, *mixed, **settings, micro_batch=1), models, tmp_path / "split")
    for adapter in mixed:
        alone = run(make_job(moments, models, adapter, **settings), models, tmp_path / adapter.style)
        for other in (both, split):
            assert largest_gap(alone.tensors(adapter.style, 3), other.tensors(adapter.style, 3)) < 1e-9
    assert not (both.folders["05", 3] / FILE).exists()


def test_resume_equals_straight_through_bit_for_bit(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapters = [with_enhancer(with_text(one)) for one in THREE[:2]]

    def part(name: str, **settings: Any) -> Result:
        return run(make_job(moments, models, *adapters, **settings), models, tmp_path / name)

    whole = part("whole", snapshots=(2, 5))
    resume = {style: folder for (style, step), folder in whole.folders.items() if step == 2}
    second = part("second", snapshots=(5,), resume=resume, start_step=2)
    for adapter in adapters:
        straight, resumed = (r.folders[adapter.style, 5] for r in (whole, second))
        for file in (FILE, "pytorch_lora_weights.safetensors", "state.safetensors", "losses.csv"):
            assert (straight / file).read_bytes() == (resumed / file).read_bytes(), file


def test_other_pictures_are_not_resumed(models: Models, moments: Moments, tmp_path: Path) -> None:
    adapter = with_enhancer(THREE[0])
    first = run(make_job(moments, models, adapter, snapshots=(1,)), models, tmp_path / "first")
    resume = {"00": first.folders["00", 1]}
    job = make_job(moments, models, adapter, resume=resume, start_step=1)
    with pytest.raises(ConfigError, match="differ from this job's"):
        run(replace(job, enhancer_moments={"00": moments.of("others")}), models, tmp_path / "second")


def test_bfloat16_base_learns_in_float32(tiny_sd: Path, moments: Moments, tmp_path: Path) -> None:
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load(ModelSpec(str(tiny_sd)), "cpu", dtype)
        job = make_job(moments, loaded, *map(with_enhancer, THREE[:2]), log_every=4)
        result = run(job, loaded, tmp_path / str(dtype))
        assert {t.dtype for n, t in result.tensors("00").items() if n != "loss_window"} == {torch.float32}
        assert {t.dtype for t in load_file(result.folders["00", 4] / FILE).values()} == {torch.float32}
        losses[dtype] = [mean for style in ("00", "05") for _, mean in result.losses[style]]
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.02)


def test_one_picture_is_its_own_average(models: Models, tmp_path: Path) -> None:
    alone = Moments(tmp_path / "moments")
    alone.of("00", 1), alone.of("whole 00", 1)
    adapter = replace(with_enhancer(THREE[0]), captions=("a cat",))
    result = run(make_job(alone, models, adapter, snapshots=(1,)), models, tmp_path / "out")
    found = load_file(alone.of("whole 00") / "moments.safetensors")
    average = torch.cat([found["std"], found["mean"]], dim=2).mean((0, 1))
    seen = load_file(result.folders["00", 1] / FILE)["seen"]
    assert torch.allclose(
        seen, interpolate(average[None], (8, 16), mode="bilinear", antialias=True)[0], atol=1e-6
    )


def test_an_enhancer_can_be_all_that_a_style_has(models: Models, moments: Moments, tmp_path: Path) -> None:
    """No rank anywhere: one file, which drawing takes for the whole adapter."""
    alone = with_enhancer(replace(THREE[0], unet=NONE, unet_lr=0.0))
    job = make_job(moments, models, alone, log_every=1)
    ours = run(job, models, tmp_path)
    reference = Enhanced(job, alone, models)
    losses = [reference.step(step) for step in range(4)]
    assert [mean for _, mean in ours.losses["00"]] == pytest.approx(losses, rel=1e-8)
    assert not (ours.folders["00", 4] / "pytorch_lora_weights.safetensors").exists()
    adapter = load_adapter(ours.folders["00", 4], models)
    assert adapter.enhancer is not None
    assert not adapter.unet
    assert not adapter.text_encoder


def test_faults_are_told_together(models: Models, moments: Moments, tmp_path: Path) -> None:
    bad = replace(THREE[0], enhancer=EnhancerSpec(0.0, -1.0, "last"), unet=NONE)
    job = replace(make_job(moments, models, bad), enhancer_moments={})
    with pytest.raises(ConfigError) as caught:
        run(job, models, tmp_path)
    keys = {fault.key for fault in caught.value.faults}
    assert keys >= {"enhancer_moments of 00", "adapter 00: enhancer.weight", "adapter 00: enhancer.lr"}
