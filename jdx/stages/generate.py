"""Stage 3: draw every prompt of every style."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from data.challenge import load_picture
from data.faults import DataError
from jdx import draws
from jdx.backends.base import (
    BlendSpec,
    GenerateJob,
    InitSpec,
    PictureSpec,
    PlainPrompt,
    SamplerSpec,
    StyleDrawJob,
)
from jdx.digests import file_digest
from jdx.errors import ConfigError, Fault
from jdx.methods.average import average_picture
from jdx.stages.bench import Bench, Publish, make

log = logging.getLogger(__name__)

VERSION = 1

Seeds = dict[str, dict[str, int]]


def seeds_of(bench: Bench) -> Seeds:
    """{style: {prompt: seed}}: the trial's fixed ones, the others drawn from (seed, style, prompt)."""
    drawn = _drawn(bench, 0)
    return {style: {**some, **_known(bench.fixed_seeds, style, some)} for style, some in drawn.items()}


def candidate_seeds(bench: Bench, candidate: int) -> Seeds:
    """The seeds of further pictures to choose from, without the prompts whose seed is fixed."""
    open_ = {
        style: {
            prompt: seed for prompt, seed in some.items() if prompt not in bench.fixed_seeds.get(style, {})
        }
        for style, some in _drawn(bench, candidate).items()
    }
    return {style: some for style, some in open_.items() if some}


def fixed_seeds(bench: Bench) -> Seeds:
    """What `sampler.seeds` says, and a word on what of it is not drawn. Raises: ConfigError with every bad entry.

    Read once, before the trial writes anything: the file may be an earlier trial's in the same run folder.
    """
    path = bench.config.sampler.seeds
    fixed = read_seeds(Path(path)) if path is not None else {}
    _tell_unused(fixed, bench)
    return fixed


def _known(fixed: Mapping[str, Mapping[str, int]], style: str, drawn: Mapping[str, int]) -> dict[str, int]:
    return {prompt: seed for prompt, seed in fixed.get(style, {}).items() if prompt in drawn}


def _drawn(bench: Bench, candidate: int) -> Seeds:
    sampler = bench.config.sampler
    seed = bench.config.train.seed if sampler.seed is None else sampler.seed
    return {
        style.id: {
            prompt.text: draws.picture_seed(seed, style.id, prompt.text, candidate)
            for prompt in style.prompts
        }
        for style in bench.challenge.styles
    }


def _tell_unused(fixed: Seeds, bench: Bench) -> None:
    """Say which seeds of the file name no picture of this trial: a misspelt prompt would silently get another seed."""
    drawn = {style.id: {prompt.text for prompt in style.prompts} for style in bench.challenge.styles}
    prompts = sorted(f"{s}/{p}" for s, some in fixed.items() if s in drawn for p in some if p not in drawn[s])
    for what, names in (("prompts", prompts), ("styles", sorted(fixed.keys() - drawn.keys()))):
        if names:
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            log.warning(
                "sampler.seeds names %d %s that this trial does not draw: %s", len(names), what, shown
            )


def read_seeds(path: Path) -> Seeds:
    """Read a seeds.json: {style: {prompt: seed}}, or {style: [[prompt, seed], ...]} as contest entries wrote it.

    Raises ConfigError that lists every bad entry.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError([Fault("sampler.seeds", str(path), f"cannot be read as JSON: {error}")]) from None
    faults: list[Fault] = []
    seeds: Seeds = {}
    if not isinstance(content, dict):
        raise ConfigError([Fault("sampler.seeds", str(path), "must be an object {style: {prompt: seed}}")])
    for style, entries in content.items():
        pairs = entries.items() if isinstance(entries, dict) else entries
        try:
            items = [(prompt, seed) for prompt, seed in pairs]
        except (TypeError, ValueError):
            faults.append(
                Fault(
                    f"{path}: {style}", repr(entries)[:60], "must be {prompt: seed} or [[prompt, seed], ...]"
                )
            )
            continue
        for prompt, seed in items:
            if type(seed) is not int or not 0 <= seed < 2**63 or not isinstance(prompt, str):
                faults.append(
                    Fault(
                        f"{path}: {style}.{prompt}", repr(seed), "a seed is a whole number from 0 to 2^63 - 1"
                    )
                )
        seeds[style] = dict(items)
    if faults:
        raise ConfigError(faults)
    return seeds


def sampler_of(config: Any) -> SamplerSpec:
    """The sampler's record from any config section with a name, steps and guidance_scale."""
    return SamplerSpec(config.name, config.steps, config.guidance_scale)


def start_pictures(bench: Bench, styles: list[str], work: Path) -> dict[str, InitSpec]:
    """Where drawing starts, per style: nothing (noise), or the average of its references."""
    init = bench.config.method.init
    if init.picture == "none":
        return {}
    starts = {}
    for number, style in enumerate(styles):
        path = work / f"start-{number}.png"
        if init.picture == "average":
            references = [reference.path for reference in bench.style(style).references]
            average_picture(references, bench.config.sampler.resolution).save(path)
        else:
            path = start_path(init.picture, style)
        starts[style] = InitSpec(path, init.strength, init.posterior == "sample")
    return starts


def start_path(picture: str, style: str) -> Path:
    """The start picture of a style: {style} in the setting stands for its id."""
    return Path(picture.replace("{style}", style))


