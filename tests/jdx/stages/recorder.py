"""A backend that computes nothing: it notes the jobs it is given and leaves small files where results belong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from jdx.backends.base import (
    Backend,
    EncodeJob,
    GenerateJob,
    ModelSpec,
    OnLosses,
    OnSnapshot,
    OnStyle,
    StyliseJob,
    TokensSpec,
    TrainJob,
    TrainOutcome,
)
from jdx.errors import Fault
from jdx.progress import Progress


def paint(file: Path, *what: object) -> None:
    """A picture of one colour, which depends on what it would show."""
    file.parent.mkdir(parents=True, exist_ok=True)
    red, green, blue = hashlib.sha256(repr(what).encode()).digest()[:3]
    Image.new("RGB", (8, 8), (red, green, blue)).save(file)


class Recorder(Backend):
    """Notes every job. `pictures` holds the bytes of the pictures that each encoding was given, by style."""

    name = "recorder"

    def __init__(self) -> None:
        self.stopping: set[str] = set()  # adapters whose training stops at its first step
        self.texts: list[tuple[str, ...]] = []
        self.words: list[tuple[TokensSpec, ...]] = []
        self.encoded: list[EncodeJob] = []
        self.trained: list[TrainJob] = []
        self.drawn: list[GenerateJob] = []
        self.stylised: list[StyliseJob] = []
        self.pictures: list[dict[str, list[bytes]]] = []

    def describe(self) -> dict[str, str]:
        return {"dtype": "float32"}

    def check(self, model: ModelSpec) -> list[str]:
        return []

    def name_faults(
        self,
        model: ModelSpec,
        targets: Mapping[str, Sequence[str]],
        layers: Mapping[str, Sequence[str]],
        tokens: Sequence[TokensSpec] = (),
    ) -> list[Fault]:
        self.words.append(tuple(tokens))
        return []

    def say_long_prompts(
        self, model: ModelSpec, prompts: Sequence[str], tokens: Sequence[TokensSpec] = ()
    ) -> None:
        self.texts.append(tuple(prompts))

    def encode(self, job: EncodeJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        self.encoded.append(job)
        self.pictures.append({s: [Path(p).read_bytes() for p in paths] for s, paths in job.pictures.items()})
        for style in job.pictures:
            (out / style).mkdir(parents=True)
            (out / style / "moments.safetensors").write_bytes(b"moments")
            on_style(style, out / style)

    def train(
        self, job: TrainJob, out: Path, progress: Progress, on_snapshot: OnSnapshot, on_losses: OnLosses
    ) -> TrainOutcome:
        self.trained.append(job)
        styles = [adapter.style for adapter in job.adapters]
        for style in (name for name in styles if name not in self.stopping):
            for step in job.snapshots:
                folder = out / style / str(step)
                folder.mkdir(parents=True)
                (folder / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
                (folder / "losses.csv").write_text(f"step,loss\n{step},1.0\n")
                on_snapshot(style, step, folder)
        failed = {name: (1, f"the loss of {name} is nan") for name in styles if name in self.stopping}
        return TrainOutcome(failed, 0.0)

    def generate(self, job: GenerateJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        self.drawn.append(job)
        for style in job.styles:
            for picture in style.pictures:
                paint(out / style.style / picture.file, picture.prompt, picture.seed)
            on_style(style.style, out / style.style)

    def stylise(self, job: StyliseJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        self.stylised.append(job)
        for style in job.styles:
            for file, content in style.contents.items():
                paint(out / style.style / file, content[1])
            on_style(style.style, out / style.style)
