"""A frozen Stable Diffusion in Jittor: loaded from diffusers layout, cached per process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt

from jdx.backends.base import ModelSpec
from jdx.backends.jittor.worker.nets.text_encoder import TextEncoder, load_text_encoder
from jdx.backends.jittor.worker.nets.tokenizer import ClipTokenizer
from jdx.backends.jittor.worker.nets.unet import UNet, load_unet
from jdx.backends.jittor.worker.nets.vae import Vae, load_vae
from jdx.backends.layout import stamp
from jdx.errors import BackendError

TEXTS_AT_ONCE = 64
_loaded: dict[tuple[object, ...], Models] = {}


@dataclass(eq=False)
class Models:
    """The parts of one Stable Diffusion, frozen.

    All in float32. vae_factor: pixels per latent. Whoever changes a weight, a hook or the tokenizer puts it back.
    """

    spec: ModelSpec
    folder: Path
    unet: UNet
    vae: Vae
    text_encoder: TextEncoder
    tokenizer: ClipTokenizer
    dtype: str = "float32"

    @property
    def vae_scaling(self) -> float:
        """Latents of the UNet are the autoencoder's, less the shift, times this."""
        return self.vae.config.scaling_factor

    @property
    def vae_shift(self) -> float:
        """See `vae_scaling`."""
        return self.vae.config.shift_factor or 0.0

    @property
    def vae_factor(self) -> int:
        """Pixels per latent, along either axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    @property
    def max_tokens(self) -> int:
        """Token positions of a prompt, start and end marks included (77 for CLIP)."""
        return min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)

    def tokenise(self, prompts: Sequence[str]) -> npt.NDArray[np.int32]:
        """Token ids (n, max_tokens); what does not fit is cut."""
        return self.tokenizer(prompts, self.max_tokens)

    def embed(self, prompts: Sequence[str]) -> jt.Var:
        """Text embeddings (n, max_tokens, width): the encoder's last hidden states."""
        with jt.no_grad():
            cuts = range(0, len(prompts), TEXTS_AT_ONCE)
            parts = [self.text_encoder(self.tokenise(prompts[i : i + TEXTS_AT_ONCE])) for i in cuts]
            return jt.concat(parts, 0) if len(parts) > 1 else parts[0]

    def moments(self, pixels: npt.NDArray[np.float32] | jt.Var) -> tuple[jt.Var, jt.Var]:
        """Mean and standard deviation (n, C, h, w) of the posterior of pixels (n, 3, H, W) in [-1, 1]."""
        with jt.no_grad():
            return self.vae.encode(_var(pixels))

    def scaled(self, latents: Any) -> Any:
        """The autoencoder's latents in the UNet's scale: (z - shift) · scaling factor."""
        return (latents - self.vae_shift) * self.vae_scaling

    def decode(self, latents: npt.NDArray[np.float32] | jt.Var) -> jt.Var:
        """Pixels (n, 3, H, W) float32, [-1, 1] and a little beyond, of latents in the UNet's scale."""
        with jt.no_grad():
            return self.vae.decode(_var(latents) / self.vae_scaling + self.vae_shift)


def _var(values: npt.NDArray[np.float32] | jt.Var) -> jt.Var:
    return (
        values.float32() if isinstance(values, jt.Var) else jt.array(np.ascontiguousarray(values, np.float32))
    )


def load(spec: ModelSpec, dtype: str = "float32") -> Models:
    """The model of `spec`, whose path is a folder, from this process's cache when its files have not changed.

    dtype: float32 is what there is. Weights are where jittor's `use_cuda` says.
    Raises: BackendError, all faults of a component together, when its config or weights do not fit these networks.
    """
    if dtype != "float32":
        raise BackendError(f"models are not loaded in {dtype} with Jittor; allowed: float32")
    folder = Path(spec.path)
    key = (spec, bool(jt.flags.use_cuda), stamp(folder))
    if key not in _loaded:
        release()  # one at a time: weights of another model are memory that a pass may need
        _loaded[key] = _load(spec, folder)
    return _loaded[key]


def release() -> None:
    """Forget every loaded model; memory is free once the callers let go of theirs."""
    _loaded.clear()
    jt.gc()


def _load(spec: ModelSpec, folder: Path) -> Models:
    return Models(
        spec=spec,
        folder=folder,
        unet=load_unet(folder / "unet", spec.variant),
        vae=load_vae(folder / "vae", spec.variant),
        text_encoder=load_text_encoder(folder / "text_encoder", spec.variant),
        tokenizer=ClipTokenizer(folder / "tokenizer"),
    )