def start_faults(bench: Bench) -> list[Fault]:
    """Start pictures that are not there or cannot be read, each once."""
    picture = bench.config.method.init.picture
    if picture in {"none", "average"}:
        return []
    faults = []
    for path, style in {start_path(picture, style): style for style in bench.challenge.ids}.items():
        try:
            load_picture(path)
        except DataError as error:
            whose = f"style {style}: " if "{style}" in picture else ""
            faults.append(Fault("method.init.picture", str(path), f"{whose}{error.faults[0].what}"))
    return faults


@dataclass(frozen=True)
class Adapted:
    """What a style is drawn with: its adapter's folder, and its coarse branch's; None = the untouched base."""

    adapter: Path | None = None
    coarse: Path | None = None


def generate(bench: Bench, drawn: Mapping[str, Adapted], seeds: Seeds) -> dict[str, Path]:
    """{style: folder of PNGs} for {style: the adapters it is drawn with}."""
    sampler, lora = bench.config.sampler, bench.config.lora
    guided, enhancer = sampler.guidance_scale > 1.0, bench.config.method.enhancer
    adapted = bool(lora.unet.rank or lora.text_encoder.rank)  # else there is nothing that could be scaled
    with bench.store.workspace() as work:
        starts = start_pictures(bench, list(drawn), work)
        jobs = {
            style: StyleDrawJob(
                style=style,
                adapter=one.adapter,
                pictures=tuple(_picture(bench, style, prompt, n) for prompt, n in seeds[style].items()),
                init=starts.get(style),
                blend=_blend(bench, one.coarse),
                lora_scale=sampler.lora_scale if adapted and one.adapter is not None else 1.0,
                enhanced=enhancer.branches if enhancer.enabled and guided else "conditional",
            )
            for style, one in drawn.items()
            if style in seeds
        }
        return draw(bench, "generate", jobs, sampler_of(sampler), sampler.resolution)


def _picture(bench: Bench, style: str, prompt: str, seed: int) -> PictureSpec:
    """One picture; words that change nothing are left out, so that they are no part of its key.

    The file's name is the prompt as it stands, "Ice cream.png": the contest takes the wanted noun from there, and an
    underscore would be a noun of its own.
    """
    wording, method = bench.wording, bench.config.method
    guided, mixed = bench.config.sampler.guidance_scale > 1.0, method.prompts.origin_scale > 0.0
    negative = wording.negative(style) if guided else ""
    picture = PictureSpec(
        file=f"{prompt}.png", prompt=wording.prompt(style, prompt), negative_prompt=negative, seed=seed
    )
    if mixed:
        own = method.prompts.origin_negative
        other = negative if own is None or not guided else own
        plain = PlainPrompt(wording.plain(prompt), other, method.prompts.origin_scale)
        picture = replace(picture, plain=plain)
    if not method.blend.enabled:
        return picture
    coarse = method.blend.coarse
    return replace(
        picture,
        coarse_prompt=wording.fill(coarse.prompt, style, prompt),
        coarse_negative=coarse.negative_prompt if guided and coarse.negative_prompt is not None else negative,
    )


def _blend(bench: Bench, adapter: Path | None) -> BlendSpec | None:
    blend = bench.config.method.blend
    if not blend.enabled:
        return None
    return BlendSpec(
        c2f_layers=tuple(blend.c2f.layers),
        c2f_share=blend.c2f.share,
        f2c_layers=tuple(blend.f2c.layers),
        f2c_share=blend.f2c.share,
        adapter=adapter,
        lora_scale=blend.coarse.lora_scale if bench.config.lora.unet.rank else 1.0,  # of the UNet alone
    )


def draw(
    bench: Bench, stage: str, jobs: Mapping[str, StyleDrawJob], sampler: SamplerSpec, resolution: int
) -> dict[str, Path]:
    """Draw the jobs that the store lacks; used for prompts and for class pictures alike."""
    contents = {name: _content(job, sampler, resolution) for name, job in jobs.items()}

    def build(names: list[str], work: Path, publish: Publish) -> None:
        todo = tuple(jobs[name] for name in names)
        settings = bench.config.backend
        spec = GenerateJob(
            bench.model,
            sampler,
            resolution,
            todo,
            settings.draw_batch,
            settings.compile,
            settings.graphs == "auto",
        )
        bench.backend.generate(spec, work, bench.progress, publish)

    return make(bench, stage, VERSION, contents, build)


def _content(job: StyleDrawJob, sampler: SamplerSpec, resolution: int) -> dict[str, Any]:
    """What a style's pictures depend on. The style's name is not among it: an adapter is its own content."""
    init = (
        None
        if job.init is None
        else {
            "picture": file_digest(job.init.picture),
            "strength": job.init.strength,
            "sampled": job.init.sampled,
        }
    )
    blend = replace(job.blend, adapter=None) if job.blend is not None else None
    plain = replace(job, style="", adapter=None, init=None, blend=blend)
    return {
        "draw": asdict(plain),
        "adapter": _entry(job.adapter),
        "coarse_adapter": _entry(job.blend.adapter if job.blend is not None else None),
        "init": init,
        "sampler": asdict(sampler),
        "resolution": resolution,
    }


def _entry(adapter: Path | None) -> str | None:
    """A snapshot by its place in the store, which says all that it was made from."""
    return None if adapter is None else f"{adapter.parent.name}/{adapter.name}"
