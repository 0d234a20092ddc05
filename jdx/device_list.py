"""Which devices a trial's styles are shared among."""

from __future__ import annotations

from jdx.errors import Fault
from jdx.schema import TrialConfig


def devices_of(config: TrialConfig) -> list[str]:
    """The devices that share a trial's styles; one or none: nothing is shared."""
    settings = config.backend
    if settings.name != "torch":  # one worker computes
        return [settings.device]
    if settings.devices != "auto":
        return list(settings.devices)
    if settings.device != "auto":
        return [settings.device]
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def device_of(config: TrialConfig) -> str:
    """The device that this process itself computes with, judges included: the first of a trial's devices."""
    devices = devices_of(config)
    return devices[0] if devices else config.backend.device


def device_faults(config: TrialConfig) -> list[Fault]:
    """Devices of the list that are not on this machine; one named alone is the backend's to refuse."""
    settings = config.backend
    listed = devices_of(config) if settings.name == "torch" and settings.devices != "auto" else []
    cards = [name for name in dict.fromkeys(listed) if name.startswith("cuda:")]
    if not cards:
        return []
    import torch

    count = torch.cuda.device_count()
    there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    return [
        Fault("backend.devices", name, f"is not on this machine; there are: {there}")
        for name in cards
        if index_of(name) >= count
    ]


def index_of(device: str) -> int:
    """N of cuda:N, 0 of cuda."""
    return int(device.partition(":")[2] or 0)
