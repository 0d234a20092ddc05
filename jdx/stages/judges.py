"""The judges in this process's memory: loaded once for all its trials, and off the card between two of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.challenge import ChallengeSet
from evaluation.formula import FID_NEEDS, fid_is_defined
from jdx.device_list import device_of, index_of
from jdx.schema import Evaluation, TrialConfig, plain
from jdx.words import counted

if (
    TYPE_CHECKING
):  # the judges bring torch: imported when they are needed, so that a wrong path is told at once
    import torch

    from evaluation import Judges, JudgeSpec

log = logging.getLogger(__name__)

NONE = "none"


@dataclass(frozen=True)
class _Seat:
    """A loaded set, what it was loaded as, and the device on which it judges."""

    key: str
    judges: Judges
    device: torch.device


_seat: list[_Seat] = []
"""One set at most: another's weights are memory that a model may need."""


def judges_of(settings: Evaluation) -> JudgeSpec:
    """The judge set of the config, with local weights where it points to some. Raises JudgesError."""
    from evaluation import JudgeSpec

    return JudgeSpec.named(settings.judges).pointed_at(plain(settings.networks))


def seated(config: TrialConfig) -> Judges:
    """The trial's judges, ready on their device; loaded unless the last ones had the same files, options and device.

    Raises: JudgesError.
    """
    from evaluation import load_judges
    from evaluation.weights import identity

    settings, device = config.evaluation, judges_device(config)
    spec = judges_of(settings)
    key = json.dumps([identity(spec), device, settings.fid_resize], sort_keys=True)
    if not (_seat and _seat[0].key == key):
        release()
        judges = load_judges(spec, device=device, fid_resize=settings.fid_resize)
        _seat.append(_Seat(key, judges, judges.device))
    awake()
    return _seat[0].judges


def awake() -> None:
    """The judges that are seated come back to their device, where they have left it."""
    for seat in _seat:
        try:
            seat.judges.to(seat.device)
        except Exception:  # no room on the card: half of them may be there
            release()
            raise


def judges_device(config: TrialConfig) -> str:
    """The device of the judges: the trial's own; the CPU where another framework has a card that PyTorch lacks."""
    device = device_of(config)
    if config.backend.name == "torch" or not device.startswith("cuda"):
        return device
    import torch

    there = torch.cuda.is_available() and index_of(device) < torch.cuda.device_count()
    return device if there else "cpu"


def say_device(config: TrialConfig) -> None:
    """Say it, before a trial spends its hours, where the judges cannot be on the trial's device."""
    device = device_of(config)
    if config.evaluation.judges != NONE and judges_device(config) != device:
        log.warning(
            "the judges score on the CPU: they need PyTorch, and this one has no %s (backend=%s does)",
            device,
            config.backend.name,
        )


def say_unscorable(config: TrialConfig, challenge: ChallengeSet) -> None:
    """Say it, before a trial spends its hours, where its set is too small for a final score."""
    pictures = sum(len(style.prompts) for style in challenge.styles)
    references = sum(len(style.references) for style in challenge.styles)
    if config.evaluation.judges != NONE and not fid_is_defined(pictures, references):
        log.warning(
            "there will be no final score: %s, and the styles of this trial have %s and %s in all",
            FID_NEEDS,
            counted(pictures, "prompt"),
            counted(references, "reference picture"),
        )


@contextmanager
def resting() -> Iterator[None]:
    """The judges leave their card when the block ends, whatever ended it; their weights wait in main memory."""
    try:
        yield
    finally:
        for seat in _seat:
            if seat.device.type != "cpu":
                import torch

                seat.judges.to(torch.device("cpu"))
                torch.cuda.empty_cache()


def release() -> None:
    """Forget the judges; their memory is free once the callers let go of theirs."""
    _seat.clear()
