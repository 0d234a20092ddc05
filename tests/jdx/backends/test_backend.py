from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from jdx.backends import make_backend
from jdx.backends.base import (
    AdapterSpec,
    CropSpec,
    EncodeJob,
    GenerateJob,
    LoraSpec,
    ModelSpec,
    PictureSpec,
    SamplerSpec,
    StyleDrawJob,
    TrainJob,
)
from jdx.backends.torch.backend import TorchBackend
from jdx.errors import BackendError, ConfigError
from jdx.progress import NullProgress


def test_backends_are_named_without_importing_a_framework() -> None:
    code = "import sys, jdx.backends; assert not {'torch', 'diffusers', 'jittor'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_backend() -> None:
    with pytest.raises(ConfigError, match=r"one of: jdiffusion, jittor, torch; did you mean torch\?"):
        make_backend("torhc")


def test_it_describes_itself() -> None:
    backend = make_backend("torch", device="cpu", dtype="auto", threads=torch.get_num_threads())
    record = backend.describe()
    assert (record["backend"], record["dtype"]) == ("torch", "float32")
    assert record["torch"] == torch.__version__.split("+")[0] or record["torch"] == torch.__version__
    assert {"device", "diffusers", "transformers", "safetensors"} <= record.keys()


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="cuda:99 is not on this machine"):
        make_backend("torch", device="cuda:99")


def test_check_sees_a_model_without_loading_it(tiny_sd: Path, tmp_path: Path) -> None:
    backend = TorchBackend("cpu")
    assert backend.check(ModelSpec(str(tiny_sd))) == []
    assert len(backend.check(ModelSpec(str(tmp_path)))) == 1


def test_encode_train_draw(tiny_sd: Path, tmp_path: Path) -> None:
    """The three jobs fit together: pictures in, an adapter between, pictures out that the adapter changed."""
    backend, model = TorchBackend("cpu", "float32"), ModelSpec(str(tiny_sd))
    Image.effect_noise((80, 80), 90).convert("RGB").save(tmp_path / "cat.png")
    moments: dict[str, Path] = {}
    crop = CropSpec(64, variants=2)
    job = EncodeJob(model, crop, {"00": (str(tmp_path / "cat.png"),)})
    backend.encode(job, tmp_path / "moments", NullProgress(), moments.__setitem__)
    adapter = AdapterSpec(
        style="00", captions=("an image of cat in style_00",), seed=1,
        unet=LoraSpec(2, 4.0, ("to_q", "to_v")), text_encoder=LoraSpec(2, 1.0, ("q_proj",)),
        unet_lr=1e-1, text_encoder_lr=1e-2,
    )  # fmt: skip
    snapshots: dict[tuple[str, int], Path] = {}
    outcome = backend.train(
        TrainJob(model, (adapter,), moments, snapshots=(2,)), tmp_path / "adapters", NullProgress(),
        lambda style, step, folder: snapshots.__setitem__((style, step), folder), lambda step, losses: None,
    )  # fmt: skip
    assert not outcome.failed
    picture = PictureSpec("cat.png", "an image of cat in style_00", "", 5)
    drawn: dict[str, Path] = {}
    styles = tuple(StyleDrawJob(n, a, (picture,)) for n, a in (("base", None), ("00", snapshots["00", 2])))
    backend.generate(
        GenerateJob(model, SamplerSpec("unipc", 2, 7.5), 64, styles), tmp_path / "drawn", NullProgress(),
        drawn.__setitem__,
    )  # fmt: skip
    assert (drawn["base"] / "cat.png").read_bytes() != (drawn["00"] / "cat.png").read_bytes()
