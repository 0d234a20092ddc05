"""StyleBlend's coarse branch (Chen et al. 2025): a text-encoder adapter on pictures composed as the references.

Each reference is redrawn many times by SDEdit (Meng et al. 2022) with a plain prompt: its composition stays, its
texture goes. The best of these candidates are what the branch learns from, so its words hold the composition alone.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from data.challenge import Reference
from jdx import draws
from jdx.backends.base import AdapterSpec, CropSpec, InitSpec, LoraSpec, PictureSpec, StyleDrawJob
from jdx.files import write_text
from jdx.schema import changed
from jdx.stages.adapt import Adapters, adapt
from jdx.stages.bench import Bench, Publish, make
from jdx.stages.encode import encode
from jdx.stages.generate import draw, sampler_of
from jdx.stages.judges import NONE, judges_of, resting, seated

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Candidate:
    """One redrawn reference: which one it was, and where the picture is."""

    reference: int
    path: Path


def coarse_name(style: str) -> str:
    """What a style's coarse branch is called in draws, losses and messages."""
    return f"{style}.coarse"


def train_coarse(bench: Bench) -> Adapters:
    """The adapters of all styles' coarse branches, by style; making and choosing their pictures comes first."""
    kept = _kept(bench, _candidates(bench))
    names = {coarse_name(style): [one.path for one in some] for style, some in kept.items()}
    moments = encode(bench, names, CropSpec(bench.config.train.resolution, 1.0, random=False, variants=1))
    specs = {coarse_name(style): _spec(bench, style, some) for style, some in kept.items()}
    result = adapt(_alone(bench), specs, moments, {}, {})
    by_name = {coarse_name(style): style for style in kept}
    return Adapters(
        {by_name[name]: steps for name, steps in result.steps.items()},
        {by_name[name]: (n, f"coarse branch: {why}") for name, (n, why) in result.failed.items()},
    )


def _alone(bench: Bench) -> Bench:
    """The bench as this training sees it: steps of its own, and a constant rate as in the authors' programs."""
    config = bench.config
    train = changed(config.train, steps=config.method.blend.coarse.steps, snapshots=[], score_snapshots=False)
    optim = changed(config.optim, schedule="constant", warmup_steps=0)
    return replace(bench, config=changed(config, train=train, optim=optim))


def _spec(bench: Bench, style: str, pictures: Sequence[Candidate]) -> AdapterSpec:
    config, coarse = bench.config, bench.config.method.blend.coarse
    references = bench.style(style).references
    words = [bench.wording.fill(coarse.prompt, style, references[one.reference].object) for one in pictures]
    return AdapterSpec(
        style=coarse_name(style),
        captions=tuple(words),
        seed=config.train.seed,
        unet=LoraSpec(0, 1.0, ()),
        text_encoder=LoraSpec(coarse.rank, float(coarse.rank), tuple(config.lora.text_encoder.targets)),
        unet_lr=0.0,
        text_encoder_lr=coarse.lr,
        weight_decay=config.optim.weight_decay,
        max_grad_norm=config.optim.max_grad_norm,
        min_snr_gamma=config.train.min_snr_gamma,
        ema_decay=config.train.ema_decay,
    )


def _candidates(bench: Bench) -> dict[str, list[Candidate]]:
    """Every reference redrawn `per_reference` times, the strengths taking turns."""
    settings = bench.config.method.blend.coarse.candidates
    jobs = {
        (style.id, number, strength): _job(bench, style.id, number, reference, strength)
        for style in bench.challenge.styles
        for number, reference in enumerate(style.references)
        for strength in settings.strengths[: settings.per_reference]
    }
    by_name = {job.style: job for job in jobs.values()}
    folders = draw(bench, "candidates", by_name, sampler_of(settings.sampler), bench.config.train.resolution)
    found: dict[str, list[Candidate]] = {style: [] for style in bench.challenge.ids}
    for (style, number, _), job in jobs.items():
        paths = sorted(folders[job.style].glob("*.png"))
        found[style] += [Candidate(number, path) for path in paths]
    return found


