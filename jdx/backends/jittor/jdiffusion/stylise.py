"""StyleID is not among what JDiffusion's runner does."""

from __future__ import annotations

from pathlib import Path

from jdx.backends.base import StyliseJob
from jdx.backends.jittor.worker.tell import Tell
from jdx.errors import ConfigError, Fault


def run(job: StyliseJob, out: Path, tell: Tell) -> None:
    """Refuse. Raises: ConfigError always; a trial is told before it starts (`limits.config_faults`)."""
    allowed = "StyleID is done by backend=torch and backend=jittor"
    raise ConfigError([Fault("method.styleid.enabled", "true", allowed)], "stylising job")
