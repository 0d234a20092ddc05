"""What tests of backends share: the tiny Stable Diffusion in memory, and latents to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jdx.backends.base import ModelSpec
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.stacked import StackedLinear
from tests.jdx.backends.train_jobs import THREE, Moments, Result, make_job, run


@pytest.fixture(scope="module")
def models(tiny_sd: Path) -> Models:
    """In float64, so that a wrong scale cannot hide in rounding."""
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float64)


@pytest.fixture(scope="module")
def models_eps(tiny_sd_eps: Path) -> Models:
    """The same network, which predicts the noise."""
    return load(ModelSpec(str(tiny_sd_eps)), "cpu", torch.float64)


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> Moments:
    return Moments(tmp_path_factory.mktemp("moments"))


@pytest.fixture
def networks_are_put_back(models: Models) -> Iterator[None]:
    """A training leaves neither layers nor gradients behind."""
    yield
    for network in (models.unet, models.text_encoder):
        assert not any(isinstance(module, StackedLinear) for module in network.modules())
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


@pytest.fixture(scope="module")
def together(models: Models, moments: Moments, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three adapters of mixed rank, alpha, targets, rate, decay and clipping in one stack."""
    return run(make_job(moments, models, *THREE, batch_size=2), models, tmp_path_factory.mktemp("together"))
