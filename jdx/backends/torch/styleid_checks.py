"""All faults of a StyleID job, found before a picture is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from jdx.backends.base import StyleIdSpec, StyleStyliseJob, StyliseJob
from jdx.backends.torch.models import Models
from jdx.backends.torch.styleid_layers import resolve_layers
from jdx.errors import ConfigError, Fault
from jdx.methods.styleid import Levels, ddim_levels


def levels_of(models: Models, steps: int) -> Levels:
    """DDIM's levels with the model's own scheduler settings; what its file leaves out is as in diffusers."""
    config = models.scheduler_config
    return ddim_levels(
        models.alphas_cumprod,
        steps,
        steps_offset=int(config.get("steps_offset", 1)),
        set_alpha_to_one=bool(config.get("set_alpha_to_one", True)),
    )


def check(job: StyliseJob, models: Models) -> tuple[str, ...]:
    """The full paths of the job's layers.

    Raises: ConfigError with every fault of the job.
    """
    faults = [*_numbers(job.spec), *_sizes(job, models), *_names(job)]
    layers: tuple[str, ...] = ()
    try:
        levels_of(models, job.spec.steps)
    except ValueError as error:
        faults.append(Fault("steps", str(job.spec.steps), str(error)))
    try:
        layers = resolve_layers(models.unet, job.spec.layers)
    except ConfigError as error:
        faults += error.faults
    for style in job.styles:
        faults += _pictures(style)
    if faults:
        raise ConfigError(faults, "StyleID job")
    return layers


def _numbers(spec: StyleIdSpec) -> Iterator[Fault]:
    if not 0 <= spec.gamma <= 1:
        yield Fault("gamma", str(spec.gamma), "the share of the content's queries; must be in [0, 1]")
    if not 0 < spec.temperature < float("inf"):
        yield Fault(
            "temperature", str(spec.temperature), "must be above 0; 1.5 in the paper, 1 changes nothing"
        )
    if not 0 <= spec.start_step <= spec.steps:
        yield Fault("start_step", str(spec.start_step), f"must be in [0, steps = {spec.steps}]")


def _sizes(job: StyliseJob, models: Models) -> Iterator[Fault]:
    factor = models.vae_factor
    if job.resolution < factor or job.resolution % factor:
        yield Fault("resolution", str(job.resolution), f"must be a positive multiple of {factor} pixels")
    if job.batch_size < 0:
        yield Fault("batch_size", str(job.batch_size), "must be at least 0 (0 = chosen by memory)")


def _names(job: StyliseJob) -> Iterator[Fault]:
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
