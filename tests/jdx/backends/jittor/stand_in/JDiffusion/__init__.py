"""JDiffusion's names on diffusers' networks, with the slips of the original that a runner must live with.

Its import wants cuDNN; its text encoder begins with random weights where the file's names lack `text_model.`, and says
nothing; with JDIFFUSION_HIDES set, layers of that name are not among the modules (as `to_out.0` is not for PEFT there).
"""

from __future__ import annotations

import os
from typing import Any

import diffusers
import jittor as jt
import torch
import transformers
from diffusers import UniPCMultistepScheduler

__all__ = ["AutoencoderKL", "StableDiffusionPipeline", "UNet2DConditionModel", "UniPCMultistepScheduler"]

jt.cudnn.set_max_workspace_ratio(0.0)


def _as_in_jittor(module: Any, prefix: str = "") -> Any:
    """A linear layer's weight becomes a plain attribute, which may be any tensor; nothing has a gradient."""
    module.requires_grad_(False)
    state = dict(module.state_dict())
    for path, part in module.named_modules():
        if isinstance(part, torch.nn.Linear):
            weight = part._parameters.pop("weight")
            assert weight is not None
            part.weight = state[f"{path}.weight"] = weight.data
    module.state_dict = lambda: {prefix + name: tensor for name, tensor in state.items()}
    hidden, everything = os.environ.get("JDIFFUSION_HIDES"), list(module.named_modules())
    module.named_modules = lambda *_, **__: [
        (p, m) for p, m in everything if not hidden or not p.endswith(hidden)
    ]
    return module


class UNet2DConditionModel:
    @staticmethod
    def from_pretrained(path: str, subfolder: str, **some: Any) -> Any:
        return _as_in_jittor(
            diffusers.UNet2DConditionModel.from_pretrained(path, subfolder=subfolder, **some)
        )


class AutoencoderKL:
    @staticmethod
    def from_pretrained(path: str, subfolder: str, **some: Any) -> Any:
        return _as_in_jittor(diffusers.AutoencoderKL.from_pretrained(path, subfolder=subfolder, **some))


def _random_text_encoder(path: str, subfolder: str, **some: Any) -> Any:
    config = transformers.CLIPTextConfig.from_pretrained(path, subfolder=subfolder)
    return _as_in_jittor(transformers.CLIPTextModel(config).eval(), "text_model.")


transformers.CLIPTextModel.from_pretrained = _random_text_encoder


class StableDiffusionPipeline:
    """One prompt at a time, from given latents; they are multiplied by the scheduler's first sigma."""

    def __init__(self, **parts: Any):
        self._inner = diffusers.StableDiffusionPipeline(**parts)
        self._inner.set_progress_bar_config(disable=True)

    def __call__(self, **asked: Any) -> Any:
        return self._inner(**asked)
