"""From the config's `tracker` group to a tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jdx.tracking.base import NoTracker, Tracker

if TYPE_CHECKING:
    from jdx import schema

NAMES = ("none", "wandb")


def make_tracker(config: schema.Tracker) -> Tracker:
    """The tracker that `config.name` asks for; `none` imports nothing. `ValueError` for other names."""
    if config.name == "none":
        return NoTracker()
    if config.name == "wandb":
        # Imported here: wandb takes a second to import and starts a service process.
        from jdx.tracking.wandb_tracker import WandbTracker

        return WandbTracker(config)
    raise ValueError(f"tracker.name is {config.name!r}; it must be one of: {', '.join(NAMES)}")
