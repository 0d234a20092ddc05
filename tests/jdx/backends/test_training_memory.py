"""Training: smaller packs where memory runs out, with the same result; what a sample is said to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jdx.backends.torch import packs, preparation, styleid
from jdx.backends.torch.models import Models
from jdx.backends.torch.preparation import measure
from jdx.backends.torch.styleid_memory import FeatureMemory, Place
from jdx.errors import BackendError
from tests.jdx.backends.train_jobs import THREE, Moments, Result, largest_gap, make_job, run

pytestmark = pytest.mark.usefixtures("networks_are_put_back")


@pytest.mark.parametrize("limit", [5, 1])
def test_out_of_memory_halves_the_pack_and_changes_nothing(
    limit: int,
    together: Result,
    models: Models,
    moments: Moments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forward, calls = models.unet.forward, []

    def small(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(x))
        if len(x) > limit and len(calls) > 3:  # full at first, then another program takes memory
            raise torch.cuda.OutOfMemoryError("simulated")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(models.unet, "forward", small)
    kept = FeatureMemory((Place(torch.device("cpu"), lambda used: 1000),))
    with kept.using([("of an earlier trial",)]):
        kept.allocate(("of an earlier trial",), {}, torch.int8).latent = torch.zeros(1)
    monkeypatch.setitem(styleid._memories, models, kept)
    result = run(make_job(moments, models, *THREE, batch_size=2, snapshots=(2, 4)), models, tmp_path)
    assert "out of GPU memory on styles 00, 05, 11" in caplog.text
    assert max(calls[4:]) <= 6
    assert kept.get(("of an earlier trial",)) is None  # StyleID's memory was given up first
    assert len(result.folders) == 6  # the snapshots before the accident are not handed over again
    for adapter in THREE:
        assert largest_gap(result.tensors(adapter.style), together.tensors(adapter.style)) < 1e-10
        rows = (result.folders[adapter.style, 4] / "losses.csv").read_text().splitlines()
        assert [row.split(",")[0] for row in rows] == ["step", "2", "4"]


def test_losses_of_steps_that_are_repeated_are_told_once(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = models.unet.forward, []

    def small(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(x))
        if len(x) > 4 and len(calls) > 3:  # after two steps of all styles
            raise torch.cuda.OutOfMemoryError("simulated")
        return forward(x, *args, **kwargs)

    monkeypatch.setattr(models.unet, "forward", small)
    result = run(make_job(moments, models, *THREE, batch_size=2, log_every=1), models, tmp_path)
    assert calls[:5] == [1, 6, 6, 6, 2]  # the probe, two steps, the accident, a part from the beginning
    for style in ("00", "05", "11"):
        assert [step for step, _ in result.losses[style]] == [1, 2, 3, 4]


def test_not_even_one_sample_fitting_is_an_error_that_says_so(
    models: Models, moments: Moments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("simulated")

    monkeypatch.setattr(models.unet, "forward", full)
    with pytest.raises(BackendError, match="one training sample does not fit into the GPU's memory"):
        run(make_job(moments, models, THREE[0]), models, tmp_path)
    with pytest.raises(BackendError, match="style 00: one training sample does not fit"):
        packs.Pack(THREE[:1], 1).smaller([])


def test_memory_counts_what_masks_take_while_they_are_made(
    models: Models, moments: Moments, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].numel()))
        for path, module in models.unet.named_modules()
        if path.endswith(("to_q", "to_v"))
    ]
    job = make_job(moments, models, THREE[2], dropout=0.3)
    whole = measure(job, models, [THREE[2]]).sample
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr(preparation, "BYTES_AN_ENTRY", 0)
    assert whole - measure(job, models, [THREE[2]]).sample == 12 * max(seen)
