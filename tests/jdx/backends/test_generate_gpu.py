"""Drawing on a GPU: the pictures of the CPU, restored weights, batches that shrink to the memory there is."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jdx.backends.base import Dtype, GenerateJob, ModelSpec, PictureSpec, SamplerSpec, StyleDrawJob
from jdx.backends.torch.adapters import save_adapter
from jdx.backends.torch.backend import TorchBackend
from jdx.backends.torch.devices import in_batches, limit_memory
from jdx.backends.torch.inference import Denoiser
from jdx.backends.torch.memory import GIB
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.recorded_pass import FIRST, RecordedPasses
from jdx.backends.torch.sampling import SAMPLERS, from_noise, sample, start_run
from jdx.progress import NullProgress
from tests.jdx.backends.adapters_for import random_adapter
from tests.jdx.backends.recordings import count_recordings

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


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_never_waits_for_the_device(tiny_sd: Path, name: str) -> None:
    models = load(ModelSpec(str(tiny_sd)), "cuda", torch.bfloat16)
    text = models.embed(["a", "b", "c"])
    for mode in ("default", "error"):  # the first round loads kernels
        run = start_run(SamplerSpec(name, 4, 7.5), models.scheduler_config)  # type: ignore[arg-type]
        latents = from_noise(models, run, [1, 2, 3], 64)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            sample(Denoiser(models), run, latents, text, text, 7.5)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _note(finished: list[str], style: str, folder: Path) -> None:
    finished.append(style)


def test_styles_of_equal_weights_share_batches(tiny_sd: Path, tmp_path: Path) -> None:
    """Class pictures, for example: each folder gets its own, within what a batch's size rounds."""
    spec = ModelSpec(str(tiny_sd))
    styles = tuple(
        StyleDrawJob(f"{word}", None, tuple(PictureSpec(f"{i}.png", f"{word} {i}", "", i) for i in range(3)))
        for word in ("cat", "boat", "owl")
    )
    drawn = []
    for batch, device in ((0, "cuda"), (0, "cpu")):
        backend = TorchBackend(device, "float64")
        finished: list[str] = []
        job = GenerateJob(spec, SamplerSpec("unipc", 3, 7.5), 64, styles, batch)
        out = tmp_path / device
        backend.generate(job, out, NullProgress(), partial(_note, finished))
        assert finished == ["cat", "boat", "owl"]
        files = sorted(out.rglob("*.png"))
        assert len(files) == 9
        drawn.append(np.stack([np.asarray(Image.open(file), dtype=int) for file in files]))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1


