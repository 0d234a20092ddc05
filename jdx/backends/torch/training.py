"""Training of all styles' adapters on one frozen base, pack by pack, with snapshots and exact restarts."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jdx.backends.base import AdapterSpec, OnLosses, OnSnapshot, TrainJob, TrainOutcome
from jdx.backends.samples import plan_passes, read_sources
from jdx.backends.state_files import LossLog, snapshot_folder
from jdx.backends.stops import Stops
from jdx.backends.torch import compile, memory, packs, snapshots, styleid
from jdx.backends.torch.adamw import StackedAdamW, adamw_
from jdx.backends.torch.adapters import Adapter
from jdx.backends.torch.batches import Drawer, drawn_ahead
from jdx.backends.torch.checks import check
from jdx.backends.torch.devices import memory_limit
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.ema import StackedEma
from jdx.backends.torch.memory import GIB
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
from jdx.backends.torch.repeatable import fixed_order, one_by_one
from jdx.backends.torch.replay import MOST_PASSES, Feed, as_they_are, recorded
from jdx.backends.torch.snapshots import AdapterState
from jdx.backends.torch.step import Step
from jdx.backends.torch.writer import HandOver, Work, Writer, writing
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
    with progress.task("training", total) as task, fixed_order(job.deterministic):
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
    mode: compile.Mode = "off"

    def run(self) -> None:
        queue = deque(self._compiled(self._plan()))
        while queue:
            pack = queue.popleft()
            again = self._attempt(pack)
            if again is not None:
                styleid.release()
                gc.collect()
                torch.cuda.empty_cache()
                queue.extendleft(reversed(again))

    def _compiled(self, plan: list[Pack]) -> list[Pack]:
        """Choose whether the passes are compiled; then all packs get one shape."""
        job, models = self.job, self.models
        if job.compile == "off" or job.deterministic or not any(a.unet.rank for a in job.adapters):
            return plan
        self.mode = compile.choose(job.compile, models.device)
        return plan if self.mode == "off" else packs.of_one_shape(plan)

    def _plan(self) -> list[Pack]:
        job, models = self.job, self.models
        try:
            return packs.plan(job, lambda: memory.budget(models.device), self._need)
        except torch.cuda.OutOfMemoryError as error:
            raise BackendError(
                f"{models.spec.path}: one training sample does not fit into the GPU's memory, "
                f"which other programs may be using; {error}"
            ) from error

    def _need(self, group: Sequence[AdapterSpec]) -> memory.Need:
        """What a group takes. Raises: BackendError where that is more than `backend.memory` for one sample already."""
        need, limit = measure(self.job, self.models, group), memory_limit(self.models.device)
        if limit is not None and need.sample + need.adapter > limit:
            raise BackendError(
                f"backend.memory = {limit / GIB:.3g} GiB: one training sample takes {need.sample / GIB:.3g} GiB and an "
                f"adapter {need.adapter / GIB:.3g} GiB; raise it, or lower train.resolution or the rank"
            )
        return need

    def _attempt(self, pack: Pack) -> list[Pack] | None:
        """Train a pack; returns what to train instead when memory or the compiler failed it."""
        try:
            apart = one_by_one(self.models.unet, len(pack.seats)) if self.job.deterministic else nullcontext()
            with (
                apart,
                compile.opened(self.models.unet, self.mode) as denoise,
                PackRun.opened(self, pack, denoise) as run,
            ):
                run.go()
            for style in run.styles:
                self.states.pop(style, None)  # not needed again, and large
        except torch.cuda.OutOfMemoryError as error:
            return self._smaller(pack, error)
        except Exception as error:
            if self.mode == "off" or not compile.is_failure(error):
                raise
            compile.give_up(error)
            self.mode = "off"
            return [pack]
        return None

    def _smaller(self, pack: Pack, error: Exception) -> list[Pack]:
        styles = ", ".join(adapter.style for adapter in pack.adapters)
        if self.job.deterministic:
            raise BackendError(
                f"out of GPU memory on styles {styles}; with train.deterministic a pass has a fixed number of samples, "
                f"{len(pack.seats) * pack.most} here: lower backend.micro_batch for all runs that are to agree; {error}"
            ) from error
        log.warning(
            "out of GPU memory on styles %s (%d samples a pass): halving; %s", styles, pack.most, error
        )
        return pack.smaller(self.failed)

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
    def opened(session: Session, pack: Pack, denoise: compile.Denoise) -> Iterator[PackRun]:
        """The pack, its adapters in the networks and restored; the networks are put back at the end."""
        job, models, seats = session.job, session.models, pack.seats
        texts, sources = read_sources(job, seats)
        dropout = KeyedDropout(job.dropout) if job.dropout else None
        with opened_parts(Making(job, models, seats, dropout)) as parts:
            captions = captions_of(models, texts, parts, alone=job.deterministic)
            step = Step(models, denoise, captions, parts, dropout)
            optimiser = StackedAdamW(
                {name: part.flat for name, part in parts.items()},
                knobs_of(job, seats, parts),
                change=compile.function(adamw_, session.mode),
            )
            plan = plan_passes(job.batch_size, job.accumulation, prior=pack.prior, most=pack.most)
            drawer = drawer_of(models, sources, plan)
            states = [session.state(a.style) for a in pack.adapters]
            if len({state.step if state else 0 for state in states}) > 1:
                raise RuntimeError("the styles of a pack stand at different steps; please report this")
            average = average_of(seats, parts)
            logs = [
                restore(state, k, adapter, parts, optimiser, average)
                for k, (state, adapter) in enumerate(zip(states, pack.adapters, strict=True))
            ]
            sums = torch.zeros(2, len(seats), dtype=torch.float64)
            sums[0, : len(logs)] = sums.new_tensor([x.pending for x in logs])
            sums[1, : len(logs)] = sums.new_tensor([x.count for x in logs])
            yield PackRun(session, pack, step, optimiser, average, drawer, logs, sums.to(models.device))

    @property
    def styles(self) -> list[str]:
        return [adapter.style for adapter in self.pack.adapters]

    def go(self) -> None:
        """From the restored step to the last snapshot, or until every style has failed."""
        job, end = self.session.job, max(self.session.job.snapshots)
        first, stops = self.optimiser.steps, Stops(job.snapshots, job.restart_points)
        with self._steps() as advance, drawn_ahead(self.drawer, first, end) as ahead, writing() as writer:
            for passes in ahead:
                learning = tuple(self.optimiser.learning)
                rates, done = self.optimiser.begin(self._factors()), self.optimiser.steps
                shares = rates.new_zeros(0) if self.average is None else self.average.shares(done)
                advance(Feed(passes, rates, shares), learning)
                writer.look()
                due = stops.due(done, busy=writer.busy)
                if due or done % job.log_every == 0:
                    self._report(done, end)
                    if due:
                        self._snapshot(done, writer)
                    if all(style in self.session.failed for style in self.styles):
                        break
                self.session.count(self.styles, done, self.shown)

    def _steps(self) -> AbstractContextManager[Callable[[Feed, tuple[str, ...]], None]]:
        """What runs the steps: a CUDA graph where one can be recorded."""
        device, plan = self.session.models.device, self.drawer.plan
        text = any(part.changes_text for part in self.step.parts.values())
        graphs = self.session.job.graphs and device.type == "cuda" and len(plan) <= MOST_PASSES and not text
        return (recorded if graphs else as_they_are)(self._advance, device)

    def _advance(self, feed: Feed, learning: tuple[str, ...]) -> None:
        """A step's work on the device: everything that changes is in `feed` or changed in place."""
        grads, losses = self.step(feed.passes, learning)
        alive = self.optimiser.update(grads, losses, feed.rates)
        self.sums += torch.stack([torch.where(alive, losses, 0.0), alive.to(losses.dtype)])
        if self.average is not None:
            self.average.take(feed.shares)

    def _factors(self) -> dict[str, float]:
        """The schedule's factor for each part that learns next; it begins with the part's window."""
        job, done = self.session.job, self.optimiser.steps
        windows = {name: self.step.parts[name].window for name in self.optimiser.learning}
        return {
            name: lr_factor(job.schedule, window.horizon(job.schedule_steps), done - window.start)
            for name, window in windows.items()
        }

    def _report(self, done: int, end: int) -> None:
        """Losses and failures after step `done`, in one wait."""
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

    def _snapshot(self, done: int, writer: Writer) -> None:
        """Copy what the adapters go on from, and have it written while they do. One that is not finite stops here."""
        writer.wait()  # before the copies, or the host would hold two snapshots
        rows = state_rows(self.step.parts, self.optimiser, self.average)
        finite = snapshots.finite(rows)
        copies = {name: row.to("cpu", copy=True) for name, row in rows.items()}
        works: list[Work] = []
        for k, style in enumerate(self.styles):
            if style in self.session.failed:
                continue
            if not finite[k]:
                self.optimiser.died_at[k] = done
                self._fail(k, done, "parameters")
                continue
            own = {name: copy[k] for name, copy in copies.items()}
            works.append(partial(self._write, k, done, own, self.logs[k]))
        writer.begin(works)

    def _write(self, k: int, done: int, rows: dict[str, Tensor], losses: LossLog) -> HandOver:
        """Write the snapshot of adapter k from copies of its rows. Called in a thread of the writer's, beside others':
        it reads nothing that steps change, and changes nothing that others read.
        """
        style, layout, keys = self.styles[k], {}, state_keys(self.pack.adapters[k])
        vectors: dict[str, Tensor] = {}
        results: dict[str, Any] = {}
        for name, part in trained(self.step.parts, k).items():
            layout[name] = part.layout(k)
            vectors |= {f"{name}.{key}": part.vector(k, rows[f"{name}.{key}"]) for key in keys}
            drawn_with = "ema" if "ema" in keys else "param"
            results[name] = part.result(k, rows[f"{name}.{drawn_with}"].float())
        state = AdapterState(done, vectors, layout, losses)
        adapter = Adapter(**results, metadata=self._metadata(k, done))
        folder = snapshot_folder(self.session.out, style, done)
        snapshots.save(folder, adapter, state)
        return partial(self._hand_over, style, state, folder)

    def _hand_over(self, style: str, state: AdapterState, folder: Path) -> None:
        self.session.states[style] = state
        self.session.on_snapshot(style, state.step, folder)

    def _metadata(self, k: int, done: int) -> dict[str, str | int]:
        adapter = self.pack.adapters[k]
        return {
            "base_model": self.session.models.spec.path,
            "style": adapter.style,
            "step": done,
            "seed": adapter.seed,
        }
