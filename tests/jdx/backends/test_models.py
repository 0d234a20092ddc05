from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from jdx.backends.base import ModelSpec
from jdx.backends.torch import hub, models
from jdx.backends.torch.devices import in_batches, pick_device, pick_dtype, pictures_that_fit
from jdx.backends.torch.models import Models, load
from jdx.errors import BackendError


@pytest.fixture(scope="module")
def tiny(tiny_sd: Path) -> Models:
    return load(ModelSpec(str(tiny_sd)), "cpu", torch.float32)


@pytest.fixture
def copy(tiny_sd: Path, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return shutil.copytree(tiny_sd, tmp_path / "model")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_everything_is_read_from_the_configs(tiny: Models, tiny_sd: Path, tiny_sd_eps: Path) -> None:
    assert tiny.prediction_type == "v_prediction"
    assert load(ModelSpec(str(tiny_sd_eps)), "cpu", torch.float32).prediction_type == "epsilon"
    assert (tiny.vae_factor, tiny.latent_channels, tiny.vae_scaling, tiny.vae_shift) == (8, 4, 0.18215, 0.0)
    assert tiny.max_tokens == 77
    reference = DDPMScheduler.from_pretrained(tiny_sd, subfolder="scheduler").alphas_cumprod
    assert tiny.alphas_cumprod.dtype is torch.float64
    assert torch.equal(tiny.alphas_cumprod.float(), reference)


def test_levels_are_those_of_sd21(tiny: Models) -> None:
    """Origin: ᾱ of SD 2.1's scaled-linear schedule, as published."""
    levels = tiny.alphas_cumprod[[0, 1, 981, 999]].tolist()
    assert levels == pytest.approx([0.99915, 0.998296, 0.0057755, 0.0046601], rel=1e-4)


def test_all_is_frozen_and_in_its_precision(tiny_sd: Path) -> None:
    half = load(ModelSpec(str(tiny_sd)), "cpu", torch.bfloat16)
    networks = (half.unet, half.vae, half.text_encoder)
    assert [network.dtype for network in networks] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert not any(network.training for network in networks)
    assert not any(weight.requires_grad for network in networks for weight in network.parameters())


def test_loaded_once_until_the_files_change(copy: Path) -> None:
    spec = ModelSpec(str(copy))
    first = load(spec, "cpu", torch.float32)
    assert load(spec, "cpu", torch.float32) is first
    assert load(spec, "cpu", torch.float64) is not first
    edit(copy / "scheduler/scheduler_config.json", lambda c: c.update(prediction_type="epsilon"))
    assert load(spec, "cpu", torch.float32).prediction_type == "epsilon"
    assert len(models._loaded) <= models.KEPT


def test_text_embeddings_equal_diffusers(tiny: Models, tiny_sd: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd)
    prompts = ["an image of Ice cream in style_00", "", "東京 ☃", "a " * 200]
    theirs, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    assert torch.equal(tiny.embed(prompts), theirs)


def test_a_cut_prompt_is_said(tiny: Models, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tiny.tokenise(["short"])
        assert not caplog.records
        tiny.tokenise(["x" * 74 + "yzzz"])
    assert "longer than 77 tokens" in caplog.text
    assert "'zzz'" in caplog.text


def test_moments_and_decoding_equal_diffusers(tiny: Models, tiny_sd: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_sd, subfolder="vae")
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
        mean, std = tiny.moments(pixels)
        decoded = vae.decode(mean / 0.18215).sample
    # Not bit for bit: CPU kernels round by the alignment of the weights.
    assert (mean - posterior.mean).abs().max() < 1e-4
    assert (std - posterior.std).abs().max() < 1e-4
    assert (tiny.decode(mean) - decoded).abs().max() < 1e-4


def test_bfloat16_decoding_falls_back_to_float32(
    tiny_sd: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half = load(ModelSpec(str(tiny_sd)), "cpu", torch.bfloat16)
    latents = torch.randn(1, 4, 8, 8)
    exact = half.vae.decode(latents / half.vae_scaling).sample
    assert 1e-5 < (half.decode(latents) - exact).abs().max() < 0.1  # bfloat16 is used, and is near
    whole = type(half.vae).decode

    def overflowing(self: Any, z: torch.Tensor) -> Any:
        decoded = whole(self, z)
        if torch.is_autocast_enabled("cpu"):
            decoded.sample[:] = torch.inf
        return decoded

    monkeypatch.setattr(type(half.vae), "decode", overflowing)
    assert torch.equal(half.decode(latents), exact)
    assert "in float32" in caplog.text


def test_half_precision_files_are_read_as_a_variant(copy: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(copy, torch_dtype=torch.float16)
    shutil.rmtree(copy)
    pipeline.save_pretrained(copy, variant="fp16")
    assert "model.variant" in hub.spec_faults(ModelSpec(str(copy)))[0]
    half = ModelSpec(str(copy), variant="fp16")
    assert hub.spec_faults(half) == []
    loaded = load(half, "cpu", torch.float32)
    weight = pipeline.unet.state_dict()["conv_in.weight"]
    assert torch.equal(loaded.unet.state_dict()["conv_in.weight"], weight.float())


def test_all_missing_parts_in_one_report(copy: Path) -> None:
    assert hub.spec_faults(ModelSpec(str(copy))) == []
    (copy / "unet/diffusion_pytorch_model.safetensors").rename(copy / "unet/diffusion_pytorch_model.bin")
    (copy / "vae/config.json").unlink()
    (copy / "tokenizer/tokenizer.json").unlink()
    (copy / "tokenizer/merges.txt").unlink()
    edit(copy / "scheduler/scheduler_config.json", lambda c: c.update(prediction_type="flow"))
    faults = hub.spec_faults(ModelSpec(str(copy)))
    for part in ("diffusion_pytorch_model.bin", "config.json is missing", "merges.txt", "'flow'; allowed"):
        assert sum(part in fault for fault in faults) == 1
    assert len(faults) == 4
    with pytest.raises(BackendError) as caught:
        load(ModelSpec(str(copy)), "cpu", torch.float32)
    assert all(fault in str(caught.value) for fault in faults)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "only Stable Diffusion 1.x and 2.x",
        ),
        ("model_index.json", {"transformer": ["diffusers", "SD3Transformer2DModel"]}, "with transformer"),
        (
            "model_index.json",
            {"unet": ["diffusers", "UNet3DConditionModel"]},
            "allowed: UNet2DConditionModel",
        ),
        ("unet/config.json", {"in_channels": 9}, "inpainting"),
        ("unet/config.json", {"cross_attention_dim": 2048}, "text of width 2048"),
    ],
)
def test_other_kinds_of_model_are_refused(copy: Path, file: str, change: dict[str, Any], said: str) -> None:
    edit(copy / file, lambda content: content.update(change))
    assert said in " ".join(hub.spec_faults(ModelSpec(str(copy))))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "is not a folder" in hub.spec_faults(ModelSpec(str(tmp_path / "nothing")))[0]
    assert "model_index.json is missing" in hub.spec_faults(ModelSpec(str(tmp_path)))[0]


@pytest.mark.parametrize("path", ["a b/c", "-a/b", "a--b/c", "a/b..", "a\\b/c", "é/a", f"a/{'b' * 97}"])
def test_what_the_hub_client_refuses_is_no_hub_id(path: str) -> None:
    with pytest.raises(HFValidationError):
        try_to_load_from_cache(path, "model_index.json")
    (fault,) = hub.spec_faults(ModelSpec(path))
    assert "is not a folder; give model.path" in fault
    assert hub.looks_like_hub_id("Stable_Org/some-model_2.1")


def test_a_hub_id_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = ModelSpec("stabilityai/stable-diffusion-2-1", revision="no-such-revision")
    (fault,) = hub.spec_faults(spec)
    for part in (spec.path, "no-such-revision", "not a folder", "hub cache", "HF_HUB_OFFLINE", "mirrors"):
        assert part in fault
    (fault,) = hub.spec_faults(ModelSpec(hub.MIRROR, revision="no-such-revision"))
    assert "cannot be had" in fault
    assert "mirrors" not in fault  # it was asked for at one
    with pytest.raises(BackendError, match="HF_HUB_OFFLINE"):
        load(spec, "cpu", torch.float32)


def test_an_unreachable_hub_is_one_short_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(
        "huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9"
    )  # the discard port: refused
    (fault,) = hub.spec_faults(ModelSpec("someone/some-model"))
    assert "does not answer" in fault


def test_a_complete_hub_cache_needs_no_network(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache's layout is huggingface_hub's own: models--OWNER--NAME/snapshots/COMMIT with refs/main."""
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(tiny_sd, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    spec = ModelSpec("someone/tiny")
    assert hub.spec_faults(spec) == []
    assert load(spec, "cpu", torch.float32).folder == repository / "snapshots" / ("a" * 40)


@pytest.fixture
def hub_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Path], Path]:
    """A stand-in for the hub: one repository, and huggingface_hub's own filter of what is downloaded."""

    def serve(repository: Path) -> Path:
        names = [path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()]

        def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
            for name in filter_repo_objects(names, allow_patterns=allow_patterns):
                (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(repository / name, tmp_path / "got" / name)
            return str(tmp_path / "got")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("httpx.head", lambda *_, **__: None)
        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: names)
        monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, name, **__: str(repository / name))
        return tmp_path / "got"

    return serve


def test_only_what_is_needed_is_downloaded(copy: Path, hub_with: Callable[[Path], Path]) -> None:
    for name in (
        "v2-1_768.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "safety_checker/model.safetensors",
    ):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).touch()
    got = hub_with(copy)
    spec = ModelSpec("someone/tiny")
    assert hub.spec_faults(spec) == []
    assert not got.exists()  # looking costs no download
    assert load(spec, "cpu", torch.float32).folder == got
    names = {path.relative_to(got).as_posix() for path in got.rglob("*") if path.is_file()}
    assert names == {
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json", "vae/config.json",
        "text_encoder/config.json", "text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip


def test_a_repository_without_usable_weights(copy: Path, hub_with: Callable[[Path], Path]) -> None:
    (copy / "unet/diffusion_pytorch_model.safetensors").rename(copy / "unet/diffusion_pytorch_model.bin")
    hub_with(copy)
    (fault,) = hub.spec_faults(ModelSpec("someone/tiny"))
    assert fault.endswith("someone/tiny has no unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(BackendError, match=r"diffusion_pytorch_model\.safetensors is missing"):
        load(ModelSpec("someone/tiny"), "cpu", torch.float32)


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert pick_device("cpu") == cpu
    with pytest.raises(BackendError, match="there are: auto, cpu"):
        pick_device("cuda:77")
    with pytest.raises(BackendError, match="allowed: auto, cpu"):
        pick_device("tpu")
    assert pick_dtype("auto", cpu) is torch.float32
    with pytest.raises(BackendError, match="black pictures"):
        pick_dtype("float16", cpu)  # type: ignore[arg-type]


def test_cpu_batches_shrink_with_resolution() -> None:
    sizes = [
        pictures_that_fit(torch.device("cpu"), resolution, 0.5) for resolution in (64, 128, 256, 512, 768)
    ]
    assert sizes == [8, 8, 2, 1, 1]


def test_out_of_memory_halves_the_batch_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sizes = []

    def work(batch: Any) -> list[int]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.cuda.OutOfMemoryError
        return [2 * item for item in batch]

    results = in_batches(range(7), 5, work, "doubling")
    assert [item for result in results for item in result] == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [5, 2, 2, 2, 1]
    assert "batches of 2" in caplog.text


def test_one_picture_that_does_not_fit_is_an_error() -> None:
    def work(batch: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(BackendError, match="one picture does not fit"):
        in_batches([1, 2, 3], 2, work, "drawing")
