"""Retrain the embedded model and judges from a seed: `python -m data.mini.train --out DIR`.

On one H200 the default of 22 minutes of training gives the shipped weights, up to the rounding of GPU
kernels. Each stage writes its own folder or file under DIR/work and is skipped when that is complete; an
interrupted stage goes on from its checkpoint. `--tiny` does all of it in seconds on a CPU: a test, no use.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, Dinov2Model

from data.mini import denoiser, judges, pictures, vae
from data.mini.export import save_model, write_sums
from data.mini.representation import Vector, fit_representation
from data.mini.tokenizer import make_tokenizer, save_tokenizer
from data.mini.training import OutOfTime, Plan, Stage
from data.mini.world import OBJECTS
from evaluation.trunks import ConvTrunk

# Shares of the training minutes. Rendering, export and the quality report come on top.
SHARES = {"critic": 0.035, "vae": 0.323, "denoiser": 0.393, "clip": 0.098, "dino": 0.09, "trunk": 0.061}
NOUNS = Path(__file__).resolve().parents[2] / "evaluation" / "clip_r_nouns.txt"


@dataclass(frozen=True)
class Sizes:
    """Everything that `--tiny` makes small."""

    pairs: int = 60_000
    steps: int | None = None  # None: as long as the minutes last
    batch: int | None = None
    vae_size: vae.VaeSize = field(default_factory=vae.VaeSize)
    denoiser_size: denoiser.DenoiserSize = field(default_factory=denoiser.DenoiserSize)
    judge_size: judges.JudgeSize = field(default_factory=judges.JudgeSize)


TINY = Sizes(
    pairs=8,
    steps=2,
    batch=4,
    vae_size=vae.VaeSize((8, 8, 16, 16), layers=1, groups=4),
    denoiser_size=denoiser.DenoiserSize((32, 32, 32, 32), text=32, text_layers=1, groups=8),
    judge_size=judges.JudgeSize(32, 1, 32, 1, 32, 1, (8, 8, 8, 16), (8, 8, 8, 8)),
)


@dataclass
class Recipe:
    """One training of everything: where it lies, how long it may take, and its stages as methods."""

    out: Path
    seed: int = 1
    minutes: float = 22.0
    sizes: Sizes = field(default_factory=Sizes)
    device: torch.device = field(
        default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu")
    )
    workers: int | None = None
    deadline: float | None = None

    @property
    def work(self) -> Path:
        """Folder of the stages' results and checkpoints."""
        return self.out / "work"

    @cached_property
    def data(self) -> pictures.Pictures:
        """The rendered set, on the device."""
        return pictures.load(self.work / "pictures", self.device)

    @cached_property
    def nouns(self) -> list[str]:
        """CLIP-R's candidates: the drawn objects first, then the contest's other nouns, all in lower case."""
        words = [*OBJECTS, *NOUNS.read_text(encoding="utf-8").splitlines()]
        return list(dict.fromkeys(word.strip().lower() for word in words if word.strip()))

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        """Learnt once from the captions and the nouns, then read back, so that resumed stages agree."""
        folder = self.work / "tokenizer"
        if not (folder / "merges.txt").exists():
            words = " ".join([*self.data.captions, *self.nouns, *judges.QUALITY, "style " * 100]).replace(
                ".", " "
            )
            save_tokenizer(make_tokenizer(words.lower().split()), folder)
        return CLIPTokenizer.from_pretrained(folder)

    def stage(self, name: str, plan: Plan, **modules: nn.Module) -> Stage:
        """The stage's trainer, resumed where it stopped."""
        if self.sizes.steps is not None:
            plan = replace(plan, steps=self.sizes.steps, batch=self.sizes.batch or plan.batch)
        for module in modules.values():
            module.to(self.device)
        return Stage(name, modules, plan, self.work, self.deadline)

    def minutes_of(self, name: str) -> float:
        """The share of the training minutes that a stage gets."""
        return SHARES[name] * self.minutes

    def begin(self, name: str) -> None:
        """Seed the initial weights of a stage: they do not depend on which stages ran before."""
        torch.manual_seed(1000 * self.seed + list(STAGES).index(name))

    def render(self) -> None:
        """Draw the training pictures."""
        pictures.render(self.sizes.pairs, self.seed, self.work / "pictures", self.workers)

    def _vector(self, name: str, model: Vector) -> nn.Module:
        """Train a backbone with heads, or read it back; its own seed and views, whatever else is trained."""
        file = self.work / f"{name}.safetensors"
        if file.exists():
            model.backbone.load_state_dict(load_file(file))
        else:
            stage = self.stage(name, judges.vector_plan(self.minutes_of(name)), vector=model)
            fit_representation(model, self.data, stage, 1000 * self.seed + list(STAGES).index(name))
            _save_state(model.backbone, file)
        return model.backbone.to(self.device).eval()

    def critic(self) -> ConvTrunk:
        """The autoencoder's perceptual network: never a judge."""
        self.begin("critic")
        backbone = self._vector("critic", judges.trunk_vector(self.sizes.judge_size.critic, len(OBJECTS)))
        return cast(ConvTrunk, backbone.requires_grad_(False))

    def vae(self) -> AutoencoderKL:
        """The autoencoder, its latents normalised."""
        folder = self.work / "vae"
        if (folder / "config.json").exists():
            return AutoencoderKL.from_pretrained(folder).to(self.device).eval()
        critic = self.critic()
        self.begin("vae")
        model = vae.make_vae(self.sizes.vae_size)
        stage = self.stage("vae", vae.vae_plan(self.minutes_of("vae")), vae=model)
        vae.fit_vae(model, critic, self.data.pixels, stage, self.seed)
        vae.normalise(model, self.data.pixels[:8192])
        model.save_pretrained(folder)
        return model

    def denoiser(self) -> tuple[UNet2DConditionModel, CLIPTextModel]:
        """The UNet and its text encoder."""
        folder = self.work / "denoiser"
        if (folder / "text_encoder" / "config.json").exists():
            unet = UNet2DConditionModel.from_pretrained(folder / "unet")
            return unet, CLIPTextModel.from_pretrained(folder / "text_encoder")
        autoencoder = self.vae()
        mean, std = vae.encode_all(autoencoder, self.data.pixels)
        ids = denoiser.tokens(self.tokenizer, [*self.data.captions, ""], self.device)
        latents = denoiser.Latents(mean, std, self.data.caption, ids[:-1], ids[-1])
        self.begin("denoiser")
        unet = denoiser.make_unet(self.sizes.denoiser_size)
        text = denoiser.make_text_encoder(self.sizes.denoiser_size, self.tokenizer)
        stage = self.stage(
            "denoiser", denoiser.denoiser_plan(self.minutes_of("denoiser")), unet=unet, text=text
        )
        denoiser.fit_denoiser(unet, text, latents, stage, self.seed)
        unet.save_pretrained(folder / "unet")
        text.save_pretrained(folder / "text_encoder")
        return unet, text

    def clip(self) -> CLIPModel:
        """The image-text judge."""
        self.begin("clip")
        model = judges.make_clip(self.sizes.judge_size, self.tokenizer)
        file = self.work / "clip.safetensors"
        if file.exists():
            model.load_state_dict(load_file(file))
            return model.eval()
        ids = [
            denoiser.tokens(self.tokenizer, t, self.device)
            for t in (self.nouns, self.data.captions, judges.QUALITY)
        ]
        stage = self.stage("clip", judges.clip_plan(self.minutes_of("clip")), clip=model)
        judges.fit_clip(model, self.data, judges.Texts(*ids), stage, self.seed)
        _save_state(model, file)
        return model

    def dino(self) -> Dinov2Model:
        """The judge of DINO similarity."""
        self.begin("dino")
        return cast(
            Dinov2Model, self._vector("dino", judges.dino_vector(self.sizes.judge_size, len(OBJECTS)))
        )

    def trunk(self) -> ConvTrunk:
        """The judge of LPIPS and FID."""
        self.begin("trunk")
        return cast(
            ConvTrunk, self._vector("trunk", judges.trunk_vector(self.sizes.judge_size.trunk, len(OBJECTS)))
        )

    def export(self) -> None:
        """Write OUT/model, OUT/judges and OUT/SHA256SUMS."""
        unet, text = self.denoiser()
        clip, dino, trunk = self.clip(), self.dino(), self.trunk()
        save_model(self.vae(), unet, text, self.tokenizer, self.out / "model")
        judges.save_judges(clip, dino, trunk, self.tokenizer, self.nouns, self.out / "judges")
        write_sums(self.out)

    def quality(self) -> None:
        """Write OUT/quality.json."""
        from data.mini.quality import measure, write

        write(measure(self.out, self.device, few=self.sizes.steps is not None), self.out / "quality.json")


