"""What config.json files say of the three networks, and what of it is computed here.

Defaults are those of diffusers' and transformers' classes: old files leave out what did not exist when they were
written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from jdx.backends.jittor.worker.nets.blocks import Resnet
from jdx.backends.jittor.worker.nets.weights import Source
from jdx.backends.layout import read_json
from jdx.errors import BackendError

C = TypeVar("C", "UNetConfig", "VaeConfig", "TextConfig")

DOWN_BLOCKS, UP_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
Only = Mapping[str, tuple[Any, ...]]
"""{key: values that are computed here}, the first being the default; lists are checked entry by entry."""

UNET: Only = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "down_block_types": DOWN_BLOCKS,
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim_type": (None,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_attention_heads": (None,),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1.0,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "up_block_types": UP_BLOCKS,
}
VAE: Only = {
    "act_fn": ("silu", "swish"),
    "down_block_types": ("DownEncoderBlock2D",),
    "mid_block_add_attention": (True,),
    "up_block_types": ("UpDecoderBlock2D",),
    "use_post_quant_conv": (True,),
    "use_quant_conv": (True,),
}
TEXT: Only = {"hidden_act": ("quick_gelu", "gelu")}


@dataclass(frozen=True)
class UNetConfig:
    """The sizes of a UNet2DConditionModel. attention_head_dim is diffusers' name for the number of heads."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
    layers_per_block: int = 2
    transformer_layers_per_block: int = 1
    attention_head_dim: int | tuple[int, ...] = 8
    cross_attention_dim: int = 1280
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    use_linear_projection: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = 0

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads of each level, the finest first."""
        given = self.attention_head_dim
        return (given,) * len(self.block_out_channels) if isinstance(given, int) else given

    @property
    def time_width(self) -> int:
        """Width of the embedded time."""
        return 4 * self.block_out_channels[0]

    def resnet(self, source: Source, c_in: int, c_out: int) -> Resnet:
        """A residual block of this network."""
        groups, eps = self.norm_num_groups, self.norm_eps
        return Resnet(source, c_in, c_out, time=self.time_width, groups=groups, eps=eps)

    def faults(self) -> list[str]:
        """Sizes that do not fit each other."""
        levels = len(self.block_out_channels)
        counts = {
            "attention_head_dim": len(self.heads),
            "down_block_types": len(self.down_block_types),
            "up_block_types": len(self.up_block_types),
        }
        found = [
            f"{key} has {count} entries, block_out_channels {levels}"
            for key, count in counts.items()
            if count != levels
        ]
        odd = [
            f"{width} channels are not {heads} equal heads"
            for width, heads in zip(self.block_out_channels, self.heads, strict=False)
            if heads < 1 or width % heads
        ]
        return found + odd + _group_faults(self.block_out_channels, self.norm_num_groups)


@dataclass(frozen=True)
class VaeConfig:
    """The sizes of an AutoencoderKL."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None

    def resnet(self, source: Source, c_in: int, c_out: int) -> Resnet:
        """A residual block of this network."""
        return Resnet(source, c_in, c_out, time=None, groups=self.norm_num_groups, eps=1e-6)

    def faults(self) -> list[str]:
        """Sizes that do not fit each other."""
        return _group_faults(self.block_out_channels, self.norm_num_groups)


@dataclass(frozen=True)
class TextConfig:
    """The sizes of a CLIPTextModel."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def faults(self) -> list[str]:
        """Sizes that do not fit each other."""
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            return [f"hidden_size {self.hidden_size} is not {self.num_attention_heads} equal heads"]
        return []


def _group_faults(channels: tuple[int, ...], groups: int) -> list[str]:
    return [f"{width} channels are not {groups} equal groups" for width in channels if width % groups]


def config_of(file: Path, only: Only, kind: type[C]) -> C:
    """A network's config.

    Raises: BackendError with every value that is not computed here and every size that does not fit.
    """
    content, fault = read_json(file)
    if content is None:
        raise BackendError(fault)
    faults = [
        f"{key} = {content[key]!r}; with Jittor: {', '.join(map(repr, allowed))}"
        for key, allowed in only.items()
        if key in content and not _within(content[key], allowed)
    ]
    known = {field.name: _tuples(content[field.name]) for field in fields(kind) if field.name in content}
    faults += [
        f"{key} = {value!r}; with Jittor: the same for all levels"
        for key, value in known.items()
        if isinstance(value, tuple) and key in ("layers_per_block", "transformer_layers_per_block")
    ]
    config = kind(**known)
    faults += config.faults() if not faults else []
    if faults:
        listed = "\n".join(f"  - {fault}" for fault in faults)
        raise BackendError(f"{file} is of a network that the Jittor backend does not have:\n{listed}")
    return config


def _within(value: Any, allowed: tuple[Any, ...]) -> bool:
    return all(one in allowed for one in value) if isinstance(value, list) else value in allowed


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
