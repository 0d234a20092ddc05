"""Stage 4 (optional): StyleID redraws the pictures with the attention of the references."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from jdx import draws
from jdx.backends.base import StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.digests import file_digest
from jdx.errors import Fault
from jdx.schema import MOST_SIMILAR
from jdx.stages.bench import Bench, Publish, make
from jdx.stages.nearest import nearest

VERSION = 1


def stylise(bench: Bench, pictures: Mapping[str, Path]) -> dict[str, Path]:
    """{style: folder of redrawn PNGs} for {style: folder of content PNGs}."""
    settings = bench.config.method.styleid
    spec = StyleIdSpec(
        layers=tuple(settings.layers),
        gamma=settings.gamma,
        temperature=settings.temperature,
        steps=settings.steps,
        start_step=settings.start_step,
        adain=settings.adain,
    )
    resolution = bench.config.sampler.resolution
    near = nearest(bench, pictures) if settings.reference == MOST_SIMILAR else {}
    jobs = {style: _job(bench, style, folder, near.get(style, {})) for style, folder in pictures.items()}
    contents = {
        style: {
            "spec": asdict(spec),
            "resolution": resolution,
            "references": [file_digest(path) for path in job.references],
            "contents": [[file, file_digest(path), index] for file, (path, index) in job.contents.items()],
        }
        for style, job in jobs.items()
    }

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        todo = tuple(jobs[style] for style in styles)
        settings = bench.config.backend
        bench.backend.stylise(
            StyliseJob(
                bench.model,
                spec,
                resolution,
                todo,
                settings.draw_batch,
                settings.compile,
                settings.graphs == "auto",
            ),
            work,
            bench.progress,
            publish,
        )

    return make(bench, "stylise", VERSION, contents, build)


def reference_faults(bench: Bench) -> list[Fault]:
    """Styles that have no reference of the index asked for."""
    which = bench.config.method.styleid.reference
    if not bench.config.method.styleid.enabled or not isinstance(which, int):
        return []
    return [
        Fault(
            "method.styleid.reference",
            str(which),
            f"style {style.id} has references 0 to {len(style.references) - 1}",
        )
        for style in bench.challenge.styles
        if not 0 <= which < len(style.references)
    ]


def _job(bench: Bench, style: str, folder: Path, nearest_of: Mapping[str, int]) -> StyleStyliseJob:
    references = tuple(reference.path for reference in bench.style(style).references)
    contents = {
        picture.name: (
            picture,
            _reference(bench, style, place, len(references), nearest_of.get(prompt.text, 0)),
        )
        for place, prompt in enumerate(bench.style(style).prompts)
        if (picture := folder / f"{prompt.text}.png").is_file()  # of a candidate, perhaps only some are there
    }
    return StyleStyliseJob(style, references, contents)


def _reference(bench: Bench, style: str, place: int, count: int, near: int) -> int:
    """Which reference the picture at `place` takes its style from."""
    which = bench.config.method.styleid.reference
    if isinstance(which, int):
        return which
    if which == "rotate":
        return place // bench.config.method.styleid.reference_every % count
    if which == "random":
        return draws.integer(count, bench.config.train.seed, style, place, "styleid reference")
    if which == "random_per_style":
        return draws.integer(count, bench.config.train.seed, style, "styleid reference")
    return near
