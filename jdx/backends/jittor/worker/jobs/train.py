"""Training of all styles' adapters on one frozen base in Jittor, pack by pack, with snapshots and exact restarts.

What a step is, what it sees and what is written are the torch backend's, so a snapshot made there goes on here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt

from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.jittor.worker.jobs.adamw import Knobs, StackedAdamW
from jdx.backends.jittor.worker.jobs.levels import alphas_cumprod, read_config
from jdx.backends.jittor.worker.jobs.parts import Part, opened_parts, trained
from jdx.backends.jittor.worker.jobs.pictures import Floats
from jdx.backends.jittor.worker.jobs.sizes import in_batches, samples_at_once
from jdx.backends.jittor.worker.jobs.states import AdapterState, read_state, write_snapshot
from jdx.backends.jittor.worker.jobs.step import Captions, Step
from jdx.backends.jittor.worker.jobs.words import token_faults
from jdx.backends.jittor.worker.nets.adapters import Adapter
from jdx.backends.jittor.worker.nets.dropout import KeyedDropout
from jdx.backends.jittor.worker.nets.models import Models, load
from jdx.backends.jittor.worker.nets.stacked import target_faults
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.samples import Noising, Plan, Source, draw_pass, plan_passes, read_sources
from jdx.backends.state_files import LossLog, snapshot_folder
from jdx.backends.stops import Stops
from jdx.backends.train_checks import training_faults
from jdx.backends.windows import alike
from jdx.errors import ConfigError, Fault
from jdx.methods.schedule import ema_decay, lr_factor

Failures = dict[str, tuple[int, str]]


def run(job: TrainJob, out: Path, tell: Tell) -> Failures:
    """Train every adapter of the job to its last snapshot (see `Backend.train`); returns the styles that stopped.

    Raises: ConfigError with all faults of the job.
    """
    models = load(job.model, tell.dtype)
    if faults := job_faults(job, models, out):
        raise ConfigError(faults, "training job")
    failed: Failures = {}
    tell.progress("training", (max(job.snapshots) - job.start_step) * len(job.adapters))
    for adapters, most in packs(job):
        with PackRun.opened(job, models, adapters, most, Outside(out, tell, failed)) as pack:
            pack.go()
    return failed


def job_faults(job: TrainJob, models: Models, out: Path) -> list[Fault]:
    """Every fault of the job that can be seen before anything is computed."""
    faults = training_faults(job, models.latent_channels, out)
    faults += target_faults(models.unet, [a.unet for a in job.adapters], "unet")
    faults += target_faults(models.text_encoder, [a.text_encoder for a in job.adapters], "text_encoder")
    return faults + token_faults(models.tokenizer, [a.tokens for a in job.adapters if a.tokens])


def packs(job: TrainJob) -> Iterator[tuple[Sequence[AdapterSpec], int]]:
    """Styles that train together, and the most samples of one style in a pass.

    Without `micro_batch` it is a rough count of what fits: Jittor cannot try and take less.
    """
    for group in alike(job.adapters):
        samples = job.batch_size * (2 if group[0].prior_weight > 0 else 1)
        room = job.micro_batch or samples_at_once(job.moments.values())
        for adapters in in_batches(group, max(1, room // samples)):
            yield adapters, min(room, samples)


@dataclass
class Outside:
    """Where a pack's results go."""

    out: Path
    tell: Tell
    failed: Failures


