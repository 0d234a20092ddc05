"""A sweep's study: asks for points, is told results, and counts the budget in trials, over all restarts.

The one place that talks to Optuna. Every step is safe to repeat, so that a controller may die between any two.
"""

from __future__ import annotations

import json
import logging
import math
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from jdx.errors import ConfigError, Fault
from sweeps.content import Content, check_same
from sweeps.plan import FIXED, UNCOUNTED, PlanSampler
from sweeps.space import Space, Value

log = logging.getLogger(__name__)

CONTENT = "jdx:content"
OWNER = "jdx:owner"
AGAIN = "jdx:again"  # of a point that is run once more: the number of the trial that was given up
PRUNED = "jdx:pruned"
REASON = "jdx:reason"
RECORD = "jdx:record"  # attempts, seconds, gpu_seconds, run_dirs, repetitions: in one piece, since each write is a sync
WARM = "warm start"
VALUES = "jdx:values"  # of a result that is known from elsewhere, as long as it is being told
BLIND = (PlanSampler, optuna.samplers.RandomSampler, optuna.samplers.QMCSampler)
"""Samplers that do not learn from results."""
OWNER_STALE = 900.0
"""Seconds without a sign of life after which another host's controller is taken for dead."""
SIGN_EVERY = 60.0
COUNT_EVERY = 2.0


@dataclass(frozen=True)
class Ticket:
    """One point to be tried."""

    number: int
    trial_id: int
    params: Mapping[str, Value]


