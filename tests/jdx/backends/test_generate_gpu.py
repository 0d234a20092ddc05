"""Drawing on a GPU: the pictures of the CPU, restored weights, batches that shrink to the memory there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jdx.backends.base import GenerateJob, ModelSpec, PictureSpec, SamplerSpec, StyleDrawJob
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.backend import TorchBackend
from jdx.backends.torch.devices import in_batches
from jdx.backends.torch.models import load
from jdx.backends.torch.sampling import SAMPLERS
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import random_adapter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", SAMPLERS)
def test_equals_the_cpu(tiny_sd: Path, tmp_path: Path, name: str) -> None:
    spec, drawn = ModelSpec(str(tiny_sd)), []
    adapter = random_adapter(load(spec, "cpu", torch.float64))
    save_adapter(tmp_path / "adapter", adapter.unet, adapter.text_encoder, {})
    pictures = tuple(PictureSpec(f"{i}.png", f"cat {i}", "", i) for i in range(3))
    style = StyleDrawJob("00", tmp_path / "adapter", pictures)
    job = GenerateJob(spec, SamplerSpec(name, 3, 7.5), 64, (style,))  # type: ignore[arg-type]
    for device in ("cpu", "cuda"):
        backend = TorchBackend(device, "float64")
        before = {key: value.clone() for key, value in backend.models(spec).unet.state_dict().items()}
        backend.generate(job, tmp_path / device, NullProgress(), lambda style, folder: None)
        assert all(torch.equal(v, before[k]) for k, v in backend.models(spec).unet.state_dict().items())
        files = [tmp_path / device / "00" / picture.file for picture in pictures]
        drawn.append(np.stack([np.asarray(Image.open(file), dtype=int) for file in files]))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_memory_that_runs_out_halves_the_batch() -> None:
    """A real allocation that does not fit, not a raised stand-in; afterwards the memory is free again."""
    free, _ = torch.cuda.mem_get_info()
    sizes: list[int] = []

    def work(batch: object) -> int:
        count = len(batch)  # type: ignore[arg-type]
        torch.empty(count * (free // 3), dtype=torch.uint8, device="cuda")
        sizes.append(count)
        return count

    assert sum(in_batches(range(8), 8, work, "filling")) == 8
    assert sizes == [2, 2, 2, 2]