@dataclass
class PackRun:
    """One pack in training. Row k of every buffer is the k-th adapter of the pack."""

    job: TrainJob
    adapters: Sequence[AdapterSpec]
    outside: Outside
    step: Step
    optimiser: StackedAdamW
    averages: dict[str, Any]  # {part: (K, P)}, running averages; nothing when no adapter wants one
    sources: Sequence[Source]
    plan: Plan
    noising: Noising
    logs: list[LossLog] = field(default_factory=list)
    shown: float | None = None

    @staticmethod
    @contextmanager
    def opened(
        job: TrainJob, models: Models, adapters: Sequence[AdapterSpec], most: int, outside: Outside
    ) -> Iterator[PackRun]:
        """The pack, its adapters in the networks and restored; the networks are put back at the end."""
        texts, sources = read_sources(job, adapters)
        scheduler = read_config(models.folder)
        kind = str(scheduler["prediction_type"])
        noising = Noising(alphas_cumprod(scheduler), models.vae_scaling, models.vae_shift, kind)
        plan = plan_passes(job.batch_size, job.accumulation, prior=adapters[0].prior_weight > 0, most=most)
        dropout = KeyedDropout(job.dropout) if job.dropout else None
        with opened_parts(job, models, adapters, dropout) as parts:
            captions = Captions(models, texts, trained=any(p.changes_text for p in parts.values()))
            step = Step(models, captions, parts, kind, dropout)
            flats = {name: part.flat for name, part in parts.items()}
            optimiser = StackedAdamW(dict(flats), knobs_of(job, adapters, parts))
            wanted = any(a.ema_decay is not None for a in adapters)
            averages = {name: flat.clone().stop_grad() for name, flat in flats.items()} if wanted else {}
            pack = PackRun(job, adapters, outside, step, optimiser, averages, sources, plan, noising)
            pack.restore()
            yield pack

    @property
    def parts(self) -> Mapping[str, Part]:
        return self.step.parts

    @property
    def styles(self) -> list[str]:
        return [adapter.style for adapter in self.adapters]

    def restore(self) -> None:
        """Put every adapter to where its snapshot was taken; nothing to do when there is none.

        Raises: ConfigError with every snapshot that is of an adapter of another shape, or lacks the average.
        """
        self.logs = [LossLog() for _ in self.adapters]
        if not self.job.resume:
            return
        rows, faults = self._rows(), list[Fault]()
        for k, adapter in enumerate(self.adapters):
            state = read_state(self.job.resume[adapter.style], self.job.start_step)
            self.logs[k] = state.losses
            mine = trained(self.parts, k)
            wanted = [(part, f"{name}.{key}") for name, part in mine.items() for key in state_keys(adapter)]
            if fault := _restore_fault(adapter, state, mine, [name for _, name in wanted], k):
                faults.append(fault)
                continue
            for part, name in wanted:
                rows[name][k] = part.row(k, state.vectors[name])
        if faults:
            raise ConfigError(faults, "training job")
        self._put(rows)
        self.optimiser.steps = self.job.start_step

    def go(self) -> None:
        """From the restored step to the last snapshot, or until every style has failed."""
        job, end = self.job, max(self.job.snapshots)
        stops = Stops(job.snapshots, job.restart_points)
        sums = np.array([[x.pending for x in self.logs], [x.count for x in self.logs]], np.float64)
        for number in range(self.optimiser.steps, end):
            passes = [draw_pass(self.sources, self.plan, self.noising, number, some) for some in self.plan]
            grads, losses = self.step(passes, self.optimiser.learning)
            alive = self.optimiser.step(grads, losses, self._factors())
            for name, part in self.parts.items():
                part.flat = self.optimiser.params[name]
            sums += np.stack([np.where(alive, losses, 0.0), alive])
            done = self.optimiser.steps
            self._average(done)
            due = stops.due(done)
            if (due or done % job.log_every == 0) and not self._report(done, end, sums, due):
                break
            shown = {} if self.shown is None else {"loss": self.shown}
            self.outside.tell.advance(len(self.styles), **shown)

    def _factors(self) -> dict[str, float]:
        """The schedule's factor for each part that learns now; it begins with the part's window."""
        job, done = self.job, self.optimiser.steps
        windows = {name: self.parts[name].window for name in self.optimiser.learning}
        return {
            name: lr_factor(job.schedule, window.horizon(job.schedule_steps), done - window.start)
            for name, window in windows.items()
        }

    def _average(self, done: int) -> None:
        """Take the parameters after `done` steps into the running averages."""
        for name, rows in self.averages.items():
            t = done - self.parts[name].window.start
            if t > 0:
                shares = [
                    1.0 if a.ema_decay is None else 1.0 - ema_decay(a.ema_decay, t) for a in self.adapters
                ]
                with jt.no_grad():
                    share = jt.array(np.array(shares, np.float32)[:, None])
                    self.averages[name] = rows + (self.optimiser.params[name] - rows) * share
                    self.averages[name].sync()

    def _report(self, done: int, end: int, sums: npt.NDArray[np.float64], due: bool) -> bool:
        """Losses, failures and snapshots after step `done`; False when all styles have died. Closed sums are zeroed."""
        for k, style in enumerate(self.styles):
            if self.optimiser.died_at[k] and style not in self.outside.failed:
                cause = "loss" if self.optimiser.loss_died[k] else "gradient"
                self._fail(k, int(self.optimiser.died_at[k]), cause)
        totals, counts = sums.tolist()
        means = {style: totals[k] / counts[k] for k, style in enumerate(self.styles) if counts[k]}
        if means:
            self.shown = math.fsum(means.values()) / len(means)
        closes = done % self.job.log_every == 0
        if means and (closes or done == end):
            self.outside.tell.losses(done, means)
        for k, style in enumerate(self.styles):
            rows = self.logs[k].rows
            if closes and counts[k]:
                self.logs[k] = LossLog((*rows, (done, means[style])))
            else:
                self.logs[k] = LossLog(rows, totals[k], int(counts[k]))
        if closes:
            sums[:] = 0
        if due:
            self._snapshot(done)
        return any(style not in self.outside.failed for style in self.styles)

    def _fail(self, k: int, step: int, what: str) -> None:
        reason = f"its {what} left the finite numbers; a lower learning rate may help"
        self.outside.failed[self.styles[k]] = (step, reason)
        self.outside.tell.log(f"style {self.styles[k]} stopped at step {step}: {reason}", "warning")

    def _snapshot(self, done: int) -> None:
        rows = self._rows()
        for k, style in enumerate(self.styles):
            if style not in self.outside.failed:
                self._publish(k, done, {name: row[k] for name, row in rows.items()})

    def _publish(self, k: int, done: int, rows: dict[str, Floats]) -> None:
        """Write the snapshot of adapter k from its rows, and hand it over."""
        if not all(np.isfinite(row).all() for row in rows.values()):
            self.optimiser.died_at[k] = done
            return self._fail(k, done, "parameters")
        adapter, style = self.adapters[k], self.styles[k]
        keys, mine = state_keys(adapter), trained(self.parts, k)
        vectors = {
            f"{name}.{key}": part.vector(k, rows[f"{name}.{key}"])
            for name, part in mine.items()
            for key in keys
        }
        drawn_with = "ema" if "ema" in keys else "param"
        results = {name: part.result(k, rows[f"{name}.{drawn_with}"]) for name, part in mine.items()}
        about = {"base_model": self.job.model.path, "style": style, "step": done, "seed": adapter.seed}
        layout = {name: part.layout(k) for name, part in mine.items()}
        folder = snapshot_folder(self.outside.out, style, done)
        state = AdapterState(done, vectors, layout, self.logs[k])
        write_snapshot(folder, Adapter(**results, metadata=about), state)
        self.outside.tell.snapshot(style, done, folder)
        return None

    def _rows(self) -> dict[str, Floats]:
        """All (K, P) buffers from which training goes on, by the names that `AdapterState.vectors` has."""
        rows: dict[str, Floats] = {}
        for name in self.parts:
            of = self.optimiser
            kinds = {"param": of.params[name], "m": of.m[name], "v": of.v[name]}
            if self.averages:
                kinds["ema"] = self.averages[name]
            rows |= {f"{name}.{kind}": np.array(buffer.numpy(), np.float32) for kind, buffer in kinds.items()}
        return rows

    def _put(self, rows: Mapping[str, Floats]) -> None:
        """Make these the buffers; the inverse of `_rows`."""
        for name, part in self.parts.items():
            part.flat = self.optimiser.params[name] = jt.array(rows[f"{name}.param"])
            self.optimiser.m[name] = jt.array(rows[f"{name}.m"]).stop_grad()
            self.optimiser.v[name] = jt.array(rows[f"{name}.v"]).stop_grad()
            if self.averages:
                self.averages[name] = jt.array(rows[f"{name}.ema"]).stop_grad()


