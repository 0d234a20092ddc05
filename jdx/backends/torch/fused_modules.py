"""diffusers' modules with fused kernels in their forward passes, and what turns the one into the other.

Each is a subclass of what it stands in for, so that names, state dicts and `isinstance` stay true. Off the GPU, and
under `torch.compile`, which fuses by itself, the passes are diffusers' own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from jdx.backends.torch.attention import heads, project


def fusible(x: Tensor) -> bool:
    """Whether kernels can take this tensor, and are not traced."""
    return x.is_cuda and not torch.compiler.is_compiling()


class FusedGroupNorm(nn.GroupNorm):
    """A group norm, with SiLU after it if `silu`."""

    silu: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Of pictures (N, C, h, w), or of any shape by PyTorch's own."""
        if x.ndim == 4 and fusible(x):
            return _normed(self, x, silu=self.silu)
        y = super().forward(x)
        return F.silu(y) if self.silu else y


class FusedLayerNorm(nn.LayerNorm):
    """A layer norm over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """Of (..., C)."""
        if not fusible(x):
            return super().forward(x)
        from jdx.backends.torch import fused_functions

        return fused_functions.layer_norm(x, self.weight, self.bias, self.eps)


class FusedResnet(ResnetBlock2D):  # type: ignore[misc]
    """A residual block. Its convolutions' biases and the time step's ride along with what follows them."""

    def forward(self, input_tensor: Tensor, temb: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        """input_tensor (N, C, h, w), temb (N, D) or none; returns (N, C', h, w)."""
        if not fusible(input_tensor):
            plain: Tensor = super().forward(input_tensor, temb, *args, **kwargs)
            return plain
        from jdx.backends.torch import fused_functions

        h = _convolved(self.conv1, _normed(self.norm1, input_tensor, silu=True))
        shift: Tensor | None = self.conv1.bias.expand(len(h), -1)
        if self.time_emb_proj is not None and temb is not None:
            shift = shift + self.time_emb_proj(F.silu(temb))
        if shift is not None and shift.requires_grad:  # an adapter in there wants a gradient
            h, shift = h + shift[..., None, None], None
        h = _convolved(self.conv2, _normed(self.norm2, h, silu=True, shift=shift))
        if self.conv_shortcut is None:
            return fused_functions.join(h, input_tensor, self.conv2.bias)
        side = _convolved(self.conv_shortcut, input_tensor)
        return fused_functions.join(h, side, self.conv2.bias, self.conv_shortcut.bias)


class FusedTransformer(Transformer2DModel):  # type: ignore[misc]
    """A transformer on a picture's places, whose result stays channels-last instead of being copied."""

    def _get_output_for_continuous_inputs(
        self,
        hidden_states: Tensor,
        residual: Tensor,
        batch_size: int,
        height: int,
        width: int,
        inner_dim: int,
    ) -> Tensor:
        if not self.use_linear_projection or not fusible(hidden_states):
            plain: Tensor = super()._get_output_for_continuous_inputs(
                hidden_states, residual, batch_size, height, width, inner_dim
            )
            return plain
        places: Tensor = self.proj_out(hidden_states).unflatten(1, (height, width))
        return residual + places.permute(0, 3, 1, 2)


class FusedGEGLU(GEGLU):  # type: ignore[misc]
    """A gated GELU."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """hidden_states (..., C); returns (..., D)."""
        if not fusible(hidden_states):
            plain: Tensor = super().forward(hidden_states, *args, **kwargs)
            return plain
        from jdx.backends.torch import fused_functions

        return fused_functions.geglu(self.proj(hidden_states))


class LeanAttention:
    """`AttnProcessor2_0` for attentions with neither norms nor masks, without its division by 1."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *_: object,
        **__: object,
    ) -> Tensor:
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states)
        q, k, v = (heads(x, attn.heads) for x in projected)
        return project(attn, F.scaled_dot_product_attention(q, k, v))


def _normed(norm: nn.GroupNorm, x: Tensor, *, silu: bool, shift: Tensor | None = None) -> Tensor:
    from jdx.backends.torch import fused_functions

    return fused_functions.group_norm(
        x, norm.weight, norm.bias, norm.num_groups, norm.eps, silu=silu, shift=shift
    )


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Without the bias. By the module's own method, which may be another (see `repeatable`)."""
    y: Tensor = conv._conv_forward(x, conv.weight, None)
    return y


def _group_norm(norm: nn.GroupNorm) -> None:
    if norm.affine:
        norm.__class__ = FusedGroupNorm


def _layer_norm(norm: nn.LayerNorm) -> None:
    if norm.elementwise_affine and norm.bias is not None and len(norm.normalized_shape) == 1:
        norm.__class__ = FusedLayerNorm


def _resnet(block: Any) -> None:
    if (
        (block.time_emb_proj is None or block.time_embedding_norm == "default")
        and block.upsample is None
        and block.downsample is None
        and isinstance(block.nonlinearity, nn.SiLU)
        and not block.skip_time_act
        and block.output_scale_factor == 1.0
        and block.dropout.p == 0.0
    ):
        block.__class__ = FusedResnet


def _transformer(module: Any) -> None:
    module.__class__ = FusedTransformer


def _geglu(module: Any) -> None:
    module.__class__ = FusedGEGLU


def _attention(attn: Any) -> None:
    if (
        type(attn.processor) is AttnProcessor2_0
        and attn.spatial_norm is attn.group_norm is attn.norm_q is attn.norm_k is None
        and not attn.norm_cross
        and not attn.residual_connection
        and attn.rescale_output_factor == 1.0
    ):
        attn.set_processor(LeanAttention())


def _last_norm(network: Any) -> None:
    """A network's last norm takes over the activation behind it."""
    norm: Any = network.conv_norm_out
    affine = isinstance(norm, nn.GroupNorm) and norm.affine
    if affine and isinstance(network.conv_act, nn.SiLU):
        norm.__class__ = FusedGroupNorm
        norm.silu = True
        network.conv_act = nn.Identity()


SUBSTITUTES: dict[type[nn.Module], Callable[[Any], None]] = {
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    ResnetBlock2D: _resnet,
    Transformer2DModel: _transformer,
    GEGLU: _geglu,
    Attention: _attention,
    UNet2DConditionModel: _last_norm,
    Decoder: _last_norm,
    Encoder: _last_norm,
}
"""What is done with a module of exactly this type; others are left alone."""
