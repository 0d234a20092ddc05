"""Encoding on a GPU at the widths of Stable Diffusion's VAE: the same bits in any company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.sd21 import model
from jdx.backends.base import CropSpec, EncodeJob, ModelSpec
from jdx.backends.torch import fusing
from jdx.backends.torch.memory import GIB
from jdx.backends.torch.models import load
from tests.jdx.backends.test_encode import encoded, pictures

__all__ = ["pictures"]  # a fixture
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("fused", [False, True])
def test_the_bits_do_not_know_their_company(
    fused: bool, tiny_sd: Path, pictures: tuple[str, ...], tmp_path: Path
) -> None:
    """A style in the rows 12 to 14 of a full pass, and alone in the first ones of a filled pass."""
    device = torch.device("cuda", 0)
    if torch.cuda.mem_get_info(device)[0] < 20 * GIB:
        pytest.skip("needs 20 GiB of free memory on the card")
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        vae = model.vae()
    vae = vae.requires_grad_(False).eval()
    if fused:
        fusing.fuse(vae)
    models = replace(load(ModelSpec(str(tiny_sd)), device, torch.bfloat16), vae=vae)
    crop = CropSpec(resolution=256, scale=1.25, random=True, variants=1, seed=3)
    jobs = [
        EncodeJob(models.spec, crop, dict.fromkeys(names, pictures))
        for names in (("00", "01", "02", "03", "04", "05"), ("04",))
    ]
    many, alone = (encoded(models, job, tmp_path / str(len(job.pictures)))["04"] for job in jobs)
    for name in ("mean", "std"):
        assert torch.equal(many[name], alone[name])
