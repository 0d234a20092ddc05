"""Training of all styles' adapters on one frozen base, pack by pack, with snapshots and exact restarts."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdx.backends.base import OnLosses, OnSnapshot, TrainJob, TrainOutcome
from jdx.backends.samples import plan_passes, read_sources
from jdx.backends.state_files import LossLog, snapshot_folder
from jdx.backends.torch import memory, packs, snapshots, styleid
from jdx.backends.torch.adamw import StackedAdamW
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.batches import Drawer, drawn_ahead
from jdx.backends.torch.checks import check
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.ema import StackedEma
from jdx.backends.torch.models import Models
from jdx.backends.torch.packs import Pack
from jdx.backends.torch.preparation import (
    Making,
    average_of,
    captions_of,
    drawer_of,
    knobs_of,
    measure,
    opened_parts,
    restore,
    state_keys,
    state_rows,
    trained,
)
from jdx.backends.torch.snapshots import AdapterState
from jdx.backends.torch.step import Step
from jdx.errors import BackendError
from jdx.methods.schedule import lr_factor
from jdx.progress import Progress, Task

log = logging.getLogger(__name__)


def train(
    job: TrainJob, models: Models, out: Path, progress: Progress, on_snapshot: OnSnapshot, on_losses: OnLosses
) -> TrainOutcome:
    """Train every adapter of the job to its last snapshot (see `Backend.train`).

    Styles train in packs of as many as fit; the results do not depend on the packs beyond rounding. A pack
    that runs out of GPU memory is halved and goes on from its last snapshot. A style whose numbers leave
    the finite ones stops alone and is reported in the outcome.
    Raises: ConfigError with all faults of the job; BackendError when not even one sample fits.
    """
    check(job, models, out)
    began = time.monotonic()
    total = (max(job.snapshots) - job.start_step) * len(job.adapters)
    with progress.task("training", total) as task:
        session = Session(job, models, out, on_snapshot, on_losses, task)
        session.run()
    return TrainOutcome(session.failed, time.monotonic() - began)


@dataclass
class Session:
    """What outlives a pack: states at the last snapshots, failures, and how far each style was counted and told."""

    job: TrainJob
    models: Models
    out: Path
    on_snapshot: OnSnapshot
    on_losses: OnLosses
    task: Task
    states: dict[str, AdapterState] = field(default_factory=dict)
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        queue = deque(self._plan())
        while queue:
            pack = queue.popleft()
            if not self._attempt(pack):
                styleid.release()
                gc.collect()
                torch.cuda.empty_cache()
                queue.extendleft(reversed(pack.smaller(self.failed)))

    def _plan(self) -> list[Pack]:
        job, models = self.job, self.models
        try:
            return packs.plan(
                job, lambda: memory.budget(models.device), lambda group: measure(job, models, group)
            )
        except torch.cuda.OutOfMemoryError as error:
            raise BackendError(
                f"{models.spec.path}: one training sample does not fit into the GPU's memory, "
                f"which other programs may be using; {error}"
            ) from error

    def _attempt(self, pack: Pack) -> bool:
        """Train a pack; False when the GPU's memory did not suffice."""
        try:
            with PackRun.opened(self, pack) as run:
                run.go()
            for style in run.styles:
                self.states.pop(style, None)  # not needed again, and large
        except torch.cuda.OutOfMemoryError as error:
            styles = ", ".join(adapter.style for adapter in pack.adapters)
            log.warning(
                "out of GPU memory on styles %s (%d samples a pass): halving; %s", styles, pack.most, error
            )
            return False
        return True

    def state(self, style: str) -> AdapterState | None:
        """Where a style continues: its last snapshot of this session, or the one to resume, or None."""
        if style not in self.states and style in self.job.resume:
            self.states[style] = snapshots.load(self.job.resume[style], self.job.start_step)
        return self.states.get(style)

    def count(self, styles: Sequence[str], done: int, loss: float | None) -> None:
        """Advance the display by the styles that reach step `done` for the first time."""
        fresh = [style for style in styles if self.counted.get(style, self.job.start_step) < done]
        self.counted.update(dict.fromkeys(fresh, done))
        if fresh:
            self.task.advance(len(fresh), **({} if loss is None else {"loss": loss}))

    def tell(self, done: int, means: Mapping[str, float]) -> None:
        """Hand over the mean losses that were not yet: a pack that ran out of memory repeats some steps."""
        fresh = {style: mean for style, mean in means.items() if self.told.get(style, 0) < done}
        self.told.update(dict.fromkeys(fresh, done))
        if fresh:
            self.on_losses(done, fresh)