STAGES: dict[str, Callable[[Recipe], object]] = {
    name: getattr(Recipe, name)
    for name in ("render", "critic", "vae", "denoiser", "clip", "dino", "trunk", "export", "quality")
}


def _save_state(model: nn.Module, file: Path) -> None:
    beside = file.with_suffix(".part")
    save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, beside)
    os.replace(beside, file)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m data.mini.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights and, below it, work/")
    parser.add_argument(
        "--minutes", type=float, default=22.0, help="GPU minutes of training, all stages together"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE",
                        help=f"some of: {', '.join(STAGES)}")  # fmt: skip
    parser.add_argument(
        "--stop-after", type=float, metavar="SECONDS", help="write a checkpoint then and end with code 3"
    )
    parser.add_argument("--workers", type=int, help="processes that draw pictures (default: all cores)")
    parser.add_argument(
        "--tiny", action="store_true", help="minute networks, two steps each: a test of the recipe"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stages asked for, in order. Returns 3 when time was over first: the same call again goes on."""
    args = parse(argv)
    deadline = None if args.stop_after is None else time.monotonic() + args.stop_after
    torch.set_float32_matmul_precision("high")
    recipe = Recipe(args.out, args.seed, args.minutes, TINY if args.tiny else Sizes(),
                    workers=args.workers, deadline=deadline)  # fmt: skip
    for name in STAGES:
        if name in args.stages:
            begin = time.monotonic()
            try:
                STAGES[name](recipe)
            except OutOfTime as stop:
                print(f"{stop}: time is over, run the same command again to go on", flush=True)
                return 3
            print(f"stage {name}: {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
