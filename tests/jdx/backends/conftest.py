"""What tests of backends share: the tiny Stable Diffusion in memory, and latents to learn from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jdx.backends.base import ModelSpec
from jdx.backends.torch.models import Models, load
from tests.jdx.backends.train_jobs import Moments


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
