"""A frozen Stable Diffusion in memory: loaded from diffusers layout, cached per process."""

from __future__ import annotations

import copy
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jdx.backends.base import ModelSpec
from jdx.backends.layout import COMPONENTS, stamp, weight_file
from jdx.backends.torch import fusing
from jdx.backends.torch.cuts import say_cuts
from jdx.backends.torch.hub import locate
from jdx.errors import BackendError

log = logging.getLogger(__name__)

KEPT = 2
"""Models that stay loaded in a process; the one used longest ago leaves first."""
_loaded: OrderedDict[tuple[object, ...], Models] = OrderedDict()


@dataclass(eq=False)
class Models:
    """The parts of one Stable Diffusion, frozen and in evaluation mode.

    unet and text_encoder are in `dtype`; vae is in float32 (float64 when `dtype` is), for it is small, its
    moments are kept for ever and bfloat16 costs it visible levels; decoding may autocast. alphas_cumprod:
    (T,) float64 on the CPU, diffusers' own values. vae_factor: pixels per latent. fused: whether unet and vae run with
    fused kernels (see `fusing`). Whoever changes a weight puts it back.
    """

    spec: ModelSpec
    folder: Path
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    prediction_type: str
    alphas_cumprod: Tensor
    vae_scaling: float
    vae_shift: float
    vae_factor: int
    latent_channels: int
    device: torch.device
    dtype: torch.dtype
    fused: bool = False

    @property
    def max_tokens(self) -> int:
        """Token positions of a prompt, start and end marks included (77 for CLIP)."""
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))

    def tokenise(self, prompts: Sequence[str]) -> Tensor:
        """Token ids (n, max_tokens) int64 on the device; what does not fit is cut, with one warning a prompt."""
        for prompt in prompts:
            self._warn_if_cut(prompt)
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return torch.as_tensor(ids).to(self.device)

    def _warn_if_cut(self, prompt: str) -> None:
        say_cuts(self.tokenizer, [prompt], self.max_tokens)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings (n, max_tokens, width) in `dtype`: the encoder's last hidden states."""
        hidden: Tensor = self.text_encoder(self.tokenise(prompts))[0]
        return hidden

    @torch.no_grad()
    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, C, h, w) of the VAE posterior of pixels (n, 3, H, W) in [-1, 1]."""
        posterior = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    def scaled(self, latents: Tensor) -> Tensor:
        """VAE latents in the UNet's scale: (z - shift) · scaling factor."""
        return (latents - self.vae_shift) * self.vae_scaling

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, H, W) float32 in [-1, 1] (a little beyond) of latents in the UNet's scale.

        A bfloat16 pass that leaves the finite numbers is repeated in float32.
        """
        pixels = self.decode_fast(latents)
        if self.decodes_fast and not bool(pixels.isfinite().all()):
            log.warning("the VAE left the finite numbers in bfloat16; decoding in float32")
            pixels = self.decode_exactly(latents)
        return pixels

    @property
    def decodes_fast(self) -> bool:
        """Whether `decode_fast` is less exact than `decode_exactly`."""
        return self.dtype is torch.bfloat16

    @torch.no_grad()
    def decode_fast(self, latents: Tensor) -> Tensor:
        """`decode` in bfloat16 where the model is, without looking at the result: nobody waits for it.

        On a GPU by a copy of the VAE in bfloat16, a fifth faster than autocast and as far from float32 (2.0 % of the
        pixels' spread against 1.8 %, random weights); a CPU is left with autocast.
        """
        if self.decodes_fast and self.device.type == "cuda":
            return self._decoded(self._half_vae, latents)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.decodes_fast):
            return self.decode_exactly(latents)

    @cached_property
    def _half_vae(self) -> Any:
        with quiet():  # diffusers remarks on every change of precision
            return copy.deepcopy(self.vae).to(torch.bfloat16)

    @torch.no_grad()
    def decode_exactly(self, latents: Tensor) -> Tensor:
        """`decode` in the VAE's own precision."""
        return self._decoded(self.vae, latents)

    def _decoded(self, vae: Any, latents: Tensor) -> Tensor:
        z = (latents.to(self.vae.dtype) / self.vae_scaling) + self.vae_shift
        pixels: Tensor = vae.decode(z.to(vae.dtype)).sample
        return pixels.float()


def load(spec: ModelSpec, device: torch.device | str, dtype: torch.dtype, *, fused: bool = True) -> Models:
    """The model of `spec`, from this process's cache when its files have not changed.

    device: where all weights go. dtype: of the UNet and the text encoder, float32, bfloat16 or float64. fused: with
    fused kernels, where this device has them.
    Raises BackendError, all faults together, when the model is missing, incomplete or of another kind.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float64):
        raise BackendError(f"models are not loaded in {dtype}; allowed: float32, bfloat16, float64")
    device = torch.device(device)
    folder = locate(spec)
    fused = fused and not fusing.lack(device, dtype)
    key = (spec, str(device), dtype, fused, stamp(folder))
    if key not in _loaded:
        while len(_loaded) >= KEPT:
            _loaded.popitem(last=False)
        _loaded[key] = _load(spec, folder, device, dtype, fused)
    _loaded.move_to_end(key)
    return _loaded[key]


def release() -> None:
    """Forget every loaded model; memory is free once the callers let go of theirs."""
    _loaded.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load(spec: ModelSpec, folder: Path, device: torch.device, dtype: torch.dtype, fused: bool) -> Models:
    vae_dtype = torch.float64 if dtype is torch.float64 else torch.float32
    with quiet():
        unet = _component("unet", spec, folder, device, dtype)
        vae = _component("vae", spec, folder, device, vae_dtype)
        text_encoder = _component("text_encoder", spec, folder, device, dtype)
        tokenizer, scheduler_config = load_tokenizer(folder), _scheduler_config(folder)
    if fused:
        fusing.fuse(unet)
        fusing.fuse(vae)
    return Models(
        spec=spec,
        folder=folder,
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler_config=scheduler_config,
        prediction_type=str(scheduler_config["prediction_type"]),
        alphas_cumprod=_alphas_cumprod(scheduler_config),
        vae_scaling=float(vae.config.scaling_factor),
        vae_shift=float(vae.config.get("shift_factor") or 0.0),
        vae_factor=2 ** (len(vae.config.block_out_channels) - 1),
        latent_channels=int(vae.config.latent_channels),
        device=device,
        dtype=dtype,
        fused=fused,
    )


def network_classes() -> dict[str, Any]:
    """{component: its class}; the first call imports the libraries, which takes seconds."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}


def _component(name: str, spec: ModelSpec, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    stem = COMPONENTS[name][1]
    variant = spec.variant if weight_file(folder / name, stem, spec.variant) else None
    settings: dict[str, Any] = {"variant": variant, "use_safetensors": True, "local_files_only": True}
    dtype_name = "dtype" if name == "text_encoder" else "torch_dtype"  # transformers 5 renamed it
    try:
        network = network_classes()[name].from_pretrained(
            str(folder / name), **settings, **{dtype_name: dtype}
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BackendError(f"{folder / name} cannot be loaded: {error}") from error
    assert isinstance(network, nn.Module)
    return network.to(device).requires_grad_(False).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder. Raises: BackendError when it cannot be loaded."""
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise BackendError(f"{folder / 'tokenizer'} cannot be loaded: {error}") from error


def _scheduler_config(folder: Path) -> dict[str, Any]:
    """The scheduler's file, with what every Stable Diffusion pipeline of diffusers enforces.

    Latents are not clipped, and "leading" timesteps are shifted by one; old files say otherwise by mistake.
    """
    import json

    file = folder / "scheduler" / "scheduler_config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    config.setdefault("prediction_type", "epsilon")
    return config | {"clip_sample": False, "steps_offset": 1}


def _alphas_cumprod(scheduler_config: dict[str, Any]) -> Tensor:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(scheduler_config)
    alphas: Tensor = scheduler.alphas_cumprod
    return alphas.to("cpu", torch.float64)


@contextmanager
def quiet() -> Iterator[None]:
    """No loading bars or config chatter from the libraries; their settings are put back."""
    import diffusers.utils.logging as diffusers_log
    import transformers.utils.logging as transformers_log

    modules = (diffusers_log, transformers_log)
    levels = [module.get_verbosity() for module in modules]
    bars = [module.is_progress_bar_enabled() for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, level, bar in zip(modules, levels, bars, strict=True):
            module.set_verbosity(level)
            if bar:
                module.enable_progress_bar()
