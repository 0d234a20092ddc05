"""All faults of a StyleID job, found before a picture is touched."""

from __future__ import annotations

from jdx.backends.base import StyliseJob
from jdx.backends.draw_checks import stylising_faults
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
    faults = stylising_faults(job, models.vae_factor)
    layers: tuple[str, ...] = ()
    try:
        levels_of(models, job.spec.steps)
    except ValueError as error:
        faults.append(Fault("steps", str(job.spec.steps), str(error)))
    try:
        layers = resolve_layers(models.unet, job.spec.layers)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults, "StyleID job")
    return layers
