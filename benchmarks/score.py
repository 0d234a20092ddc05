"""Times the scorer on made-up pictures, beside the official checker's pairing.

    python -m benchmarks.score [--size tiny|full] [--styles 15] [--pictures 25] [--references 10] [--side 512]

Weights are random: time does not depend on them. `full` has the real widths and depths of all five networks.
The official pairing encodes both pictures of every pair: its DINO passes are counted, measured on a subset and
extrapolated, and the printed row says so.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluation import Judges, ScoreOptions, load_judges, score_folders
from evaluation.pictures import Picture
from evaluation.report import versions
from evaluation.trunks import ConvTrunk, InceptionStem, StageConfig, TrunkConfig, save_trunk

# DINO passes of the official pairing that are timed; the rest is extrapolated.
_TIMED_PASSES = 40


@dataclass(frozen=True)
class Size:
    """Widths of the two transformers; `full` ones are DINOv2 base and CLIP ViT-L/14."""

    dino: dict[str, int]
    vision: dict[str, int]
    text: dict[str, int]
    projection: int
    side: int


def _tower(width: int, layers: int, heads: int, inner: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
    }


_DINO_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_DINO_TINY = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SIZES = {
    "full": Size(_DINO_BASE, _tower(1024, 24, 16, 4096), _tower(768, 12, 12, 3072), 768, 224),
    "tiny": Size(_DINO_TINY, _tower(64, 3, 2, 128), _tower(64, 2, 2, 128), 64, 96),
}


def main() -> None:
    """Make pictures and judges, score cold and warm, print one Markdown row."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generated, references = make_set(folder, args.styles, args.pictures, args.references, args.side)
        make_judges(folder / "judges", SIZES[args.size], real=args.size == "full")
        judges = load_judges(folder / "judges" / "judges.json", device=args.device)
        options = ScoreOptions(cache=folder / "cache", device=args.device, batch_size=args.batch_size)
        cold, cold_passes = _timed(generated, references, judges, options)
        warm, warm_passes = _timed(generated, references, judges, options)
        per_pass = _official_dino(generated, references, judges)
    official = 2 * args.styles * args.pictures * args.references
    print(
        "| Device | Judges | Pictures | Cold s (DINO passes) | Warm s (DINO passes) | Official pairing | Versions |"
    )
    print("|---|---|---|---|---|---|---|")
    pictures = f"{args.styles * args.pictures} × {args.styles * args.references} at {args.side}"
    pairing = f"{official} DINO passes, {official * per_pass:.0f} s ({_TIMED_PASSES} timed, extrapolated)"
    used = ", ".join(f"{key} {versions()[key]}" for key in ("torch", "transformers", "pillow"))
    print(
        f"| {_device_name(judges.device)} | {args.size}, random | {pictures} | {cold:.1f} ({cold_passes}) "
        f"| {warm:.1f} ({warm_passes}) | {pairing} | {used} |"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--styles", type=int, default=15)
    parser.add_argument("--pictures", type=int, default=25)
    parser.add_argument("--references", type=int, default=10)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def _timed(generated: Path, references: Path, judges: Judges, options: ScoreOptions) -> tuple[float, int]:
    """Seconds of a whole score, files included, networks loaded before; and DINO's passes."""
    before, start = judges.dino.seen, time.perf_counter()
    score_folders(generated, references, judges, options)
    return time.perf_counter() - start, judges.dino.seen - before


def _official_dino(generated: Path, references: Path, judges: Judges) -> float:
    """Seconds of one DINO pass of one picture, decoded and prepared each time, as pair by pair costs."""
    paths = [next(generated.rglob("*.png")), next(references.rglob("*.png"))]
    start = time.perf_counter()
    for i in range(_TIMED_PASSES):
        x = torch.from_numpy(judges.dino.prepare(Picture("", paths[i % 2]).rgb))[None].to(judges.device)
        with torch.inference_mode():
            judges.dino.forward(x)[0].cpu()
    return (time.perf_counter() - start) / _TIMED_PASSES


def make_set(folder: Path, styles: int, pictures: int, references: int, side: int) -> tuple[Path, Path]:
    """Smooth random pictures in the challenge layout."""
    rng = np.random.default_rng(0)
    for style in range(styles):
        prompts = [f"Prompt{i}" for i in range(pictures)]
        made = folder / "generated" / f"{style:02}", folder / "references" / f"{style:02}" / "images"
        for place, names in zip(made, (prompts, [f"ref{style}x{i}" for i in range(references)]), strict=True):
            place.mkdir(parents=True)
            for name in names:
                coarse = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
                image.save(place / f"{name}.png", compress_level=1)
        (made[1].parent / "prompt.json").write_text(json.dumps(dict(enumerate(prompts))))
    return folder / "generated", folder / "references"


def make_judges(folder: Path, size: Size, real: bool) -> None:
    """Random weights in the real file formats; `real` adds SqueezeNet, Inception's stem and CLIP's ResNet-50."""
    folder.mkdir(parents=True)
    _save_dino(folder / "dino", size)
    _save_clip(folder / "clip", size)
    spec = {
        "name": "random",
        "dino": {"kind": "hf_vision", "path": "dino"},
        "clip_r": {"kind": "clip", "path": "clip"},
        "clip_iqa": {"kind": "clip", "path": "clip"},
        "lpips": {"kind": "trunk", "path": "trunk"},
        "fid": {"kind": "trunk", "path": "trunk", "stage": 1},
    }
    if real:
        _save_real_trunks(folder)
        spec["clip_iqa"] = {"kind": "clip_rn50", "path": "RN50.pt", "tokenizer": "clip"}
        spec["lpips"] = {"kind": "squeeze", "path": "squeezenet.pth"}
        spec["fid"] = {"kind": "inception", "path": "inception.pth"}
    else:
        stages = (StageConfig(32), StageConfig(64), StageConfig(64), StageConfig(128))
        save_trunk(ConvTrunk(TrunkConfig(stages=stages)), folder / "trunk")
    (folder / "judges.json").write_text(json.dumps(spec))


def _save_dino(folder: Path, size: Size) -> None:
    from transformers import Dinov2Config, Dinov2Model

    Dinov2Model(Dinov2Config(**size.dino, image_size=518, patch_size=14)).save_pretrained(folder)
    side = {"size": {"shortest_edge": 256}, "crop_size": 224}
    (folder / "preprocessor_config.json").write_text(json.dumps(side))


def _save_clip(folder: Path, size: Size) -> None:
    from transformers import CLIPConfig, CLIPModel

    vision = {**size.vision, "image_size": size.side, "patch_size": 14 if size.side == 224 else 16}
    text = {
        **size.text,
        "vocab_size": 514,
        "max_position_embeddings": 77,
        "bos_token_id": 512,
        "eos_token_id": 513,
    }
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=size.projection)
    ).save_pretrained(folder)
    side = {"size": {"shortest_edge": size.side}, "crop_size": size.side}
    (folder / "preprocessor_config.json").write_text(json.dumps(side))
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer without merges: the texts become longer than CLIP's, the pictures do not care."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocab.update({start: 512, end: 513})
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], end_of_word_suffix="</w>", unk_token=end))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing((end, 513), (start, 512), add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=end, model_max_length=77
    )
    fast.save_pretrained(folder)


def _save_real_trunks(folder: Path) -> None:
    from piq.feature_extractors.clip import CLIP
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), folder / "squeezenet.pth")
    torch.save(InceptionStem().state_dict(), folder / "inception.pth")
    torch.save(CLIP(1024, 224, (3, 4, 6, 3), 64, None, 77, 514, 512, 8, 12).state_dict(), folder / "RN50.pt")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