@dataclass
class PackRun:
    """One pack in training. Row k of every tensor is the k-th adapter of the pack."""

    session: Session
    pack: Pack
    step: Step
    optimiser: StackedAdamW
    average: StackedEma | None
    drawer: Drawer
    logs: list[LossLog]
    sums: Tensor  # (2, K) float64: summed losses and steps of the unfinished window
    shown: float | None = None

    @staticmethod
    @contextmanager
    def opened(session: Session, pack: Pack) -> Iterator[PackRun]:
        """The pack, its adapters in the networks and restored; the networks are put back at the end."""
        job, models = session.job, session.models
        texts, sources = read_sources(job, pack.adapters)
        dropout = KeyedDropout(job.dropout) if job.dropout else None
        with opened_parts(Making(job, models, pack.adapters, dropout)) as parts:
            step = Step(models, captions_of(models, texts, parts), parts, dropout)
            optimiser = StackedAdamW(
                {name: part.flat for name, part in parts.items()}, knobs_of(job, pack.adapters, parts)
            )
            plan = plan_passes(job.batch_size, job.accumulation, prior=pack.prior, most=pack.most)
            drawer = drawer_of(models, sources, plan)
            states = [session.state(a.style) for a in pack.adapters]
            if len({state.step if state else 0 for state in states}) > 1:
                raise RuntimeError("the styles of a pack stand at different steps; please report this")
            average = average_of(pack.adapters, parts)
            logs = [
                restore(state, k, adapter, parts, optimiser, average)
                for k, (state, adapter) in enumerate(zip(states, pack.adapters, strict=True))
            ]
            sums = torch.tensor([[x.pending for x in logs], [x.count for x in logs]], dtype=torch.float64)
            yield PackRun(session, pack, step, optimiser, average, drawer, logs, sums.to(models.device))

    @property
    def styles(self) -> list[str]:
        return [adapter.style for adapter in self.pack.adapters]

    def go(self) -> None:
        """From the restored step to the last snapshot, or until every style has failed."""
        job, end = self.session.job, max(self.session.job.snapshots)
        with drawn_ahead(self.drawer, self.optimiser.steps, end) as ahead:
            for passes in ahead:
                grads, losses = self.step(passes, self.optimiser.learning)
                alive = self.optimiser.step(grads, losses, self._factors())
                self.sums += torch.stack([torch.where(alive, losses, 0.0), alive.to(losses.dtype)])
                done = self.optimiser.steps
                if self.average is not None:
                    self.average.update(done)
                if (done % job.log_every == 0 or done in job.snapshots) and not self._report(done, end):
                    break
                self.session.count(self.styles, done, self.shown)

    def _factors(self) -> dict[str, float]:
        """The schedule's factor for each part that learns now; it begins with the part's window."""
        job, done = self.session.job, self.optimiser.steps
        windows = {name: self.step.parts[name].window for name in self.optimiser.learning}
        return {
            name: lr_factor(job.schedule, window.horizon(job.schedule_steps), done - window.start)
            for name, window in windows.items()
        }

    def _report(self, done: int, end: int) -> bool:
        """Losses, failures and snapshots after step `done`, in one wait; False when all styles have died."""
        sums, counts, died_at, by_loss = self._gather()
        for k, style in enumerate(self.styles):
            if died_at[k] and style not in self.session.failed:
                self._fail(k, int(died_at[k]), "loss" if by_loss[k] else "gradient")
        means = {style: sums[k] / counts[k] for k, style in enumerate(self.styles) if counts[k]}
        if means:
            self.shown = math.fsum(means.values()) / len(means)
        closes = done % self.session.job.log_every == 0
        if means and (closes or done == end):
            self.session.tell(done, means)
        for k, style in enumerate(self.styles):
            rows = self.logs[k].rows
            if closes and counts[k]:
                self.logs[k] = LossLog((*rows, (done, means[style])))
            else:
                self.logs[k] = LossLog(rows, sums[k], int(counts[k]))
        if closes:
            self.sums.zero_()
        if done in self.session.job.snapshots:
            self._snapshot(done)
        return any(style not in self.session.failed for style in self.styles)

    def _gather(self) -> tuple[list[float], ...]:
        fate = torch.stack([self.optimiser.died_at, self.optimiser.loss_died])
        return tuple(torch.cat([self.sums, fate.to(self.sums.dtype)]).tolist())

    def _fail(self, k: int, step: int, what: str) -> None:
        style = self.styles[k]
        self.session.failed[style] = (
            step,
            f"its {what} left the finite numbers; a lower learning rate may help",
        )
        log.warning("style %s stopped at step %d: %s", style, *self.session.failed[style])

    def _snapshot(self, done: int) -> None:
        rows = state_rows(self.step.parts, self.optimiser, self.average)
        rows = {name: row.cpu() for name, row in rows.items()}
        for k, style in enumerate(self.styles):
            if style not in self.session.failed:
                self._publish(k, done, {name: row[k] for name, row in rows.items()})

    def _publish(self, k: int, done: int, rows: dict[str, Tensor]) -> None:
        """Write the snapshot of adapter k from its rows on the CPU, and hand it over."""
        if not all(row.isfinite().all() for row in rows.values()):
            self.optimiser.died_at[k] = done
            return self._fail(k, done, "parameters")
        style, layout, keys = self.styles[k], {}, state_keys(self.pack.adapters[k])
        vectors: dict[str, Tensor] = {}
        results: dict[str, Any] = {}
        for name, part in trained(self.step.parts, k).items():
            layout[name] = part.layout(k)
            vectors |= {f"{name}.{key}": part.vector(k, rows[f"{name}.{key}"]) for key in keys}
            drawn_with = "ema" if "ema" in keys else "param"
            results[name] = part.result(k, rows[f"{name}.{drawn_with}"].float())
        state = AdapterState(done, vectors, layout, self.logs[k])
        adapter = Adapter(**results, metadata=self._metadata(k, done))
        folder = snapshot_folder(self.session.out, style, done)
        snapshots.save(folder, adapter, state)
        self.session.states[style] = state
        self.session.on_snapshot(style, done, folder)
        return None

    def _metadata(self, k: int, done: int) -> dict[str, str | int]:
        adapter = self.pack.adapters[k]
        return {
            "base_model": self.session.models.spec.path,
            "style": adapter.style,
            "step": done,
            "seed": adapter.seed,
        }