def knobs_of(job: TrainJob, adapters: Sequence[AdapterSpec], parts: Mapping[str, Part]) -> Knobs:
    """The optimiser's settings, one number per adapter where they may differ."""
    return Knobs(
        lr={name: part.rates for name, part in parts.items()},
        weight_decay={name: part.decays for name, part in parts.items()},
        max_grad_norm=[math.inf if a.max_grad_norm is None else a.max_grad_norm for a in adapters],
        windows={name: part.window for name, part in parts.items()},
        betas=job.betas,
        eps=job.eps,
    )


def state_keys(adapter: AdapterSpec) -> tuple[str, ...]:
    """What a snapshot of this adapter holds of each part."""
    return ("param", "m", "v") if adapter.ema_decay is None else ("param", "m", "v", "ema")


def _restore_fault(
    adapter: AdapterSpec, state: AdapterState, mine: Mapping[str, Part], wanted: Sequence[str], k: int
) -> Fault | None:
    if {name: part.layout(k) for name, part in mine.items()} != dict(state.layout):
        allowed = (
            "the snapshot's ranks, targets, words or base model differ from this job's; use the same ones"
        )
        return Fault("resume", adapter.style, allowed)
    if any(name not in state.vectors for name in wanted):
        allowed = "the snapshot holds no running average; resume without ema_decay, or from one made with it"
        return Fault("resume", adapter.style, allowed)
    return None
