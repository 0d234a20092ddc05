"""The small judges: an image-text model (CLIP-R, CLIP-IQA), DINO, and a conv trunk (LPIPS, FID)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

from data.mini.augment import replace_view, restyle, sometimes, spoil
from data.mini.export import tidy_transformer
from data.mini.pictures import Pictures
from data.mini.representation import Vector
from data.mini.tokenizer import save_tokenizer
from data.mini.training import Plan, Shuffle, Stage, autocast, generator
from evaluation.trunks import ConvTrunk, StageConfig, TrunkConfig, save_trunk

QUALITY = ("Good photo.", "Bad photo.")
JUDGES_JSON = {
    "name": "mini",
    "dino": {"kind": "hf_vision", "path": "dino"},
    "clip_r": {"kind": "clip", "path": "clip", "nouns": "clip/nouns.txt"},
    "clip_iqa": {"kind": "clip", "path": "clip"},
    "lpips": {"kind": "trunk", "path": "trunk", "heads": "uniform"},
    "fid": {"kind": "trunk", "path": "trunk", "stage": 2},
}


@dataclass(frozen=True)
class JudgeSize:
    """Widths and depths of the judges; pictures are 128 px, in patches of `patch`."""

    vision: int = 160
    vision_layers: int = 4
    text: int = 96
    text_layers: int = 2
    dino: int = 128
    dino_layers: int = 4
    trunk: tuple[int, ...] = (32, 48, 64, 128)
    critic: tuple[int, ...] = (32, 64, 96, 128)
    head: int = 32
    patch: int = 16
    image: int = 128


def make_clip(size: JudgeSize, tokenizer: CLIPTokenizer) -> CLIPModel:
    """An untrained CLIP (Radford et al. 2021)."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.text,
        "intermediate_size": 4 * size.text,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.text // size.head,
        "max_position_embeddings": tokenizer.model_max_length,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": size.vision,
        "intermediate_size": 4 * size.vision,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision // size.head,
        "image_size": size.image,
        "patch_size": size.patch,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=size.text))


def make_dino(size: JudgeSize) -> Dinov2Model:
    """An untrained DINOv2 trunk (Oquab et al. 2023)."""
    config = Dinov2Config(
        hidden_size=size.dino,
        num_hidden_layers=size.dino_layers,
        num_attention_heads=size.dino // size.head,
        image_size=size.image,
        patch_size=size.patch,
        layerscale_value=1.0,
    )
    return Dinov2Model(config)


def make_trunk(channels: Sequence[int], layers: int = 2) -> ConvTrunk:
    """An untrained conv trunk; every stage halves the picture."""
    stages = tuple(StageConfig(c, layers=layers) for c in channels)
    return ConvTrunk(TrunkConfig(stages=stages, norm="group", groups=8))


def dino_vector(size: JudgeSize, objects: int) -> Vector:
    """DINO with training heads: its vector is the pooled class token, which the scorer compares."""
    return Vector(make_dino(size), lambda out: out.pooler_output, size.dino, objects)


def trunk_vector(channels: Sequence[int], objects: int) -> Vector:
    """A conv trunk with training heads: its vector is the last stage averaged over the picture."""
    return Vector(make_trunk(channels), lambda maps: maps[-1].mean((2, 3)), channels[-1], objects)


@dataclass(frozen=True)
class Texts:
    """Token ids for the image-text judge: candidate nouns (objects first), captions, the quality pair."""

    nouns: Tensor
    captions: Tensor
    quality: Tensor


class ImageText(nn.Module):
    """CLIP's two towers as one call, for compilation."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip

    def images(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1] → unit vectors (B, d)."""
        pooled = self.clip.vision_model(2 * x - 1).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def texts(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) → unit vectors (B, d)."""
        pooled = self.clip.text_model(ids).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def forward(self, x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both towers."""
        return self.images(x), self.texts(ids)


