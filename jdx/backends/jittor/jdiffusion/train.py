"""DreamBooth-LoRA on JDiffusion's UNet, style by style: the torch backend's samples, loss and AdamW.

AdamW (Loshchilov and Hutter 2019) is done here, in NumPy, on the adapter's one vector: jtorch's counts its step twice,
so that its first bias corrections are those of the second and fourth step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jittor as jt
import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import safe_open

from jdx import draws
from jdx.backends.adapter_files import FILE, LoraPair, file_of
from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.jittor.jdiffusion.networks import (
    Floats,
    JdModels,
    alphas_cumprod,
    expected,
    linears,
    load,
    targeted,
    weighted,
)
from jdx.backends.jittor.worker.tell import Tell
from jdx.backends.samples import Drawn, Noising, Plan, Source, draw_pass, plan_passes, read_sources
from jdx.backends.state_files import (
    LOSSES,
    STATE,
    WINDOW,
    LossLog,
    header,
    published,
    snapshot_folder,
    state_fault,
)
from jdx.backends.stops import Stops
from jdx.backends.train_checks import training_faults
from jdx.errors import BackendError, ConfigError, Fault
from jdx.files import write_bytes
from jdx.methods import diffusion
from jdx.methods.schedule import lr_factor

STATE_NAMES = ("unet.param", "unet.m", "unet.v")


def run(job: TrainJob, out: Path, tell: Tell) -> dict[str, tuple[int, str]]:
    """Train every adapter, write snapshots (see `Backend.train`); returns the styles that stopped.

    Raises: ConfigError with every fault of the job; BackendError when layers of the targets cannot be found.
    """
    models = load(job.model, tell)
    faults = [*training_faults(job, models.latent_channels, out), *_limits(job)]
    if faults:
        raise ConfigError(faults, what="training job")
    tell.progress("training", (max(job.snapshots) - job.start_step) * len(job.adapters))
    failed = {}
    for adapter in job.adapters:
        stop = Training.begin(job, models, adapter).go(out, tell)
        if stop is not None:
            failed[adapter.style] = stop
            tell.log("style {} stopped at step {}: {}".format(adapter.style, *stop), "warning")
    return failed


def _limits(job: TrainJob) -> list[Fault]:
    """What this runner does not train, for whoever gives it a job directly; a trial is told before it starts."""
    found = []
    for a in job.adapters:
        parts = {
            "text_encoder.rank": a.text_encoder.rank > 0,
            "unet.dora": a.unet.dora,
            "enhancer": a.enhancer is not None,
            "tokens": a.tokens is not None,
            "ema_decay": a.ema_decay is not None,
        }
        allowed = "backend=jdiffusion trains plain LoRA on the UNet only"
        found += [Fault(f"adapter {a.style}: {name}", "", allowed) for name, asked in parts.items() if asked]
    return found + ([Fault("dropout", str(job.dropout), "must be 0 here")] if job.dropout else [])


@dataclass(frozen=True)
class Layers:
    """The adapted layers in order, and where each one's A (d_in, r) and B (r, d_out) lie in the adapter's vector.

    All A come first, then all B, as in the torch backend's stack.
    """

    sizes: Mapping[str, tuple[int, int]]  # path: (d_out, d_in)
    rank: int
    scale: float

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Shapes of all factors."""
        pairs = list(self.sizes.values())
        return [(d_in, self.rank) for _, d_in in pairs] + [(self.rank, d_out) for d_out, _ in pairs]

    def split(self, vector: Any) -> list[Any]:
        """The factors of a vector."""
        ends = np.cumsum([rows * columns for rows, columns in self.shapes])
        starts = [0, *ends[:-1]]
        cuts = zip(starts, ends, self.shapes, strict=True)
        return [vector[int(start) : int(end)].reshape(shape) for start, end, shape in cuts]

    def first(self, seed: int, style: str) -> Floats:
        """A ~ N(0, 1/r) with 1/r the standard deviation, B = 0, by the draws of every backend."""
        down = [
            (draws.normal((self.rank, d_in), seed, style, path, "lora") / np.float32(self.rank)).T
            for path, (_, d_in) in self.sizes.items()
        ]
        up = sum(self.rank * d_out for d_out, _ in self.sizes.values())
        return np.concatenate([*(part.reshape(-1) for part in down), np.zeros(up, np.float32)])

    def changes(self, factors: list[Any]) -> dict[str, Any]:
        """{path: s · (A B)ᵀ}, what is added to a layer's weight (d_out, d_in)."""
        n = len(self.sizes)
        pairs = zip(self.sizes, factors[:n], factors[n:], strict=True)
        return {path: jt.matmul(a, b).transpose(1, 0) * self.scale for path, a, b in pairs}

    def pairs(self, vector: Floats, alpha: float) -> dict[str, LoraPair[Floats]]:
        """The adapter as files hold it."""
        factors, n = self.split(vector), len(self.sizes)
        some = zip(self.sizes, factors[:n], factors[n:], strict=True)
        return {
            path: LoraPair(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), alpha) for path, a, b in some
        }


