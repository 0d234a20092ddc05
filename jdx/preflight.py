"""What every trial of a sweep would stop at, told once and before the first of them.

A sweep asks with the configurations of some of its points. What is wrong at all of them has nothing to do with what is
searched; what is wrong at some is a matter of those trials. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from data.faults import DataError
from data.faults import Fault as DataFault
from jdx import validation
from jdx.backends import make_backend, settings_of
from jdx.backends.base import ModelSpec
from jdx.backends.torch.hub import spec_faults
from jdx.errors import ConfigError, Fault
from jdx.schema import TrialConfig, plain
from jdx.stages.score import check_judges
from jdx.store import Store
from jdx.trial import read_set

log = logging.getLogger(__name__)

AnyFault = Fault | DataFault
Look = Callable[[TrialConfig, bool], Sequence[AnyFault]]
"""(trial, here) -> faults."""
ELSEWHERE = (
    "this machine sees what follows; the sweep goes on, since its trials may run where all is well:\n{}"
)
NONE_STARTED = "Every trial would end so: none was started."


class EveryTrialError(ConfigError):
    """What every trial of a sweep would say: `faults` of its settings, `data` of its data set."""

    def __init__(self, faults: Sequence[AnyFault]):
        super().__init__([fault for fault in faults if isinstance(fault, Fault)])
        self.data = tuple(fault for fault in faults if isinstance(fault, DataFault))
        self.args = (f"{_words(faults)}\n{NONE_STARTED}",)


def check(points: Iterable[DictConfig], *, here: bool) -> list[str]:
    """Look at a sweep's settings, data set, model, judges and store as its trials will.

    points: configurations of trials, interpolations as written; they are asked for one by one, and only until all
    is seen to be well at one of them; those with faulty settings tell nothing of the rest. here: whether the trials run
    on this machine. Returns what is to be said where they may see other disks. Raises: EveryTrialError.
    """
    settings, places = _Shared(), [_Place(*one) for one in LOOKS]
    for point in points:
        try:
            trial = _trial(point, files=here)
        except ConfigError as error:
            settings.see(error.faults)
            continue
        except OmegaConfBaseException:  # it may be something that only a job knows, such as its number
            return []
        settings.see(())
        for place in places:
            place.look_at(trial, here)
        if all(place.clean for place in places):
            return []
    if settings.faults:
        raise EveryTrialError(settings.faults)
    faults = [fault for place in places for fault in place.faults or ()]
    if faults and here:
        raise EveryTrialError(faults)
    return [ELSEWHERE.format(_words(faults))] if faults else []


class _Shared:
    """Faults that all points have which were looked at; None: there was none yet."""

    def __init__(self) -> None:
        self.faults: list[AnyFault] | None = None

    def see(self, found: Sequence[AnyFault]) -> None:
        before = found if self.faults is None else self.faults
        self.faults = [fault for fault in before if fault in found]


class _Place(_Shared):
    """What is wrong with one of the things that trials read or write."""

    def __init__(self, look: Look, part: Callable[[TrialConfig], Any]) -> None:
        super().__init__()
        self._look, self._part = look, part
        self._seen: dict[str, Sequence[AnyFault]] = {}

    @property
    def clean(self) -> bool:
        return self.faults == []

    def look_at(self, trial: TrialConfig, here: bool) -> None:
        """Once for all points that are equal in what counts here, and not at all when nothing is shared any more."""
        if self.clean:
            return
        key = json.dumps(self._part(trial), sort_keys=True)
        if key not in self._seen:
            self._seen[key] = self._look(trial, here)
        self.see(self._seen[key])


def _trial(point: DictConfig, *, files: bool) -> TrialConfig:
    """Raises: ConfigError; OmegaConfBaseException where an interpolation leads nowhere."""
    resolved, written = (validation.nested(point, resolve=resolve) for resolve in (True, False))
    return validation.build(resolved, validation.borrowed(written), files=files)


def _data(trial: TrialConfig, here: bool) -> Sequence[AnyFault]:
    """Reads the whole set, as each trial does; the sample set is drawn, once for all trials."""
    if trial.data.name == "sample" and not here and not Path(trial.data.root).exists():
        return []  # the first trial draws it, where that is
    try:
        read_set(trial)
    except (DataError, ConfigError) as error:
        return error.faults
    except OSError as error:  # a full disk, a server that is away: trials wait for it, or tell it
        log.debug("the data set cannot be looked at: %s", error)
    return []


def _model(trial: TrialConfig, here: bool) -> Sequence[AnyFault]:
    model = ModelSpec(trial.model.path, trial.model.revision, trial.model.variant)
    if trial.backend.name == "torch":  # its class would bring PyTorch
        faults, texts = [], spec_faults(model)
    else:
        backend = make_backend(trial.backend.name, **settings_of(trial, trial.backend.device))
        faults, texts = backend.setup_faults(), backend.check(model)
    return [*faults, *(Fault("model.path", trial.model.path, text) for text in texts)]


def _judges(trial: TrialConfig, here: bool) -> Sequence[AnyFault]:
    absent = any(fault.key.startswith("evaluation.") for fault in validation.file_faults(trial))
    return [] if absent else check_judges(trial.evaluation, fetch=False)


def _files(trial: TrialConfig, here: bool) -> Sequence[AnyFault]:
    """Files that settings name; of trials on this machine they are looked for with the settings."""
    return [] if here else validation.file_faults(trial)


def _store(trial: TrialConfig, here: bool) -> Sequence[AnyFault]:
    """Opens it, which makes the folder: not where its disk may be another machine's."""
    try:
        if here:
            Store(trial.store.root)
    except ConfigError as error:
        return error.faults
    return []


LOOKS: Sequence[tuple[Look, Callable[[TrialConfig], Any]]] = (
    (_data, lambda trial: plain(trial.data)),
    (_model, lambda trial: [plain(trial.model), plain(trial.backend)]),
    (_judges, lambda trial: plain(trial.evaluation)),
    (_files, lambda trial: [trial.sampler.seeds, trial.method.init.picture, plain(trial.evaluation)]),
    (_store, lambda trial: trial.store.root),
)
"""Ways to look, and the part of a trial's settings that each of them depends on."""


def _words(faults: Sequence[AnyFault]) -> str:
    """As a single trial tells them."""
    own = [fault for fault in faults if isinstance(fault, Fault)]
    data = [fault for fault in faults if isinstance(fault, DataFault)]
    return "\n".join([*([str(ConfigError(own))] if own else []), *([str(DataError(data))] if data else [])])
