"""Compiled passes: who gets them, that one compilation serves all steps and packs, and what they compute."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException, Unsupported
from torch._dynamo.utils import counters

from jdx.backends.base import LoraSpec, ModelSpec
from jdx.backends.torch import compile
from jdx.backends.torch.models import Models, load
from tests.jdx.backends.small_models import of_two_blocks
from tests.jdx.backends.train_jobs import (
    ATTENTION,
    THREE,
    Moments,
    largest_gap,
    make_job,
    run,
    with_enhancer,
    with_prior,
    with_text,
    with_word,
)

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing compiled yet, in this process or on disk; tracing without a C++ compiler's minutes."""
    monkeypatch.setattr(compile, "BACKEND", "aot_eager")
    monkeypatch.setenv(compile.CACHE, str(tmp_path / "kernels"))
    compile.say.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def models(tiny_sd: Path) -> Models:
    return of_two_blocks(load(ModelSpec(str(tiny_sd)), "cpu", torch.float64))


def test_who_asks_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "missing", lambda device: "")
    assert compile.choose("auto", CUDA) == "off"
    assert compile.choose("off", CUDA) == "off"
    assert compile.choose("regional", CUDA) == "regional"
    assert compile.choose("full", CPU) == "full"


def test_without_a_compiler_it_is_said_once_and_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert compile.choose("full", CPU) == "off"
            assert compile.choose("regional", CUDA) == "off"
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "there is no C++ compiler; going on without compilation",
        "Triton needs a C compiler, there is none; going on without compilation",
    ]
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert "Triton is not installed" in compile.missing(CUDA)


def test_the_compilers_own_failures_are_told_from_others() -> None:
    def caused(cause: Exception) -> TorchDynamoException:
        error = TorchDynamoException("the backend failed")
        error.__cause__ = cause
        return error

    assert compile.is_failure(Unsupported("a graph break"))
    assert compile.is_failure(caused(RuntimeError("no compiler")))
    assert not compile.is_failure(caused(torch.cuda.OutOfMemoryError("full")))
    assert not compile.is_failure(RuntimeError("anything"))


CASES: dict[str, Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "adapters": lambda: (
        (
            with_prior(replace(THREE[0], ema_decay=0.9)),
            with_prior(
                replace(THREE[1], unet=LoraSpec(4, 4.0, (*ATTENTION, "ff.net.2"), dora=True), min_snr_gamma=5)
            ),
            with_prior(THREE[2]),
        ),
        {"dropout": 0.2},
    ),
    "words and text": lambda: ((with_enhancer(with_text(with_word(THREE[0], 2))),), {"batch_size": 2}),
}


@pytest.mark.parametrize(("case", "mode"), [("adapters", "full"), ("words and text", "regional")])
def test_equals_the_uncompiled_training(
    case: str, mode: compile.Mode, models: Models, moments: Moments, tmp_path: Path
) -> None:
    adapters, settings = CASES[case]()
    job = make_job(moments, models, *adapters, **settings)
    plain = run(job, models, tmp_path / "plain")
    compiled = run(replace(job, compile=mode), models, tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] > 0
    for adapter in adapters:
        assert largest_gap(plain.tensors(adapter.style), compiled.tensors(adapter.style)) < 1e-10
        for (_, a), (_, b) in zip(plain.losses[adapter.style], compiled.losses[adapter.style], strict=True):
            assert a == pytest.approx(b, rel=1e-10)
    assert not any(m._compiled_call_impl for m in models.unet.modules())


def test_one_compilation_serves_every_step_and_pack(models: Models, moments: Moments, tmp_path: Path) -> None:
    """Seven styles in packs of 3, 2 and 2, with factors, samples and rates of their own: one UNet, one optimiser."""
    styles = [replace(THREE[i % 2], style=f"{i:02d}", unet=LoraSpec(4, 4.0, ATTENTION)) for i in range(7)]
    job = make_job(moments, models, *styles, micro_batch=3, compile="full", dropout=0.1, snapshots=(3, 6))
    result = run(job, models, tmp_path)
    assert len(result.folders) == 14  # nothing is written of the rows that fill a pack
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2
    run(replace(job, adapters=job.adapters[:3]), models, tmp_path / "another trial")
    assert counters["stats"]["unique_graphs"] == 2


def test_a_compiler_that_fails_costs_a_line(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def broken(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(compile, "BACKEND", broken)
    job = make_job(moments, models, THREE[0], snapshots=(2,))
    result = run(replace(job, compile="full"), models, tmp_path / "broken")
    assert sum("compilation failed" in record.message for record in caplog.records) == 1
    plain = run(job, models, tmp_path / "plain")
    assert largest_gap(result.tensors("00", 2), plain.tensors("00", 2)) == 0


def test_kernels_are_kept_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def kept(**chosen: str) -> list[str]:
        for name in (compile.CACHE, compile.TRITON_CACHE):
            monkeypatch.setenv(name, chosen.get(name, ""))
            if name not in chosen:
                monkeypatch.delenv(name)
        compile.keep_in(tmp_path / "ours")
        return [os.environ[name] for name in (compile.CACHE, compile.TRITON_CACHE)]

    ours, theirs = str(tmp_path / "ours"), str(tmp_path / "theirs")
    assert kept() == [ours, f"{ours}/triton"]
    assert kept(TORCHINDUCTOR_CACHE_DIR=theirs) == [theirs, f"{theirs}/triton"]
    assert kept(TRITON_CACHE_DIR=theirs) == [ours, theirs]
