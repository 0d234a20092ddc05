"""Trained adapters in NumPy, read from and written to the files that every backend shares, and worn for drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from jdx.backends import adapter_files, word_files
from jdx.backends.adapter_files import FILE, LORA_FILES, LoraPair
from jdx.backends.enhancer_files import StoredEnhancer, read_enhancer, write_enhancer
from jdx.backends.jittor.worker.nets.layers import Linear
from jdx.backends.jittor.worker.nets.models import Models
from jdx.backends.jittor.worker.nets.weights import arrays
from jdx.backends.lora_keys import Network, canonical_te_path
from jdx.backends.word_files import StoredWord, read_word, write_word
from jdx.errors import ConfigError, Fault
from jdx.files import write_bytes
from jdx.methods.enhancer_form import Form

Pair = LoraPair[npt.NDArray[Any]]


@dataclass(frozen=True)
class Adapter:
    """All that a style has learnt here: {canonical module path: pair} of either network, an enhancer, a learnt word."""

    unet: Mapping[str, Pair] = field(default_factory=dict)
    text_encoder: Mapping[str, Pair] = field(default_factory=dict)
    enhancer: StoredEnhancer | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokens: StoredWord | None = None


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write each part of an adapter into `folder`, in the files that the torch backend writes.

    Raises: ValueError when there is nothing to write or a number is not finite.
    """
    if adapter.unet or adapter.text_encoder or (adapter.enhancer is None and adapter.tokens is None):
        tensors, header = adapter_files.file_of(adapter.unet, adapter.text_encoder, adapter.metadata)
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        write_bytes(folder / FILE, safetensors.numpy.save(whole, metadata=header))
    if adapter.enhancer is not None:
        about = {**adapter.metadata, **adapter.enhancer.metadata}
        write_enhancer(folder, replace(adapter.enhancer, metadata=about))
    if adapter.tokens is not None:
        write_word(folder, adapter.tokens, adapter.metadata)


def load_adapter(path: Path, models: Models) -> Adapter:
    """All that a style has learnt, from a folder (any of the files of its parts) or one file of LoRA weights.

    Raises: ConfigError with every fault of a file that is not for this base or cannot be used.
    """
    sizes = Form(models.latent_channels, models.max_tokens, models.text_encoder.config.hidden_size)
    enhancer = read_enhancer(path, sizes)
    word = path / word_files.FILE
    if enhancer is None and not word.is_file():
        return load_lora(path, models)
    lora = load_lora(path, models) if any((path / name).is_file() for name in LORA_FILES) else Adapter()
    tokens = read_word(word, sizes.width, lambda file: arrays(Path(file))) if word.is_file() else None
    return replace(lora, enhancer=enhancer, tokens=tokens)


def load_lora(path: Path, models: Models) -> Adapter:
    """The LoRA weights in a folder or safetensors file, checked against the base they are meant for.

    Raises: ConfigError, see `adapter_files.pairs_of`; for a legacy .bin file too, which needs torch to be read.
    """
    file = adapter_files.find(path)
    state, config = _read(file)
    linears = _linears(models)
    sizes = {name: {p: (m.d_out, m.d_in) for p, m in some.items()} for name, some in linears.items()}
    networks = adapter_files.pairs_of(file, state, config, sizes)
    metadata = adapter_files.section(config, "jdx")
    return Adapter(networks["unet"], networks["text_encoder"], metadata=metadata)


def _read(file: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    if file.suffix != ".safetensors":
        allowed = (
            "the Jittor backend reads safetensors; load and save it once with backend=torch or diffusers"
        )
        raise ConfigError([Fault("file", file.name, allowed)], what=f"adapter {file}")
    try:
        with safe_open(str(file), framework="numpy") as opened:
            header = opened.metadata() or {}
        return arrays(file), adapter_files.config_of(file, header)
    except (SafetensorError, OSError, ValueError) as error:
        raise adapter_files.unreadable(file, error) from error


def _linears(models: Models) -> dict[Network, dict[str, Linear]]:
    """The base's linear layers by network and the path that files use."""
    unet, text = (
        {path: module for path, module in network.modules.items() if isinstance(module, Linear)}
        for network in (models.unet, models.text_encoder)
    )
    return {"unet": unet, "text_encoder": {canonical_te_path(path): layer for path, layer in text.items()}}


@contextmanager
def worn(models: Models, adapter: Adapter, scale: float = 1.0) -> Iterator[None]:
    """Inside the block W is W + scale · alpha/r · B·A (Hu et al. 2021); after it the layers have W again.

    `adapter` must have been loaded for this base. Its enhancer is not applied here: it acts on text states.
    """
    linears = _linears(models)
    layers = [(linears["unet"][path], pair) for path, pair in adapter.unet.items()]
    layers += [(linears["text_encoder"][path], pair) for path, pair in adapter.text_encoder.items()]
    originals = [layer.weight for layer, _ in layers]
    try:
        with jt.no_grad():
            for layer, pair in layers:
                layer.weight = merged(layer.weight, pair, scale)
                layer.weight.sync()
        yield
    finally:
        for (layer, _), weight in zip(layers, originals, strict=True):
            layer.weight = weight


def merged(weight: jt.Var, pair: Pair, scale: float) -> jt.Var:
    """W + scale · alpha/r · up @ down.

    With a magnitude (DoRA, Liu et al. 2024) its rows are then brought to that length; as in PEFT the scale acts before.
    """
    up, down = (jt.array(np.ascontiguousarray(half, np.float32)) for half in (pair.up, pair.down))
    whole = weight + jt.matmul(up, down) * (scale * pair.alpha / pair.rank)
    if pair.magnitude is not None:
        lengths = (whole * whole).sum(1).sqrt().maximum(float(np.finfo(np.float32).tiny))
        magnitude = jt.array(np.ascontiguousarray(pair.magnitude, np.float32))
        whole = whole * (magnitude / lengths).reshape(-1, 1)
    return whole.stop_grad()
