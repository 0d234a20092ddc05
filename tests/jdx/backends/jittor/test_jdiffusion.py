"""JDiffusion's runner in the real worker: on a stand-in of the libraries with their slips, and without them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from jdx import ROOT, validation
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
    StyleIdSpec,
    StyliseJob,
    TrainJob,
)
from jdx.backends.jittor.environment import Place
from jdx.backends.jittor.interpreter import Interpreter, jdiffusion_faults
from jdx.backends.jittor.jdiffusion.backend import JDiffusionBackend
from jdx.backends.torch.backend import TorchBackend
from jdx.errors import BackendError, ConfigError
from jdx.progress import NullProgress
from tests.configs import compose_plain

STAND_IN = Path(__file__).parent / "stand_in"
MINI = ModelSpec(str(ROOT / "data" / "mini" / "weights" / "model"))
QUIET = NullProgress()
PACKAGES = {
    "numpy": "1.26.4",
    "safetensors": "0.5",
    "pillow": "11.0",
    "jittor": "1.3.8.5",
    "JDiffusion": "1.0",
}
MODULES = ("jittor", "jtorch", "JDiffusion", "diffusers", "transformers")
FORK = "jittor.compatibility"
GOOD = Interpreter(Path("/opt/jd/bin/python"), (3, 11, 7), PACKAGES, MODULES, FORK, headers=True, config=None)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JDiffusionBackend]:
    one = made(tmp_path_factory.mktemp("jdiffusion"))
    yield one
    one.close()


def made(folder: Path, **env: str) -> JDiffusionBackend:
    """The backend on an interpreter that says it has JDiffusion, and is the tests' own with the stand-in."""
    python = folder / "python"
    settings = " ".join(f"{name}={value}" for name, value in env.items())
    about = {"packages": PACKAGES, "modules": MODULES, "fork": FORK, "headers": True, "config": None}
    told = json.dumps({"python": [3, 11, 7], "executable": str(python), **about})
    python.write_text(
        "#!/bin/sh\n"
        f"[ \"$1\" = -I ] && echo '{told}' && exit\n"  # the probe
        '[ "$1" = -c ] && exit\n'  # the check after the first compile
        f'{settings} HOME={os.environ["HOME"]} PYTHONPATH="{STAND_IN}:$PYTHONPATH" exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return JDiffusionBackend(Place(python=python, home=folder / "home", device="cpu", threads=1))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("references")
    rng, files = np.random.default_rng(0), []
    for name in ("Cat", "Dog"):
        small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((72, 80), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
        files.append(str(folder / f"{name}.png"))
    return tuple(files)


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory, references: tuple[str, ...]) -> Path:
    out = tmp_path_factory.mktemp("moments")
    job = EncodeJob(MINI, CropSpec(64, variants=2), {"00": references})
    TorchBackend("cpu").encode(job, out, QUIET, lambda style, folder: None)
    return out


def spec(**changes: object) -> AdapterSpec:
    one = AdapterSpec(
        style="00", captions=("a cat in style_00", "a dog in style_00"), seed=3,
        unet=LoraSpec(4, 2.0, ("to_q", "to_k", "to_v", "to_out.0")), text_encoder=LoraSpec(0, 1.0, ()),
        unet_lr=1e-3, text_encoder_lr=0.0, max_grad_norm=1.0,
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]


def job(moments: Path, **changes: object) -> TrainJob:
    one = TrainJob(MINI, (spec(),), {"00": moments / "00"}, (2, 4), batch_size=2, log_every=2)
    return replace(one, **changes)  # type: ignore[arg-type]


def trained(backend: JDiffusionBackend | TorchBackend, order: TrainJob, out: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    losses: list[object] = []
    outcome = backend.train(
        order, out, QUIET, lambda style, step, folder: found.update({step: folder}),
        lambda step, means: losses.append((step, means)),
    )  # fmt: skip
    assert outcome.failed == {}
    assert losses
    return found


def vectors(folder: Path) -> dict[str, np.ndarray]:
    return dict(load_file(folder / "pytorch_lora_weights.safetensors"))


def distance(one: Path, other: Path) -> float:
    """Relative distance of two adapters."""
    a, b = vectors(one), vectors(other)
    assert a.keys() == b.keys()
    top = sum(float(((a[name] - b[name]) ** 2).sum()) for name in a)
    return float((top / sum(float((b[name] ** 2).sum()) for name in b)) ** 0.5)


def test_encoding_is_torchs(
    backend: JDiffusionBackend, moments: Path, references: tuple[str, ...], tmp_path: Path
) -> None:
    styles: list[str] = []
    order = EncodeJob(MINI, CropSpec(64, variants=2), {"00": references})
    backend.encode(order, tmp_path, QUIET, lambda style, folder: styles.append(style))
    got, want = (load_file(folder / "00" / "moments.safetensors") for folder in (tmp_path, moments))
    assert styles == ["00"]
    for name in want:
        assert np.abs(got[name] - want[name]).max() < 1e-4


def test_training_is_torchs_and_goes_on_from_a_snapshot(
    backend: JDiffusionBackend, moments: Path, tmp_path: Path
) -> None:
    """Samples, first factors, loss, clipping and AdamW's count of steps: everything is in these numbers."""
    ours = trained(backend, job(moments), tmp_path / "jd")
    torchs = trained(TorchBackend("cpu"), job(moments), tmp_path / "torch")
    assert distance(ours[2], torchs[2]) < 1e-4
    assert distance(ours[4], torchs[4]) < 1e-4
    later = job(moments, snapshots=(4,), start_step=2, resume={"00": ours[2]})
    again = trained(backend, later, tmp_path / "again")
    assert distance(again[4], ours[4]) < 1e-6
    assert (again[4] / "losses.csv").read_text() == (ours[4] / "losses.csv").read_text()
    with pytest.raises(ConfigError, match="a snapshot of backend=jdiffusion"):
        trained(backend, replace(later, resume={"00": torchs[2]}), tmp_path / "mixed")


def test_pictures_are_torchs_with_an_adapter_of_either(
    backend: JDiffusionBackend, moments: Path, tmp_path: Path
) -> None:
    adapter = trained(TorchBackend("cpu"), job(moments, adapters=(spec(unet_lr=0.05),)), tmp_path / "t")[4]
    pictures = (
        PictureSpec("Cat.png", "a cat in style_00", "blurry", 5),
        PictureSpec("Dog.png", "a dog", "", 6),
    )
    for sampler in ("ddim", "unipc"):
        order = GenerateJob(
            MINI, SamplerSpec(sampler, 3, 2.0), 64, (StyleDrawJob("00", adapter, pictures, lora_scale=0.8),)
        )
        for name, one in (("jd", backend), ("torch", TorchBackend("cpu"))):
            one.generate(order, tmp_path / sampler / name, QUIET, lambda style, folder: None)
        for file in ("Cat.png", "Dog.png"):
            a, b = (
                np.asarray(Image.open(tmp_path / sampler / name / "00" / file), np.float64)
                for name in ("jd", "torch")
            )
            assert a.shape == b.shape
            assert 10 * np.log10(255**2 / max(1e-9, ((a - b) ** 2).mean())) > 40


def test_layers_that_the_library_hides_are_an_error(moments: Path, tmp_path: Path) -> None:
    """`to_out.0` is silently not trained by PEFT with JDiffusion; here that is seen before the first step."""
    one = made(tmp_path, JDIFFUSION_HIDES="to_out.0")
    with pytest.raises(BackendError, match="nothing is trained rather than a part of them"):
        trained(one, job(moments), tmp_path / "out")
    one.close()


def test_a_variant_of_the_weights_is_trained_on(
    backend: JDiffusionBackend, moments: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder holds the variant's files alone, as a download of it does; what is said of a model is said once."""
    model = tmp_path / "model"
    shutil.copytree(MINI.path, model)
    for name in ("unet", "vae", "text_encoder"):
        (file,) = (model / name).glob("*.safetensors")
        file.rename(file.with_suffix(".fp16.safetensors"))
    order = job(moments, model=ModelSpec(str(model), variant="fp16"), snapshots=(1,))
    for out in ("out", "again"):
        assert list(trained(backend, order, tmp_path / out)) == [1]
    assert caplog.text.count("weights of the text_encoder wrongly") == 1


class Listening(NullProgress):
    """Counts how often each task was advanced, and by how much."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Listening]:
        yield self

    def advance(self, n: int = 1, **fields: object) -> None:
        self.told.append(n)


def test_every_step_of_a_drawing_is_a_word(backend: JDiffusionBackend, tmp_path: Path) -> None:
    """Else a worker that draws one picture for half an hour would be taken for one that hangs."""
    pictures = (PictureSpec("Cat.png", "a cat", "", 5),)
    order = GenerateJob(MINI, SamplerSpec("ddim", 4, 2.0), 64, (StyleDrawJob("00", None, pictures),))
    heard = Listening()
    backend.generate(order, tmp_path, heard, lambda style, folder: None)
    assert heard.told[-5:] == [
        0,
        0,
        0,
        0,
        1,
    ]  # before them, where no test has loaded the model: that it loads


@pytest.mark.parametrize("part", ["dora", "vae_enhancer.safetensors", "learned_embeds.safetensors"])
def test_parts_of_an_adapter_that_it_does_not_draw_are_refused(
    backend: JDiffusionBackend, moments: Path, tmp_path: Path, part: str
) -> None:
    unet = replace(spec().unet, dora=part == "dora")
    adapter = trained(
        TorchBackend("cpu"), job(moments, adapters=(spec(unet=unet),), snapshots=(1,)), tmp_path
    )[1]
    if part != "dora":
        (adapter / part).touch()
    picture = PictureSpec("Cat.png", "a cat", "", 5)
    order = GenerateJob(MINI, SamplerSpec("ddim", 1, 2.0), 64, (StyleDrawJob("00", adapter, (picture,)),))
    with pytest.raises(ConfigError, match=rf"(?s){part}.*drawn by backend=jittor or torch") as caught:
        backend.generate(order, tmp_path / "out", QUIET, lambda style, folder: None)
    assert len(caught.value.faults) == 1
    assert not list((tmp_path / "out").rglob("*.png"))


def test_what_the_runner_does_not_do(backend: JDiffusionBackend, moments: Path, tmp_path: Path) -> None:
    adapter = spec(text_encoder=LoraSpec(2, 2.0, ("q_proj",)), text_encoder_lr=1e-3, ema_decay=0.9)
    with pytest.raises(ConfigError, match="2 faults in the training job"):
        trained(backend, job(moments, adapters=(adapter,)), tmp_path)
    order = GenerateJob(MINI, SamplerSpec("euler", 3, 2.0), 64, ())
    with pytest.raises(ConfigError, match="backend=jdiffusion has ddim and unipc"):
        backend.generate(order, tmp_path, QUIET, lambda style, folder: None)
    lost = spec(unet=LoraSpec(2, 2.0, ("to_q", "nowhere")))
    with pytest.raises(ConfigError, match="nowhere"):
        trained(backend, job(moments, adapters=(lost,)), tmp_path)
    with pytest.raises(ConfigError, match="StyleID is done by"):
        backend.stylise(
            StyliseJob(MINI, StyleIdSpec(("7",), 0.5, 1.5, 5), 64, ()),
            tmp_path,
            QUIET,
            lambda style, folder: None,
        )


def test_a_trial_is_told_all_of_it_before_it_starts() -> None:
    asked = ("backend=jdiffusion", "method=styleid_db", "lora.text_encoder.rank=4", "sampler=euler")
    with pytest.raises(ConfigError) as caught:
        validation.build(compose_plain(*asked))
    keys = {fault.key for fault in caught.value.faults}
    assert {"method.styleid.enabled", "lora.text_encoder.rank", "sampler.name"} <= keys
    validation.build(compose_plain("backend=jdiffusion", "backend.python=/opt/jd/bin/python"))


def test_results_depend_on_what_its_user_has_installed(backend: JDiffusionBackend) -> None:
    versions = {"jittor": "1.3.8.5", "jdiffusion": "1.0"}
    assert backend.identity() == {"backend": "jdiffusion", "dtype": "float32", **versions}
    assert backend.describe()["jittor"] == "1.3.8.5"


def test_without_an_interpreter_its_place_is_asked_for() -> None:
    (fault,) = JDiffusionBackend(Place()).setup_faults()
    assert "needs the path of a Python with JDiffusion" in fault.allowed


def test_the_tests_own_interpreter_is_told_what_it_lacks_and_has_too_much() -> None:
    """For real: PyTorch and NumPy 2 are there, Jittor and JDiffusion are not."""
    faults = JDiffusionBackend(Place(python=Path(sys.executable), device="cpu")).setup_faults()
    told = "\n".join(fault.allowed for fault in faults)
    assert "lacks jittor, jtorch, JDiffusion" in told
    assert "has PyTorch" in told
    assert "has numpy 2" in told


def test_pypis_jittor_is_not_enough() -> None:
    assert jdiffusion_faults(GOOD) == []
    (fault,) = jdiffusion_faults(replace(GOOD, fork=None))
    assert "only JDiffusion's fork has" in fault.allowed
