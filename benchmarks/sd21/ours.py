"""jdx's own rates, through the backend's public jobs: files in, files out, PNGs included."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from benchmarks.sd21.measure import median_rate, peak, wait
from benchmarks.sd21.model import ATTENTION
from jdx.backends.base import (
    AdapterSpec,
    Backend,
    CompileSetting,
    GenerateJob,
    LoraSpec,
    ModelSpec,
    PictureSpec,
    SamplerSpec,
    StyleDrawJob,
    StyleIdSpec,
    StyleStyliseJob,
    StyliseJob,
    TrainJob,
)
from jdx.progress import NullProgress

NONE = LoraSpec(0, 1.0, ())
WORDS = ("a thing",) * 10


@dataclass(frozen=True)
class Trained:
    """A training rate in samples/s, the seconds until its first window was done, and the most memory in GiB."""

    rate: float
    first: float
    gib: float
    adapters: Mapping[str, Path]


@dataclass(frozen=True)
class Bed:
    """Where a measurement works: a backend, a model and a folder, pictures of `side` pixels."""

    backend: Backend
    model: ModelSpec
    folder: Path
    side: int = 512
    compile: CompileSetting = "auto"
    graphs: bool = True

    def moments(self, name: str) -> Path:
        """Ten pictures' made-up posteriors, eight views each."""
        folder = self.folder / "moments" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            shape = (10, 8, 4, self.side // 8, self.side // 8)
            mean = np.random.default_rng(len(name)).standard_normal(shape, dtype=np.float32) * 4
            save_file({"mean": mean, "std": np.full(shape, 0.1, np.float32)}, folder / "moments.safetensors")
        return folder

    def train(self, styles: int, steps: int, every: int, rank: int = 32) -> Trained:
        """DreamBooth with prior preservation: two samples per style and step."""
        lora = LoraSpec(rank, rank, ATTENTION)
        adapters = tuple(
            AdapterSpec(f"{k:02d}", WORDS, 0, lora, NONE, 1e-4, 0.0, prior_captions=WORDS, prior_weight=1.0)
            for k in range(styles)
        )
        references = {a.style: self.moments("references") for a in adapters}
        prior = {a.style: (self.moments("prior"),) for a in adapters}
        job = TrainJob(
            self.model,
            adapters,
            references,
            (steps,),
            prior_moments=prior,
            log_every=every,
            compile=self.compile,
            graphs=self.graphs,
        )
        clocks: dict[tuple[str, ...], list[tuple[float, float]]] = {}  # of each pack
        kept: dict[str, Path] = {}

        def losses(step: int, means: Mapping[str, float]) -> None:
            clocks.setdefault(tuple(means), []).append((time.perf_counter(), step * 2.0 * len(means)))

        def snapshot(style: str, _: int, folder: Path) -> None:
            kept[style] = folder

        with peak() as gib:
            start = time.perf_counter()
            self.backend.train(job, self._fresh("adapters"), NullProgress(), snapshot, losses)
        first, *_ = next(iter(clocks.values()))
        return Trained(median_rate(clocks.values()), first[0] - start, gib[0], kept)

    def draw(self, adapters: Mapping[str, Path], pictures: int, steps: int) -> tuple[float, float, float]:
        """(pictures/s, first style's seconds more than a later one's, GiB) of styles of `pictures` prompts each."""
        prompts = tuple(PictureSpec(f"{i}.png", f"a picture of thing {i}", "", i) for i in range(pictures))
        styles = tuple(StyleDrawJob(name, folder, prompts) for name, folder in adapters.items())
        job = GenerateJob(
            self.model,
            SamplerSpec("unipc", steps, 7.5),
            self.side,
            styles,
            compile=self.compile,
            graphs=self.graphs,
        )
        first = self._drawn(replace(job, styles=styles[:1]))
        with peak() as gib:
            taken = self._drawn(job)
        each = taken / len(styles)
        return pictures / each, first - each, gib[0]

    def _drawn(self, job: GenerateJob) -> float:
        start = time.perf_counter()
        self.backend.generate(job, self._fresh("pictures"), NullProgress(), lambda style, folder: None)
        wait()
        return time.perf_counter() - start

    def styleid(
        self, pictures: int, references: int, steps: int, layers: tuple[str, ...]
    ) -> tuple[list[float], float]:
        """(seconds of a first job, of a second style's, and of its redrawing at another gamma; GiB)."""
        spec = StyleIdSpec(layers, 0.75, 1.5, steps)
        styles = [self._style(f"{i:02d}", pictures, references) for i in range(2)]
        jobs = [
            StyliseJob(self.model, spec, self.side, (style,), compile=self.compile, graphs=self.graphs)
            for style, spec in ((styles[0], spec), (styles[1], spec), (styles[1], replace(spec, gamma=0.3)))
        ]
        seconds = []
        with peak() as gib:
            for job in jobs:
                start = time.perf_counter()
                self.backend.stylise(job, self._fresh("restyled"), NullProgress(), lambda style, folder: None)
                wait()
                seconds.append(time.perf_counter() - start)
        return seconds, gib[0]

    def _style(self, name: str, pictures: int, references: int) -> StyleStyliseJob:
        rng = np.random.default_rng(int(name))
        folder = self.folder / "contents" / name
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{i}.png" for i in range(pictures + references)]
        for file in files:
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((self.side, self.side)).save(file)
        contents = {f"{i}.png": (file, i % references) for i, file in enumerate(files[:pictures])}
        return StyleStyliseJob(name, tuple(files[pictures:]), contents)

    def _fresh(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder, prefix=name))