def layers_of(models: JdModels, adapter: AdapterSpec) -> Layers:
    """The layers that a style adapts.

    Raises: ConfigError for targets that the model lacks; BackendError when its files have more than the modules show.
    """
    spec, found = adapter.unet, linears(models.unet)
    paths = targeted(models.unet, spec.targets)
    lost = [one for one in spec.targets if not expected(models.spec, "unet", [one])]
    if lost:
        allowed = "no linear layer's path ends so"
        raise ConfigError([Fault("unet.targets", one, allowed) for one in lost], what="training job")
    wanted = expected(models.spec, "unet", spec.targets)
    if len(paths) != wanted:
        raise BackendError(
            f"JDiffusion's UNet shows {len(paths)} linear layers called {', '.join(spec.targets)}, the model's file "
            f"has {wanted}: nothing is trained rather than a part of them; found: {', '.join(paths[:8])}"
        )
    sizes = {path: (int(found[path].weight.shape[0]), int(found[path].weight.shape[1])) for path in paths}
    return Layers(sizes, spec.rank, spec.plain_alpha / spec.rank)


@dataclass
class Training:
    """One style in training: its vector and AdamW's moments, all float32 (P,), after `step` steps."""

    job: TrainJob
    models: JdModels
    adapter: AdapterSpec
    layers: Layers
    source: Source
    states: jt.Var
    plan: Plan
    vector: Floats
    m: Floats
    v: Floats
    step: int
    losses: LossLog = field(default_factory=LossLog)

    @staticmethod
    def begin(job: TrainJob, models: JdModels, adapter: AdapterSpec) -> Training:
        """From the beginning, or from the snapshot that the job names."""
        layers = layers_of(models, adapter)
        texts, sources = read_sources(job, [adapter])
        prior = adapter.prior_weight > 0
        plan = plan_passes(
            job.batch_size, job.accumulation, prior=prior, most=job.micro_batch or job.batch_size
        )
        vector = layers.first(adapter.seed, adapter.style)
        new = Training(
            *(job, models, adapter, layers, sources[0], models.embed(texts), plan),
            *(vector, np.zeros_like(vector), np.zeros_like(vector), job.start_step),
        )
        if adapter.style in job.resume:
            new.restore(job.resume[adapter.style])
        return new

    def go(self, out: Path, tell: Tell) -> tuple[int, str] | None:
        """Train to the last snapshot; returns (step, reason) when the numbers leave the finite ones."""
        stops = Stops(self.job.snapshots, self.job.restart_points)
        for _ in range(self.step, max(self.job.snapshots)):
            loss, gradient = self._gradient()
            if not (math.isfinite(loss) and np.isfinite(gradient).all()):
                what = "gradient" if math.isfinite(loss) else "loss"
                return self.step + 1, f"its {what} left the finite numbers; a lower learning rate may help"
            self._update(gradient)
            self._count(loss, tell)
            if stops.due(self.step):
                folder = snapshot_folder(out, self.adapter.style, self.step)
                self.save(folder)
                tell.snapshot(self.adapter.style, self.step, folder)
        return None

    def _gradient(self) -> tuple[float, Floats]:
        """Loss and gradient of a step over its passes."""
        models = self.models
        noising = Noising(alphas_cumprod(models.scheduler), models.vae_scaling, 0.0, models.prediction_type)
        total, loss = np.zeros_like(self.vector), 0.0
        for samples in self.plan:
            drawn = draw_pass([self.source], self.plan, noising, self.step, samples)
            factors = [jt.array(np.ascontiguousarray(part)) for part in self.layers.split(self.vector)]
            for factor in factors:
                factor.start_grad()  # with jtorch nothing has a gradient unless told to
            with weighted(models.unet, self.layers.changes(factors)):
                value = self._loss(drawn)
                grads = jt.grad(value, factors)
                loss += float(value.numpy().reshape(-1)[0])
                total += np.concatenate([np.asarray(grad.numpy(), np.float32).reshape(-1) for grad in grads])
        return loss, total

    def _loss(self, d: Drawn) -> Any:
        """Weighted mean squares of the UNet's error (Ho et al. 2020, eq. 14)."""
        a, s = (x[:, None, None, None] for x in (d.a, d.s))
        x_t = diffusion.add_noise(d.latents, d.noise, a, s)
        goal = diffusion.target(self.models.prediction_type, d.latents, d.noise, a, s)
        states = jt.stack([self.states[int(row)] for row in d.captions], dim=0)
        time = jt.array(d.t.astype(np.int32))
        answer = self.models.unet(jt.array(x_t.astype(np.float32)), time, states, return_dict=False)[0]
        error = answer - jt.array(goal.astype(np.float32))
        errors = (error * error).reshape((len(d.t), -1)).mean(dim=1)
        return (errors * jt.array(d.weights[0].astype(np.float32))).sum()

    def _update(self, gradient: Floats) -> None:
        """AdamW with the gradient clipped by its norm, as `torch.optim.AdamW` after `clip_grad_norm_`."""
        job, adapter = self.job, self.adapter
        if adapter.max_grad_norm is not None:
            norm = float(np.sqrt((gradient.astype(np.float64) ** 2).sum()))
            gradient = gradient * np.float32(min(1.0, adapter.max_grad_norm / (norm + 1e-6)))
        (b1, b2), t = job.betas, self.step + 1
        rate = adapter.unet_lr * lr_factor(job.schedule, job.schedule_steps, self.step)
        self.m = (b1 * self.m + (1 - b1) * gradient).astype(np.float32)
        self.v = (b2 * self.v + (1 - b2) * gradient * gradient).astype(np.float32)
        size = np.sqrt(self.v) / math.sqrt(1 - b2**t) + job.eps
        kept = self.vector * (1 - rate * adapter.weight_decay)
        self.vector = (kept - rate / (1 - b1**t) * self.m / size).astype(np.float32)
        self.step = t

    def _count(self, loss: float, tell: Tell) -> None:
        log = self.losses
        pending, count, rows = log.pending + loss, log.count + 1, log.rows
        closes = self.step % self.job.log_every == 0
        if closes or self.step == max(self.job.snapshots):
            tell.losses(self.step, {self.adapter.style: pending / count})
        if closes:
            rows = (*rows, (self.step, pending / count))
            pending, count = 0.0, 0
        self.losses = LossLog(rows, pending, count)
        tell.advance(loss=loss)

    def save(self, folder: Path) -> None:
        """Write the snapshot: the adapter in every backend's format, this runner's state, the losses."""
        about = {
            "style": self.adapter.style,
            "step": self.step,
            "seed": self.adapter.seed,
            "backend": "jdiffusion",
        }
        pairs = self.layers.pairs(self.vector, self.adapter.unet.plain_alpha)
        tensors, head = file_of(pairs, {}, about)
        state = dict(zip(STATE_NAMES, (self.vector, self.m, self.v), strict=True))
        window = {WINDOW: np.array([self.losses.pending, self.losses.count], np.float64)}
        with published(folder) as beside:
            write_bytes(beside / FILE, safetensors.numpy.save(dict(tensors), metadata=head))
            whole: dict[str, npt.NDArray[Any]] = {**state, **window}
            write_bytes(
                beside / STATE, safetensors.numpy.save(whole, metadata=header(self.step, self._layout()))
            )
            write_bytes(beside / LOSSES, self.losses.text(self.step).encode())

    def _layout(self) -> dict[str, str]:
        """What the state is of; other backends' snapshots say it otherwise, and are refused."""
        layers = ",".join(f"{path}:{d_out}x{d_in}" for path, (d_out, d_in) in self.layers.sizes.items())
        return {"unet": f"jdiffusion rank {self.layers.rank} {layers}"}

    def restore(self, folder: Path) -> None:
        """Go on from a snapshot. Raises: ConfigError when it is of another adapter, or another backend's."""
        fault = state_fault(folder, self.job.start_step)
        if fault is None:
            with safe_open(str(folder / STATE), framework="np") as file:
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                same = file.metadata() == header(self.job.start_step, self._layout())
            if same:
                self.vector, self.m, self.v = (kept[name] for name in STATE_NAMES)
                pending, count = kept[WINDOW].tolist()
                self.losses = LossLog.read(folder, pending, int(count))
                return
            allowed = "a snapshot of backend=jdiffusion with the same ranks, targets and base"
            fault = Fault("resume", str(folder), allowed)
        raise ConfigError([fault], "training job")
