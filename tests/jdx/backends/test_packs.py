"""How much goes into one pass: plans, what autograd keeps, and what fits."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from jdx.backends.base import AdapterSpec, LoraSpec, ModelSpec, TrainJob
from jdx.backends.samples import Sample, plan_passes
from jdx.backends.torch import memory, packs
from jdx.backends.torch.devices import limit_memory
from jdx.backends.torch.models import load
from jdx.backends.torch.packs import Pack
from jdx.backends.torch.preparation import measure
from jdx.errors import BackendError
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    THREE,
    Moments,
    largest_gap,
    make_job,
    run,
    with_prior,
    with_text,
    with_word,
)


@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(1, 12))
def test_a_plan_holds_every_sample_once_in_passes_that_fit(
    batch: int, accumulation: int, prior: bool, most: int
) -> None:
    plan = plan_passes(batch, accumulation, prior=prior, most=most)
    halves = (False, True) if prior else (False,)
    wanted = {Sample(half, i) for half in halves for i in range(batch * accumulation)}
    flat = [sample for samples in plan for sample in samples]
    assert len(flat) == len(wanted)
    assert set(flat) == wanted
    assert max(map(len, plan)) <= min(most, batch * len(halves))


@given(st.integers(0, 40), st.integers(1, 20))
def test_even_packs_cover_all_in_order(count: int, most: int) -> None:
    parts = memory.even(range(count), most)
    assert [item for part in parts for item in part] == list(range(count))
    assert len(parts) == -(-count // most)
    sizes = {len(part) for part in parts}
    assert not sizes or (max(sizes) <= most and max(sizes) - min(sizes) <= 1)


@given(st.integers(1, 10**12), st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 100))
def test_what_fits_stays_within_the_budget(available: int, sample: int, adapter: int, samples: int) -> None:
    styles, most = memory.fit(available, memory.Need(sample, adapter), samples)
    assert styles >= 1
    assert 1 <= most <= min(samples, memory.MOST_SAMPLES)
    if styles > 1:
        assert most == samples
    if styles * most > 1:
        assert styles * (adapter + most * int(sample * memory.HEADROOM)) <= available
        assert styles * most <= memory.MOST_SAMPLES


def test_kept_bytes_are_those_of_the_saved_activations() -> None:
    # Two linear layers and a ReLU between. The ReLU keeps its output, the product both its factors, which are
    # one storage; frozen weights and x are not counted.
    first, second = (nn.Linear(64, 64, bias=False).requires_grad_(False) for _ in range(2))
    x = torch.randn(10, 64, requires_grad=True)

    def squared() -> torch.Tensor:
        y: torch.Tensor = second(first(x).relu())
        return y * y

    kept = memory.kept_for_backward(squared, [first.weight, second.weight, x])
    assert kept == 2 * 10 * 64 * 4


def test_counting_keeps_nothing_alive() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def run() -> torch.Tensor:
        x = torch.ones(5, requires_grad=True)
        y = x.exp()  # saves its own result for the backward pass
        made.append(weakref.ref(y))
        return y.sum()

    assert memory.kept_for_backward(run, []) == 5 * 4
    gc.collect()
    assert made[0]() is None


def test_a_sample_of_the_tiny_model_takes_the_same_whatever_the_company(
    tiny_sd: Path, tmp_path: Path
) -> None:
    def needed(*adapters: AdapterSpec) -> memory.Need:
        return measure(make_job(moments, models, *adapters), models, adapters)

    models, moments = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32), Moments(tmp_path / "moments")
    three, one, text = needed(*THREE), needed(THREE[1]), needed(with_text(THREE[1]))
    assert three == one  # THREE[1] has the highest rank and all targets
    assert text.sample > one.sample
    assert text.adapter > one.adapter
    entries = sum(
        4 * (module.in_features + module.out_features)
        for path, module in models.unet.named_modules()
        if isinstance(module, nn.Linear) and re.search(r"\.(to_[qkv]|to_out\.0)$", path)
    )
    assert one.adapter == entries * 4 * memory.COPIES


def job_of(*adapters: AdapterSpec, micro_batch: int = 0, batch_size: int = 2) -> TrainJob:
    return TrainJob(ModelSpec(""), adapters, {}, (1,), batch_size=batch_size, micro_batch=micro_batch)


def planned(job: TrainJob, available: int = 10**9) -> list[tuple[list[str], int]]:
    def need(group: Sequence[AdapterSpec]) -> memory.Need:
        assert not job.micro_batch, "a fixed micro-batch needs no measurement"
        return memory.Need(sample=80, adapter=100)

    found = packs.plan(job, lambda: available, need)
    return [([a.style for a in pack.adapters], pack.most) for pack in found]


def test_packs_hold_styles_of_one_structure_and_what_fits() -> None:
    a, b, c = THREE
    assert planned(job_of(a, b, c)) == [(["00", "05", "11"], 2)]
    assert planned(job_of(a, with_prior(b), c)) == [(["00", "11"], 2), (["05"], 4)]
    assert planned(job_of(a, with_text(b), with_text(c))) == [(["00"], 2), (["05", "11"], 2)]
    assert planned(job_of(a, b, c), available=700) == [(["00"], 2), (["05", "11"], 2)]  # 276 bytes a style
    assert planned(job_of(a, b), available=250) == [(["00"], 1), (["05"], 1)]
    many = [replace(a, style=f"{k:02d}") for k in range(40)]
    assert [len(styles) for styles, _ in planned(job_of(*many))] == [20, 20]  # 32 styles are 64 samples


def test_micro_batch_fixes_the_samples_of_a_pass() -> None:
    assert planned(job_of(*THREE, micro_batch=4)) == [(["00"], 2), (["05", "11"], 2)]
    assert planned(job_of(*THREE, micro_batch=1)) == [(["00"], 1), (["05"], 1), (["11"], 1)]


def test_the_widest_spec_covers_all() -> None:
    specs = [LoraSpec(2, 1.0, ("to_q",)), LoraSpec(0, 1.0, ("ff",)), LoraSpec(8, 2.0, ("to_k", "to_q"))]
    assert packs.widest(specs) == LoraSpec(8, 1.0, ("to_q", "to_k"))
    assert packs.widest([]).rank == 0
    assert set(ATTENTION) == set(packs.widest(a.unet for a in THREE).targets)


def test_packs_are_filled_up_to_the_largest_of_their_structure() -> None:
    a, b, c = THREE
    plain = [Pack((a, b), 1), Pack((c,), 1), Pack((with_prior(a),), 2), Pack((with_prior(b),), 1)]
    even = packs.of_one_shape(plain)
    assert [pack.rows for pack in even] == [2, 2, 1, 1]
    assert [pack.adapters for pack in even] == [pack.adapters for pack in plain]
    assert even[1].seats == (c, c)
    assert plain[1].seats == (c,)


def test_a_row_that_fills_up_says_no_styles_word() -> None:
    learnt = with_prior(with_word(THREE[0], 2))
    own, *spare = Pack((learnt,), 1, rows=3).seats
    assert own == learnt
    assert [s.tokens.token for s in spare if s.tokens] == ["<spare_0>", "<spare_1>"]
    assert {text for s in spare for text in (*s.captions, *s.prior_captions)} == {""}
    assert all(len(s.captions) == len(learnt.captions) for s in spare)


def test_a_memory_setting_shapes_the_packs_and_says_what_does_not_fit(tiny_sd: Path, tmp_path: Path) -> None:
    models, moments = load(ModelSpec(str(tiny_sd)), "cpu", torch.float32), Moments(tmp_path / "moments")
    adapters = [replace(THREE[1], style=f"{k:02d}") for k in range(4)]
    job = make_job(moments, models, *adapters, batch_size=2, snapshots=(1,))
    need = measure(job, models, adapters)
    one, two = (n * (need.adapter + 2.3 * need.sample) / memory.GIB for n in (1, 2))
    half = (need.adapter + 1.2 * need.sample) / memory.GIB
    results, sizes = {}, []
    try:
        for gib in (0.0, two, one, half):
            limit_memory(models.device, gib)
            found = packs.plan(job, lambda: memory.budget(models.device), lambda _: need)
            sizes.append([(len(pack.adapters), pack.most) for pack in found])
            results[gib] = run(job, models, tmp_path / f"{gib}")
        limit_memory(models.device, one / 20)
        with pytest.raises(BackendError, match=r"backend\.memory = .* GiB: one training sample takes"):
            run(job, models, tmp_path / "none")
    finally:
        limit_memory(models.device, 0.0)
    assert sizes == [[(4, 2)], [(2, 2)] * 2, [(1, 2)] * 4, [(1, 1)] * 4]
    for result in results.values():
        assert largest_gap(result.tensors("02", 1), results[0.0].tensors("02", 1)) < 1e-4