def test_recorded_passes_draw_the_same(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two adapters by one graph, and a last batch of another size; float64, so that any slip would show."""
    recorded = count_recordings(monkeypatch)
    spec, backend, drawn = ModelSpec(str(tiny_sd)), TorchBackend("cuda", "float64"), []
    pictures, styles = tuple(PictureSpec(f"{i}.png", f"cat {i}", "", i) for i in range(5)), []
    for name in ("00", "01"):
        adapter = random_adapter(backend.models(spec))
        save_adapter(tmp_path / name, adapter.unet, adapter.text_encoder, {})
        styles.append(StyleDrawJob(name, tmp_path / name, pictures))
    for graphs in (False, True):
        job = GenerateJob(spec, SamplerSpec("unipc", 6, 7.5), 64, tuple(styles), 3, graphs=graphs)
        out = tmp_path / str(graphs)
        backend.generate(job, out, NullProgress(), lambda style, folder: None)
        files = [out / style.style / picture.file for style in styles for picture in pictures]
        drawn.append(np.stack([np.asarray(Image.open(file), dtype=int) for file in files]))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert len(recorded) == 2
    assert "could not be recorded" not in caplog.text


def test_a_graph_outlives_another() -> None:
    """Of products that need cuBLAS's workspace: some releases of PyTorch free it with any graph of its stream."""
    device = torch.device("cuda", 0)
    passes = RecordedPasses(device, able=True)

    def products(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [x.T @ x for x in inputs]

    some = [torch.randn(rows, 640, device=device).bfloat16() for rows in (32768, 32896, 33024)]
    want = [products([x])[0] for x in some]
    for x in some:  # the third makes the first leave
        for _ in range(FIRST + 1):
            passes(products, [x])
    torch.cuda.empty_cache()
    taken = torch.full((2**27,), float("nan"), device=device)
    for x, right in zip(some[1:], want[1:], strict=True):
        gap = (passes(products, [x])[0] - right).abs().max() / right.abs().max()
        assert gap < 0.02  # and no NaN
    del taken
    passes.forget()


UNRECORDABLE = """
import torch
from jdx.backends.torch.recorded_pass import FIRST, RecordedPasses

device = torch.device("cuda", 0)
x, usual = torch.ones(64, 64, device=device), torch.cuda.current_stream(device)
for work in (lambda inputs: [inputs[0] * inputs[0].sum().item()], lambda inputs: [inputs[0] @ inputs[0]]):
    passes = RecordedPasses(device, able=True)
    for _ in range(FIRST + 3):
        (found,) = passes(work, [x])
        assert torch.equal(found, work([x])[0])
        assert torch.cuda.current_stream(device) == usual
    torch.cuda.empty_cache()
    print(passes.able)
    passes.forget()
"""


def test_what_cannot_be_recorded_costs_nothing_else() -> None:
    """A pass that waits for the device spoils its recording. In a process of its own, for the others' sake."""
    done = subprocess.run([sys.executable, "-c", UNRECORDABLE], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_pictures_are_the_same(
    tiny_sd: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # other kernels round it otherwise
    models = load(ModelSpec(str(tiny_sd)), "cuda", dtype)
    x = torch.randn(4, 4, 8, 8, device="cuda")
    t, text = torch.tensor(500, device="cuda"), models.embed(["a", "b", "c", "d"])
    plain, compiled = Denoiser(models), Denoiser(models, "full", 4)
    with torch.no_grad():
        want = plain(x, t, text).float()
        assert (compiled(x, t, text).float() - want).norm() / want.norm() < (
            1e-4 if dtype is torch.float32 else 0.03
        )
        assert torch.equal(compiled(x[:3], t, text[:3]), compiled(x, t, text)[:3])  # the filling is nobody's
    assert compiled.mode == "full"


def test_memory_that_runs_out_halves_the_batch() -> None:
    """A real allocation that does not fit, not a raised stand-in; afterwards the memory is free again.

    Within a limit of this process's own, so that what others take of the card changes nothing.
    """
    device, sizes = torch.device("cuda", 0), list[int]()
    gc.collect()
    torch.cuda.empty_cache()
    third = GIB // 3

    def work(batch: object) -> int:
        count = len(batch)  # type: ignore[arg-type]
        torch.empty(count * third, dtype=torch.uint8, device=device)
        sizes.append(count)
        return count

    limit_memory(device, torch.cuda.memory_reserved(device) / GIB + 1)
    try:
        assert sum(in_batches(range(8), 8, work, "filling")) == 8
    finally:
        limit_memory(device, 0.0)
    assert sizes == [2, 2, 2, 2]


def test_a_graphs_memory_is_everybodys_after_it() -> None:
    """Within a limit that allows for a recorded pass or for somebody else, not for both."""
    device, size = torch.device("cuda", 0), 6 * GIB // 10
    passes, x = RecordedPasses(device, able=True), torch.ones(4, device=device)

    def wide(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [inputs[0].expand(size // 16, 4).contiguous().amax(0)]

    gc.collect()
    torch.cuda.empty_cache()
    limit_memory(device, torch.cuda.memory_reserved(device) / GIB + 1)
    try:
        for _ in range(FIRST + 2):
            assert passes(wide, [x])[0].tolist() == [1.0] * 4
        assert passes.able
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(size, dtype=torch.uint8, device=device)
        passes.forget()
        torch.empty(size, dtype=torch.uint8, device=device)
    finally:
        limit_memory(device, 0.0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_card_that_is_not_the_first(
    dtype: Dtype, tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is waited for is that card, which decodes slowly here; kernels and graphs are that card's too."""
    spec, fast = ModelSpec(str(tiny_sd)), Models.decode_fast

    def slowly(models: Models, z: torch.Tensor) -> torch.Tensor:
        with torch.cuda.device(z.device):
            torch.cuda._sleep(500_000_000)  # type: ignore[no-untyped-call]  # clocks, about a quarter of a second
        return fast(models, z)

    monkeypatch.setattr(Models, "decode_fast", slowly)
    pictures = tuple(PictureSpec(f"{i}.png", f"cat {i}", "", i) for i in range(4))
    job = GenerateJob(
        spec, SamplerSpec("ddim", 4, 7.5), 64, (StyleDrawJob("00", None, pictures),), 2, graphs=True
    )
    drawn = []
    for device in ("cuda:0", "cuda:1"):
        backend = TorchBackend(device, dtype)
        backend.generate(job, tmp_path / device, NullProgress(), lambda style, folder: None)
        files = sorted((tmp_path / device).rglob("*.png"))
        drawn.append(np.stack([np.asarray(Image.open(file), dtype=int) for file in files]))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
