"""The VAE prompt enhancer (see jdx/methods/enhancer.py) in Jittor."""

from __future__ import annotations

import math
from typing import Any

import jittor as jt
import numpy as np
from jittor import nn
from PIL import Image

from jdx.backends.enhancer_files import StoredEnhancer
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.nets.models import Models
from jdx.methods.enhancer_form import EPS, Form


def form_of(models: Models) -> Form:
    """The sizes that fit this model's latents and text states."""
    return Form(models.latent_channels, models.max_tokens, models.text_encoder.config.hidden_size)


def features(mean: Floats, std: Floats, form: Form) -> Floats:
    """What the enhancer sees of a style, (2C, 2·rows, 2·columns): its averaged moments, deviation before mean.

    mean, std: unscaled VAE moments (pictures, C, h, w) of any size h × w. Pillow's bilinear filter on floats is
    PyTorch's antialiased one.
    """
    rows, columns = form.grid
    average = np.concatenate([std.mean(0), mean.mean(0)])
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in average]
    size = (2 * columns, 2 * rows)
    return np.stack([np.asarray(x.resize(size, Image.Resampling.BILINEAR), np.float32) for x in channels])


def enhance(flat: Any, seen: Any, form: Form) -> Any:
    """Outputs (K, tokens, width) of K enhancers side by side, not yet weighted, in float32.

    flat: (K, P), row k the parameters of style k. seen: (K, 2C, 2·rows, 2·columns), its `features`. Each layer is
    GroupNorm, SiLU, Conv 3 × 3, the first with stride 2.
    """
    p, x = _unpack(flat, form), seen
    for place, groups in enumerate(form.groups, 1):
        x = _normed(x, groups, p[f"norm{place}.weight"], p[f"norm{place}.bias"])
        x = x * x.sigmoid()
        x = _convolved(x, p[f"conv{place}.weight"], p[f"conv{place}.bias"], stride=2 if place == 1 else 1)
    return x.reshape(x.shape[0], form.tokens, form.width)


def bias_of(enhancer: StoredEnhancer) -> Floats:
    """What is added to the text states, (tokens, width): weight · out."""
    with jt.no_grad():
        vector, seen = (jt.array(x[None]) for x in (enhancer.vector, enhancer.seen))
        out: Floats = enhance(vector, seen, enhancer.form)[0].numpy()
    return np.float32(enhancer.weight) * out


def _unpack(flat: Any, form: Form) -> dict[str, Any]:
    """{name: (K, *shape)} of rows (K, P)."""
    found, first = {}, 0
    for name, shape in form.shapes.items():
        size = math.prod(shape)
        found[name] = flat[:, first : first + size].reshape(-1, *shape)
        first += size
    return found


def _normed(x: Any, groups: int, weight: Any, bias: Any) -> Any:
    """Group norm (Wu and He 2018) of (K, C, H, W) with parameters (K, C), the variance taken about the mean."""
    K, C = x.shape[:2]
    rows = x.reshape(K * groups, -1)
    rows = rows - rows.mean(1, keepdims=True)
    rows = rows / ((rows * rows).mean(1, keepdims=True) + EPS).sqrt()
    return rows.reshape(x.shape) * weight.reshape(K, C, 1, 1) + bias.reshape(K, C, 1, 1)


def _convolved(x: Any, weight: Any, bias: Any, stride: int) -> Any:
    """Conv 3 × 3 with a border of zeros of (K, C, H, W), each k with its own weight (K, c_out, C, 3, 3)."""
    K, C, H, W = x.shape
    h, w = -(-H // stride), -(-W // stride)
    places = ["i0", "i1", f"i4*{stride}+i2-1", f"i5*{stride}+i3-1"]  # outside the picture: zero
    patches = x.reindex([K, C, 3, 3, h, w], places).reshape(K, C * 9, h * w)
    out = nn.bmm(weight.reshape(K, -1, C * 9), patches) + bias.reshape(K, -1, 1)
    return out.reshape(K, -1, h, w)