def _job(bench: Bench, style: str, number: int, reference: Reference, strength: float) -> StyleDrawJob:
    settings, seed = bench.config.method.blend.coarse.candidates, bench.config.train.seed
    prompt = bench.wording.shared(settings.prompt, reference.object)
    negative = settings.negative_prompt if settings.sampler.guidance_scale > 1.0 else ""
    turn, turns = settings.strengths.index(strength), len(settings.strengths)
    pictures = tuple(
        PictureSpec(
            f"{n:03d}.png",
            prompt,
            negative,
            draws.picture_seed(seed, style, f"{reference.path.stem} candidate {n}"),
        )
        for n in range(turn, settings.per_reference, turns)
    )
    init = InitSpec(reference.path, strength)
    return StyleDrawJob(style=f"{style} {number} {turn}", adapter=None, pictures=pictures, init=init)


def _kept(bench: Bench, candidates: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    """The `keep` best candidates of each reference; all of them where nobody can judge."""
    settings, judges = bench.config.method.blend.coarse.candidates, bench.config.evaluation.judges
    if settings.keep >= settings.per_reference:
        return dict(candidates)
    if judges == NONE:
        log.warning(
            "evaluation=none: no judge to choose %d of %d candidates, so all are learnt from",
            settings.keep,
            settings.per_reference,
        )
        return dict(candidates)
    from evaluation.weights import locate

    digest = locate(judges_of(bench.config.evaluation))["clip_r"].digest
    contents = {
        style: {
            "candidates": [[one.reference, f"{one.path.parent.name}/{one.path.name}"] for one in some],
            "words": [reference.object.lower() for reference in bench.style(style).references],
            "keep": settings.keep,
            "judge": digest,
        }
        for style, some in candidates.items()
    }
    folders = make(bench, "kept", VERSION, contents, partial(_keep, bench, candidates))
    return {
        style: [Candidate(int(path.name.split("-")[0]), path) for path in sorted(folder.glob("*.png"))]
        for style, folder in folders.items()
    }


def _keep(
    bench: Bench, candidates: Mapping[str, list[Candidate]], styles: list[str], work: Path, publish: Publish
) -> None:
    """Write each style's chosen pictures, REFERENCE-CANDIDATE.png, and choice.json with everybody's marks."""
    import json

    judge = _TextJudge(bench)
    count = sum(len(candidates[style]) for style in styles)
    with (
        resting(),
        bench.progress.task("choosing", count) as task,
    ):  # the training that follows needs the card
        for style in styles:
            folder = work / style
            folder.mkdir()
            marks: dict[str, float] = {}
            for number, reference in enumerate(bench.style(style).references):
                some = [one for one in candidates[style] if one.reference == number]
                cosines = judge.marks([one.path for one in some], reference.object.lower())
                names = [f"{number:03d}-{one.path.name}" for one in some]
                marks |= dict(zip(names, cosines, strict=True))
                best = sorted(range(len(some)), key=lambda i: (-cosines[i], names[i]))
                for i in best[: bench.config.method.blend.coarse.candidates.keep]:
                    shutil.copyfile(some[i].path, folder / names[i])
                task.advance(len(some), style=style)
            write_text(folder / "choice.json", json.dumps(marks, indent=1))
            publish(style, folder)


class _TextJudge:
    """CLIP-R's network of the trial's judges: cosines between pictures and a word."""

    def __init__(self, bench: Bench):
        self.judges = seated(bench.config)

    def marks(self, paths: Sequence[Path], word: str) -> list[float]:
        """One cosine per picture."""
        from torch.nn.functional import normalize

        from evaluation.eyes import Glance
        from evaluation.pictures import as_picture

        text = normalize(self.judges.clip_r_texts.encode([word]).float(), dim=1)[0]
        with ThreadPoolExecutor(2) as pool:
            glance = Glance([as_picture(str(path), path) for path in paths], pool)
            rows = glance.rows(self.judges.clip_r, _first)
        return [float(cosine) for cosine in normalize(rows.float(), dim=1) @ text]


def _first(seen: Sequence[Any]) -> Any:
    return seen[0]
