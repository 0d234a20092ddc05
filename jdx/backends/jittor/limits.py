"""What the Jittor backends do not do: asked before anything starts, so that no trial finds out halfway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jdx.errors import Fault

if TYPE_CHECKING:
    from jdx.schema import TrialConfig


@dataclass(frozen=True)
class Limit:
    """A setting that the backend cannot serve. wanted: its value as text where the trial asks for it, else None."""

    key: str
    wanted: Callable[[TrialConfig], str | None]
    remedy: str


def _if(asked: bool, value: object = "true") -> str | None:
    return str(value).lower() if asked else None


TORCH = "is done by backend=torch only: "
LIMITS = (
    Limit(
        "backend.dtype",
        lambda trial: _if(trial.backend.dtype not in ("auto", "float32"), trial.backend.dtype),
        "Jittor computes in float32 here: auto or float32",
    ),
    Limit(
        "backend.devices",
        lambda trial: _if(trial.backend.devices not in ("auto", []), trial.backend.devices),
        TORCH + "sharing a trial's styles over several devices; auto or [], and one trial per device",
    ),
    Limit(
        "backend.compile",
        lambda trial: _if(trial.backend.compile not in ("auto", "off"), trial.backend.compile),
        "Jittor compiles in its own way: auto or off",
    ),
    Limit(
        "backend.memory",
        lambda trial: _if(trial.backend.memory > 0, trial.backend.memory),
        "Jittor keeps no limit: 0, and batch sizes (backend.micro_batch, backend.draw_batch) instead",
    ),
    Limit(
        "train.deterministic",
        lambda trial: _if(trial.train.deterministic),
        "equal bits are promised by backend=torch only: false",
    ),
    Limit(
        "lora.unet.dora",
        lambda trial: _if(trial.lora.unet.dora and trial.lora.unet.rank > 0 and trial.method.train),
        TORCH + "false",
    ),
    Limit(
        "lora.text_encoder.dora",
        lambda trial: _if(
            trial.lora.text_encoder.dora and trial.lora.text_encoder.rank > 0 and trial.method.train
        ),
        TORCH + "false",
    ),
    Limit(
        "method.blend.enabled",
        lambda trial: _if(trial.method.blend.enabled),
        TORCH + "false, a method without StyleBlend",
    ),
)


def _draws_class_pictures(trial: TrialConfig) -> bool:
    prior = trial.method.prior
    return trial.method.train and (prior.weight > 0 or prior.fraction is not None)


JDIFFUSION_SAMPLERS = ("ddim", "unipc")
RUNNER = "is not done by backend=jdiffusion, whose runner drives JDiffusion's pipeline: "
JDIFFUSION_LIMITS = (
    Limit(
        "lora.text_encoder.rank",
        lambda trial: _if(
            trial.method.train and trial.lora.text_encoder.rank > 0, trial.lora.text_encoder.rank
        ),
        RUNNER + "0, or backend=jittor",
    ),
    Limit(
        "lora.dropout",
        lambda trial: _if(trial.method.train and trial.lora.dropout > 0, trial.lora.dropout),
        RUNNER + "0, or backend=jittor",
    ),
    Limit(
        "train.ema_decay",
        lambda trial: _if(trial.train.ema_decay is not None, trial.train.ema_decay),
        RUNNER + "null, or backend=jittor",
    ),
    Limit(
        "optim.unet.start_step",
        lambda trial: _if(trial.optim.unet.start_step > 0, trial.optim.unet.start_step),
        RUNNER + "0, or backend=jittor",
    ),
    Limit(
        "method.enhancer.enabled",
        lambda trial: _if(trial.method.enhancer.enabled),
        RUNNER + "false, or backend=jittor",
    ),
    Limit(
        "method.tokens.vectors",
        lambda trial: _if(
            trial.method.train and trial.method.tokens.vectors > 0, trial.method.tokens.vectors
        ),
        RUNNER + "0, or backend=jittor",
    ),
    Limit(
        "method.styleid.enabled",
        lambda trial: _if(trial.method.styleid.enabled),
        RUNNER + "false, or backend=jittor",
    ),
    Limit(
        "method.init.picture",
        lambda trial: _if(trial.method.init.picture != "none", trial.method.init.picture),
        RUNNER + "none, or backend=jittor",
    ),
    Limit(
        "method.prompts.origin_scale",
        lambda trial: _if(trial.method.prompts.origin_scale > 0, trial.method.prompts.origin_scale),
        RUNNER + "0, or backend=jittor",
    ),
    Limit(
        "sampler.name",
        lambda trial: _if(trial.sampler.name not in JDIFFUSION_SAMPLERS, trial.sampler.name),
        RUNNER + "ddim or unipc",
    ),
    Limit(
        "method.prior.sampler.name",
        lambda trial: _if(
            _draws_class_pictures(trial) and trial.method.prior.sampler.name not in JDIFFUSION_SAMPLERS,
            trial.method.prior.sampler.name,
        ),
        RUNNER + "ddim or unipc",
    ),
)


def config_faults(trial: TrialConfig) -> list[Fault]:
    """One fault for each setting of a trial that its backend, jittor or jdiffusion, cannot serve."""
    limits = LIMITS if trial.backend.name == "jittor" else (*LIMITS, *JDIFFUSION_LIMITS)
    wanted = ((limit, limit.wanted(trial)) for limit in limits)
    return [Fault(limit.key, value, limit.remedy) for limit, value in wanted if value is not None]
