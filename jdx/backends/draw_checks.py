"""Faults of a drawing or a StyleID job that any backend can see from its numbers, names and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jdx.backends.base import GenerateJob, StyleDrawJob, StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.errors import Fault


def drawing_faults(job: GenerateJob, vae_factor: int) -> list[Fault]:
    """What cannot be drawn: bad sizes, names that overwrite each other, missing adapters or starts."""
    faults = []
    if job.resolution % vae_factor or job.resolution <= 0:
        allowed = f"a positive multiple of {vae_factor}, the VAE's factor"
        faults.append(Fault("resolution", str(job.resolution), allowed))
    if job.sampler.guidance_scale < 0:
        faults.append(Fault("sampler.guidance_scale", str(job.sampler.guidance_scale), "0 or more; 1 is off"))
    for name, count in Counter(style.style for style in job.styles).items():
        if count > 1:
            faults.append(Fault(f"style {name}", f"{count} times", "each style once"))
    for style in job.styles:
        faults += _style_faults(style)
    return list(dict.fromkeys(faults))


def _style_faults(style: StyleDrawJob) -> list[Fault]:
    files = Counter(picture.file.casefold() for picture in style.pictures)
    found = [
        Fault(f"style {style.style}", file, f"drawn {count} times: each file name once, whatever its case")
        for file, count in files.items()
        if count > 1
    ]
    if style.adapter is not None and not style.adapter.exists():
        found.append(Fault(f"style {style.style}: adapter", str(style.adapter), "is not there"))
    if style.init is not None and not style.init.picture.is_file():
        found.append(Fault(f"style {style.style}: init.picture", str(style.init.picture), "is not a file"))
    return found + _blend_faults(style)


def _blend_faults(style: StyleDrawJob) -> list[Fault]:
    if (blend := style.blend) is None:
        return []
    found = [
        Fault(f"style {style.style}: blend.{name}", str(share), "a share of the steps, 0 to 1")
        for name, share in (("c2f.share", blend.c2f_share), ("f2c.share", blend.f2c_share))
        if not 0 <= share <= 1
    ]
    if blend.adapter is not None and not blend.adapter.exists():
        found.append(Fault(f"style {style.style}: blend.adapter", str(blend.adapter), "is not there"))
    return found


def stylising_faults(job: StyliseJob, vae_factor: int) -> list[Fault]:
    """Every fault of the job but those of its layers and of steps that the model does not have."""
    faults = [*_styleid_numbers(job.spec), *_sizes(job, vae_factor), *_style_names(job)]
    for style in job.styles:
        faults += _pictures(style)
    return faults


def _styleid_numbers(spec: StyleIdSpec) -> Iterator[Fault]:
    if not 0 <= spec.gamma <= 1:
        yield Fault("gamma", str(spec.gamma), "the share of the content's queries; must be in [0, 1]")
    if not 0 < spec.temperature < float("inf"):
        yield Fault(
            "temperature", str(spec.temperature), "must be above 0; 1.5 in the paper, 1 changes nothing"
        )
    if not 0 <= spec.start_step <= spec.steps:
        yield Fault("start_step", str(spec.start_step), f"must be in [0, steps = {spec.steps}]")


def _sizes(job: StyliseJob, vae_factor: int) -> Iterator[Fault]:
    if job.resolution < vae_factor or job.resolution % vae_factor:
        yield Fault("resolution", str(job.resolution), f"must be a positive multiple of {vae_factor} pixels")
    if job.batch_size < 0:
        yield Fault("batch_size", str(job.batch_size), "must be at least 0 (0 = chosen by memory)")


def _style_names(job: StyliseJob) -> Iterator[Fault]:
    for name, count in Counter(style.style for style in job.styles).items():
        if count > 1:
            yield Fault("styles", name, f"given {count} times; each style is one folder of results")


def _pictures(style: StyleStyliseJob) -> Iterator[Fault]:
    count = len(style.references)
    for file, times in Counter(file.casefold() for file in style.contents).items():
        if times > 1:
            yield Fault(f"{style.style}.contents", file, f"{times} times: each file once, whatever its case")
    for file, (_, which) in style.contents.items():
        if not 0 <= which < count:
            yield Fault(
                f"{style.style}.contents.{file}", f"reference {which}", f"there are {count}, counted from 0"
            )
    wanted: list[Path] = [*style.references, *(picture for picture, _ in style.contents.values())]
    for picture in dict.fromkeys(wanted):
        if not picture.is_file():
            yield Fault(f"{style.style}", str(picture), "there is no such picture")
