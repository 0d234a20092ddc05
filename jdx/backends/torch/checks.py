"""All faults of a training job, found before anything is computed."""

from __future__ import annotations

from pathlib import Path

from jdx.backends.base import TrainJob
from jdx.backends.torch.models import Models
from jdx.backends.torch.stacked import target_faults
from jdx.backends.torch.tokens import token_faults
from jdx.backends.train_checks import training_faults
from jdx.errors import ConfigError


def check(job: TrainJob, models: Models, out: Path) -> None:
    """Raise one ConfigError with every fault of the job."""
    faults = training_faults(job, models.latent_channels, out)
    faults += target_faults(models.unet, [a.unet for a in job.adapters], "unet")
    faults += target_faults(models.text_encoder, [a.text_encoder for a in job.adapters], "text_encoder")
    faults += token_faults(models.tokenizer, [a.tokens for a in job.adapters if a.tokens])
    if faults:
        raise ConfigError(faults, "training job")