def fit_clip(clip: CLIPModel, data: Pictures, texts: Texts, stage: Stage, seed: int) -> None:
    """Three tasks in one space: which noun, which caption of the batch, good or spoilt."""
    device, n_nouns = data.pixels.device, len(texts.nouns)
    shuffle = Shuffle(len(data.pixels), stage.plan.batch, seed, device)
    model = ImageText(clip)
    run: Callable[..., Any] = torch.compile(model) if device.type == "cuda" else model

    def losses(step: int) -> dict[str, Tensor]:
        rng = generator(device, seed, 4, step)
        pick = shuffle(step)
        n = max(2, len(pick) // 8)
        plain = replace_view(data.unit(pick), rng)
        x = torch.cat([sometimes(restyle, 0.7, plain, rng), spoil(plain[:n], rng)])
        caption = data.caption[pick]
        ids = torch.cat([texts.nouns, texts.quality, texts.captions[caption]])
        with autocast(device):
            image, text = run(x, ids)
        nouns, quality, captions = text.split([n_nouns, 2, len(pick)])
        scale = clip.logit_scale.exp().clamp(max=100)
        clean, spoilt = image[: len(pick)], image[len(pick) :]
        noun = F.cross_entropy(scale * clean @ nouns.T, data.label[pick], label_smoothing=0.05)
        said = _caption_loss(scale * clean @ captions.T, caption)
        pair = torch.cat([plain_quality(clean, n), spoilt]) @ quality.T
        bad = torch.arange(2, device=device).repeat_interleave(n)
        # CLIP-IQA multiplies the cosines by a fixed 100: learn them for that scale.
        good = F.cross_entropy(100 * pair, bad, label_smoothing=0.2)
        top1 = ((clean @ nouns.T).argmax(-1) == data.label[pick]).float().mean()
        return {"loss": noun + 0.5 * said + 0.3 * good, "noun": noun, "said": said, "iqa": good, "top1": top1}

    stage.fit(losses)
    stage.averaged()


def plain_quality(clean: Tensor, n: int) -> Tensor:
    """The first n unspoilt pictures: the good half of the quality task."""
    return clean[:n]


def _caption_loss(logits: Tensor, caption: Tensor) -> Tensor:
    """Symmetric InfoNCE in which pictures with the same caption do not repel each other."""
    same = (caption[:, None] == caption[None]) & ~torch.eye(
        len(caption), dtype=torch.bool, device=logits.device
    )
    logits = logits.masked_fill(same, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def clip_plan(minutes: float) -> Plan:
    """The recipe of the shipped weights."""
    return Plan(steps=100_000, seconds=60 * minutes, batch=512, lr=1e-3, weight_decay=0.05)


def vector_plan(minutes: float) -> Plan:
    """The recipe of the shipped weights (`batch` counts pairs)."""
    return Plan(steps=100_000, seconds=60 * minutes, batch=256, lr=1e-3, weight_decay=0.05)


def save_judges(
    clip: CLIPModel,
    dino: Dinov2Model,
    trunk: ConvTrunk,
    tokenizer: CLIPTokenizer,
    nouns: Sequence[str],
    folder: Path,
) -> None:
    """Write the set in the format of docs/judges.md, float16."""
    ready = {
        "size": {
            "height": clip.config.vision_config.image_size,
            "width": clip.config.vision_config.image_size,
        },
        "resample": 3,
        "do_center_crop": False,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    for name, model in (("clip", clip), ("dino", dino)):
        model.half().save_pretrained(folder / name)
        tidy_transformer(folder / name)
        (folder / name / "preprocessor_config.json").write_text(
            json.dumps(ready, indent=1) + "\n", encoding="utf-8"
        )
    save_tokenizer(tokenizer, folder / "clip")
    (folder / "clip" / "nouns.txt").write_text("\n".join(nouns) + "\n", encoding="utf-8")
    save_trunk(trunk, folder / "trunk")
    (folder / "judges.json").write_text(json.dumps(JUDGES_JSON, indent=1) + "\n", encoding="utf-8")
