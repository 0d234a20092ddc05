"""Makers of tiny judges with random weights, in the real formats, and of pictures."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from evaluation.trunks import ConvTrunk, StageConfig, TrunkConfig

PROMPTS = ("Cat", "Ice cream", "Tree")


def save_tokenizer(folder: Path, length: int = 16) -> None:
    """A byte-level BPE without merges: every word is spelt, as CLIP's tokenizer would rare ones."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, *(c + "</w>" for c in letters)])}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocab[special] = len(vocab)
    bpe = models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = ("<|endoftext|>", vocab["<|endoftext|>"]), ("<|startoftext|>", vocab["<|startoftext|>"])
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_max_length=length,
    )
    fast.save_pretrained(folder)


def save_preprocessor(folder: Path, **config: object) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(config))


def save_clip(folder: Path, size: int = 32) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **tower,
        "vocab_size": 514,
        "max_position_embeddings": 16,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    vision = {**tower, "image_size": size, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    _spread(model)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    save_preprocessor(folder, size={"shortest_edge": size}, crop_size=size, resample=3)


def save_dino(folder: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    model = Dinov2Model(config)
    _spread(model)
    model.save_pretrained(folder)
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    save_preprocessor(folder, size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}, **imagenet)


def _spread(model: torch.nn.Module) -> None:
    """Larger random weights than a library starts with, so that different pictures look different."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)


def random_trunk() -> ConvTrunk:
    torch.manual_seed(2)
    stages = (StageConfig(8), StageConfig(12, layers=2), StageConfig(16))
    trunk = ConvTrunk(TrunkConfig(stages=stages, image_size=32))
    for module in trunk.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return trunk.eval()


def picture(seed: int, size: int = 40, channels: int = 3) -> Image.Image:
    """Smooth random colours: unlike noise, they survive a resize."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    return Image.fromarray(coarse.squeeze()).resize((size, size), Image.Resampling.BICUBIC)
