"""Training on a GPU: the same numbers as on the CPU, and no waiting for the device inside a step."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from jdx.backends.base import ModelSpec
from jdx.backends.torch.models import load
from tests.jdx.backends.train_jobs import (
    THREE,
    Moments,
    largest_gap,
    make_job,
    run,
    with_prior,
    with_text,
    with_word,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ADAPTERS = [with_text(with_prior(adapter)) for adapter in (*THREE[:2], with_word(THREE[2], 2))]


def test_equals_the_cpu_in_float64(tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, results = Moments(tmp_path / "moments"), []
    for device in ("cpu", "cuda"):
        models = load(ModelSpec(str(tiny_sd)), device, torch.float64)
        embed = models.unet.time_proj.forward
        # diffusers embeds time steps in float32, where a GPU's sine differs from a CPU's in the last digit.
        on_cpu = lambda t, embed=embed: embed(t.cpu()).to(t.device)  # noqa: E731
        monkeypatch.setattr(models.unet.time_proj, "forward", on_cpu)
        job = make_job(moments, models, *ADAPTERS, batch_size=2, dropout=0.1)
        results.append(run(job, models, tmp_path / device))
    for adapter in ADAPTERS:
        assert largest_gap(results[0].tensors(adapter.style), results[1].tensors(adapter.style)) < 1e-9


def test_a_step_never_waits_for_the_device(tiny_sd: Path, tmp_path: Path) -> None:
    models, moments = load(ModelSpec(str(tiny_sd)), "cuda", torch.bfloat16), Moments(tmp_path / "moments")

    def waits(steps: int) -> int:
        job = make_job(moments, models, *ADAPTERS, snapshots=(steps,), log_every=100, dropout=0.1)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run(job, models, tmp_path / str(steps))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in seen)

    waits(2)  # what happens once in a process
    assert waits(12) == waits(4) > 0
