"""JDiffusion's networks with exactly the weights of the files, and LoRA on them without its libraries' slips.

Weights are compared with the files after loading: its transformers begins with random text weights, silently, where
the names are those that transformers 5 writes. LoRA replaces a layer's weight by W + s · B A instead of going through
PEFT, which passes over `to_out.0` there and whose weights cannot be saved as safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt

from jdx.backends.base import ModelSpec
from jdx.backends.jittor.worker.nets.weights import IGNORED, canonical, open_weights
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.layout import COMPONENTS, read_json
from jdx.errors import BackendError

Floats = npt.NDArray[np.float32]
TEXTS_AT_ONCE = 16


@dataclass(eq=False)
class JdModels:
    """JDiffusion's modules of one Stable Diffusion, frozen, and what of its configs training and drawing need."""

    spec: ModelSpec
    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Mapping[str, Any]

    @property
    def vae_factor(self) -> int:
        """Pixels per latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def vae_scaling(self) -> float:
        """Latents of the UNet are the autoencoder's times this."""
        return float(self.vae.config.scaling_factor)

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts."""
        return str(self.scheduler.get("prediction_type", "epsilon"))

    def embed(self, prompts: Sequence[str]) -> jt.Var:
        """Text embeddings (n, tokens, width): the encoder's last hidden states."""
        parts = []
        with jt.no_grad():
            for start in range(0, len(prompts), TEXTS_AT_ONCE):
                tokens = self.tokenizer(
                    list(prompts[start : start + TEXTS_AT_ONCE]),
                    padding="max_length",
                    max_length=self.tokenizer.model_max_length,
                    truncation=True,
                )
                parts.append(self.text_encoder(jt.array(np.array(tokens["input_ids"], np.int32)))[0])
        return jt.concat(parts, dim=0)

    def moments(self, pixels: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Mean and standard deviation (n, C, h, w) of the VAE posterior, unscaled."""
        posterior = self.vae.encode(pixels).latent_dist
        return posterior.mean, posterior.std


@lru_cache(maxsize=1)
def _loaded(spec: ModelSpec) -> tuple[JdModels, list[str]]:
    _allow_cpu()
    from JDiffusion import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder, some = Path(spec.path), {"variant": spec.variant} if spec.variant else {}
    scheduler, fault = read_json(folder / "scheduler" / "scheduler_config.json")
    if scheduler is None:
        raise BackendError(f"{folder}: {fault}")
    models = JdModels(
        spec,
        UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet", **some),
        AutoencoderKL.from_pretrained(str(folder), subfolder="vae", **some),
        CLIPTextModel.from_pretrained(str(folder), subfolder="text_encoder", **some),
        CLIPTokenizer.from_pretrained(str(folder), subfolder="tokenizer"),
        scheduler,
    )
    said = []
    for name in ("unet", "vae", "text_encoder"):
        count = put_right(getattr(models, name), folder / name, COMPONENTS[name][1], spec.variant)
        if count:
            said.append(
                f"JDiffusion loaded {count} weights of the {name} wrongly: they were read from the file again"
            )
    return models, said


def load(spec: ModelSpec, tell: Tell) -> JdModels:
    """The model, from the process's cache. Raises: BackendError when the files do not hold these networks."""
    models, said = _loaded(spec)
    while said:  # once, not with every job
        tell.log(said.pop(0), "warning")
    return models


def _allow_cpu() -> None:
    """JDiffusion sets a limit of cuDNN's when it is imported, which without CUDA is an attribute of nothing."""
    if getattr(jt, "cudnn", None) is None:
        jt.cudnn = SimpleNamespace(set_max_workspace_ratio=lambda ratio: None)


def put_right(network: Any, folder: Path, stem: str, variant: str | None) -> int:
    """Give a network the weights of its files; returns how many differed. Raises: BackendError with all misfits."""
    book = open_weights(folder, stem, variant).book
    wrong = 0
    for name, var in network.state_dict().items():
        if IGNORED.search(name):
            continue
        wanted = book.take(canonical(name), tuple(var.shape)).numpy()
        if not np.array_equal(np.asarray(var.numpy()), wanted):
            var.assign(jt.array(wanted))
            wrong += 1
    book.close(folder)
    return wrong


def linears(network: Any) -> dict[str, Any]:
    """{path: linear layer} of a network: whatever has a weight of two dimensions and makes its own products."""
    return {
        path: module
        for path, module in network.named_modules()
        if type(module).__name__.endswith("Linear") and len(module.weight.shape) == 2
    }


def targeted(network: Any, targets: Sequence[str]) -> list[str]:
    """Paths of the linear layers whose last parts are in `targets`, in the order of the network."""
    return [path for path in linears(network) if any(f".{path}".endswith(f".{one}") for one in targets)]


def expected(spec: ModelSpec, network: str, targets: Sequence[str]) -> int:
    """How many layers of a model's files the targets name, whatever the libraries make of it."""
    book = open_weights(Path(spec.path) / network, COMPONENTS[network][1], spec.variant).book
    ends = tuple(f".{one}.weight" for one in targets)
    return sum(len(shape) == 2 and f".{name}".endswith(ends) for name, shape in book.shapes.items())


@contextmanager
def weighted(network: Any, changes: Mapping[str, jt.Var]) -> Iterator[None]:
    """Inside the block the layers have W + change instead of W; the change may be a function of trained variables."""
    layers = linears(network)
    originals = {path: layers[path].weight for path in changes}
    try:
        for path, change in changes.items():
            layers[path].weight = originals[path] + change
        yield
    finally:
        for path, weight in originals.items():
            layers[path].weight = weight


def alphas_cumprod(scheduler: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """The levels ᾱ_t (T,) of a scheduler's config."""
    from jdx.backends.jittor.worker.jobs import levels

    return levels.alphas_cumprod(json.loads(json.dumps(dict(scheduler))))