class Ledger:
    """The study of one sweep, for one controller.

    shared: whether other controllers may use the study at the same time (a database server).
    """

    def __init__(
        self, study: Study, storage: BaseStorage, space: Space, *, n_trials: int, owner: str, shared: bool
    ):
        self.study, self.storage, self.space = study, storage, space
        self.n_trials, self.owner, self.shared = n_trials, owner, shared
        self.study_id = storage.get_study_id_from_name(study.study_name)
        self.higher = [direction == StudyDirection.MAXIMIZE for direction in study.directions]
        self._signed = self._counted = 0.0
        self._begun = 0

    # --- budget ---------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they are now."""
        return self.storage.get_all_trials(self.study_id, deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """Trials that are part of the budget: finished, failed for good, running or waiting to be run."""
        return [trial for trial in self.trials() if UNCOUNTED not in trial.user_attrs]

    def tally(self) -> tuple[int, int]:
        """Finished (those that were stopped too) and failed trials of the budget."""
        states = [trial.state for trial in self.counted()]
        stopped = states.count(TrialState.PRUNED)
        return states.count(TrialState.COMPLETE) + stopped, states.count(TrialState.FAIL)

    def left(self) -> int:
        """How many more trials there are to be started. Counted anew now and then where others start some too."""
        fresh = self._counted and (not self.shared or time.monotonic() - self._counted < COUNT_EVERY)
        if not fresh:
            self._begun = sum(trial.state != TrialState.WAITING for trial in self.counted())
            self._counted = time.monotonic()
        return max(0, self.n_trials - self._begun)

    def is_running(self) -> bool:
        """Whether trials were begun, by anybody, and have not ended."""
        return bool(self.storage.get_all_trials(self.study_id, deepcopy=False, states=(TrialState.RUNNING,)))

    @property
    def may_look_ahead(self) -> bool:
        """Whether the next point may be asked for before a slot is free: no result could change it.

        Not where controllers share a study: a point that waits here could run there.
        """
        return not self.shared and isinstance(self.study.sampler, BLIND)

    # --- asking ---------------------------------------------------------------------------------------------------

    def ask(self, config: Any) -> Ticket | None:
        """The next point, or None when another controller took the last one."""
        trial = self.study.ask()
        if self.shared:
            self._attr(trial._trial_id, OWNER, self.owner)
        if (self.shared and self._is_surplus(trial.number)) or self._is_double(trial):
            self._attr(trial._trial_id, UNCOUNTED, "surplus")
            self.study.tell(trial.number, state=TrialState.FAIL)
            self._counted = 0.0
            return None
        self._begun += 1
        return Ticket(trial.number, trial._trial_id, self.space.suggest(trial, config))

    def _is_surplus(self, number: int) -> bool:
        """Numbers are given out by the database one by one, so all controllers agree on who came too late."""
        earlier = [trial for trial in self.counted() if trial.number < number]
        return len(earlier) >= self.n_trials

    def _is_double(self, trial: optuna.trial.Trial) -> bool:
        """Whether a point from the queue stands there twice, or its trial that was given up has ended after all."""
        asked = trial._cached_frozen_trial  # `user_attrs` would read it again
        attrs = asked.user_attrs
        mark = next((key for key in (AGAIN, WARM) if key in attrs), None)
        if mark is None:
            return False
        origin, trials = attrs[mark], self.trials()
        earlier = [one for one in trials[: trial.number] if UNCOUNTED not in one.user_attrs]
        same = [one for one in earlier if one.user_attrs.get(mark) == origin]
        if any(one.system_attrs.get(FIXED) == asked.system_attrs.get(FIXED) for one in same):
            return True
        if mark == WARM:
            return False
        first: FrozenTrial = trials[int(origin)]
        return first.state.is_finished() and UNCOUNTED not in first.user_attrs

    def unfinished(self, config: Any) -> list[Ticket]:
        """Trials that an earlier controller of this sweep began and did not end; their points are completed.

        Trials of another controller that has shown no sign of life for long are given up: they would repel the
        sampler for ever. A grid's points are put back, to be run once more. Call before the first `ask`.
        """
        tickets = []
        for frozen in self.storage.get_all_trials(self.study_id, states=(TrialState.RUNNING,)):
            owner = frozen.user_attrs.get(OWNER)
            if owner == self.owner or (not self.shared and owner is None):
                tickets.append(Ticket(frozen.number, frozen._trial_id, self._point(frozen, config)))
            elif not self.shared or self._is_dead(owner, frozen):
                self._abandon(frozen, config, f"its controller ({owner or 'unknown'}) is gone")
        return tickets

    def _point(self, frozen: FrozenTrial, config: Any) -> dict[str, Value]:
        """The whole point of a running trial; its controller may have died in the middle of choosing it."""
        return self.space.suggest(optuna.trial.Trial(self.study, frozen._trial_id), config)

    def _abandon(self, frozen: FrozenTrial, config: Any, reason: str) -> None:
        """End a dead controller's trial. A sampler asks for another point; a grid needs this very one.

        The point is put back before the trial is ended, so that a death in between loses nothing. Of two controllers
        that put back the same point the lower number counts: numbers are given out one by one.
        """
        if isinstance(self.study.sampler, PlanSampler):
            if not any(one.user_attrs.get(AGAIN) == frozen.number for one in self.trials()):
                self.study.enqueue_trial(self._point(frozen, config), user_attrs={AGAIN: frozen.number})
            reason += "; its point is run once more"
        self.give_up(frozen.number, reason)

    def _is_dead(self, owner: str | None, trial: FrozenTrial) -> bool:
        signs = self.storage.get_study_user_attrs(self.study_id)
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        last = float(signs.get(f"{OWNER}:{owner}", begun))
        return time.time() - max(last, begun) > OWNER_STALE

    def sign(self, config: Any) -> None:
        """Show the controllers of other hosts that this one lives, and look for those that no longer do."""
        if self.shared and time.monotonic() - self._signed > SIGN_EVERY:
            self.storage.set_study_user_attr(self.study_id, f"{OWNER}:{self.owner}", time.time())
            self._signed = time.monotonic()
            for frozen in self.storage.get_all_trials(self.study_id, states=(TrialState.RUNNING,)):
                owner = frozen.user_attrs.get(OWNER)
                if owner != self.owner and self._is_dead(owner, frozen):
                    self._abandon(frozen, config, f"its controller ({owner or 'unknown'}) is gone")

    # --- telling --------------------------------------------------------------------------------------------------

    def complete(
        self, ticket: Ticket, values: Sequence[float], attrs: Mapping[str, Any] | None = None
    ) -> None:
        """A trial has its values; finite ones only."""
        assert all(math.isfinite(value) for value in values)
        self._finish(ticket.number, ticket.trial_id, TrialState.COMPLETE, list(values), attrs or {})

    def fail(self, ticket: Ticket, reason: str, attrs: Mapping[str, Any]) -> None:
        """A trial failed for good; it counts."""
        self._finish(ticket.number, ticket.trial_id, TrialState.FAIL, None, {REASON: reason, **attrs})

    def stop(self, ticket: Ticket, reason: str, attrs: Mapping[str, Any]) -> None:
        """A trial was stopped before anything could be told of it; it counts, and never as best."""
        attrs = {**attrs, PRUNED: True, REASON: reason}
        self._finish(ticket.number, ticket.trial_id, TrialState.PRUNED, None, attrs)

    def settle(self, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        """End a trial whose result is known from elsewhere; values: None when another trial has the same result."""
        state = TrialState.FAIL if values is None else TrialState.COMPLETE
        attrs = {REASON: "another controller told the same result"} if values is None else {}
        self._finish(trial.number, trial._trial_id, state, list(values) if values else None, attrs)

    def give_up(self, number: int, reason: str) -> None:
        """A trial is ended without a result and is not counted."""
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, number)
        log.warning("trial %d is given up: %s", number, reason)
        self._counted = 0.0
        attrs = {UNCOUNTED: "abandoned", REASON: reason}
        self._finish(number, trial_id, TrialState.FAIL, None, attrs)

    def _finish(
        self,
        number: int,
        trial_id: int,
        state: TrialState,
        values: list[float] | None,
        attrs: Mapping[str, Any],
    ) -> None:
        """Told once: a trial that is finished already (by us before a crash) stays as it is."""
        if self.storage.get_trial(trial_id).state.is_finished():
            return
        for key, value in attrs.items():
            self._attr(trial_id, key, value)
        self.study.tell(number, values, state=state, skip_if_finished=True)

    def _attr(self, trial_id: int, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial_id, key, value)

    # --- intermediate scores --------------------------------------------------------------------------------------

    def report(self, ticket: Ticket, step: int, value: float) -> None:
        """A score of a running trial; the first one of a step stays."""
        if math.isfinite(value) and step not in self.storage.get_trial(ticket.trial_id).intermediate_values:
            self.storage.set_trial_intermediate_value(ticket.trial_id, step, value)

    def should_stop(self, ticket: Ticket) -> bool:
        """Whether the pruner has seen enough of a trial."""
        pruner: BasePruner = self.study.pruner
        return pruner.prune(self.study, self.storage.get_trial(ticket.trial_id))

    def steps(self, ticket: Ticket) -> dict[int, float]:
        """What was reported of a trial."""
        return self.storage.get_trial(ticket.trial_id).intermediate_values

    def estimate(self, seen: Mapping[int, float], of_best: Mapping[int, float]) -> float | None:
        """What a stopped trial would have scored: the best trial's score plus the mean difference where both were seen.

        seen, of_best: {step: score} of the trial and of the best one. Much closer than the mean of what was seen,
        since steps (styles) differ more than trials do. Never better than the best; None when nothing was seen, or
        with several objectives.
        """
        if not seen or len(self.higher) > 1:
            return None
        mean = sum(seen.values()) / len(seen)
        best = self.best()
        if best is None or best.value is None:
            return mean
        differences = [seen[step] - of_best[step] for step in seen if step in of_best]
        guess = best.value + sum(differences) / len(differences) if differences else mean
        return min(guess, best.value) if self.higher[0] else max(guess, best.value)

    # --- results --------------------------------------------------------------------------------------------------

    def ranked(self) -> list[FrozenTrial]:
        """Complete trials with one objective, best first; those that were stopped early come after all others."""
        done = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        sign = -1.0 if self.higher[0] else 1.0
        return sorted(done, key=lambda t: (bool(t.user_attrs.get(PRUNED)), sign * t.values[0], t.number))

    def best(self) -> FrozenTrial | None:
        """The best trial that ran to its end."""
        return next((trial for trial in self.ranked() if not trial.user_attrs.get(PRUNED)), None)

    def front(self) -> list[FrozenTrial]:
        """With several objectives: the trials that no other one beats in all of them."""
        done = [t for t in self.ranked() if not t.user_attrs.get(PRUNED)]

        def beats(a: FrozenTrial, b: FrozenTrial) -> bool:
            pairs = [
                (x, y) if higher else (-x, -y)
                for x, y, higher in zip(a.values, b.values, self.higher, strict=True)
            ]
            return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

        return [one for one in done if not any(beats(other, one) for other in done)]


def open_study(
    name: str,
    storage: BaseStorage,
    directions: Sequence[str],
    content: Content,
    *,
    sampler: BaseSampler,
    pruner: BasePruner | None,
    where: str,
) -> Study:
    """The study of this name, made if there is none. Raises: ConfigError when it is about something else."""
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=[StudyDirection[direction.upper()] for direction in directions],
        sampler=sampler,
        pruner=pruner or optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    study_id = storage.get_study_id_from_name(name)
    known = storage.get_study_user_attrs(study_id).get(CONTENT)
    if known is None and storage.get_all_trials(study_id, deepcopy=False):
        remedy = "holds trials that this program did not start; start from them with hydra.sweeper.warm_start=[...]"
        raise ConfigError([Fault("hydra.sweeper.study_name", name, remedy)], what="sweep")
    if known is not None:
        check_same(json.loads(known), content, where)
    else:
        storage.set_study_user_attr(study_id, CONTENT, json.dumps(content.plain(), ensure_ascii=False))
    return study


def owner_name(folder: Path) -> str:
    """Who writes a sweep's trials: this machine and this folder, the same after a restart."""
    return f"{socket.gethostname()}:{folder.absolute()}"
