"""Faults of a training job that any backend can see from its numbers, names and files; no network is needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from jdx.backends.base import AdapterSpec, LoraSpec, TokensSpec, TrainJob
from jdx.backends.samples import MOMENTS
from jdx.backends.state_files import snapshot_folder, state_fault
from jdx.backends.windows import has_prior, trained_windows
from jdx.errors import Fault
from jdx.methods.schedule import PREFIX_SAFE


def training_faults(job: TrainJob, latent_channels: int, out: Path) -> list[Fault]:
    """Every fault of the job but those of names that only the networks know: targets and words."""
    faults = [*_training_numbers(job), *_steps(job), *_adapter_names(job), *_resume(job)]
    for adapter in job.adapters:
        pictures = _learnt_pictures(job, adapter, latent_channels)
        faults += [*_adapter(adapter), *_idle(job, adapter), *pictures]
        for step in job.snapshots:
            folder = snapshot_folder(out, adapter.style, step)
            if folder.exists():
                faults.append(Fault("out", str(folder), "already there, and never overwritten: move it away"))
    return faults


def _training_numbers(job: TrainJob) -> Iterator[Fault]:
    least = {"batch_size": 1, "accumulation": 1, "log_every": 1, "micro_batch": 0, "start_step": 0}
    for name, low in least.items():
        if getattr(job, name) < low:
            yield Fault(name, str(getattr(job, name)), f"must be at least {low}")
    if not 0 <= job.dropout < 1:
        yield Fault("dropout", str(job.dropout), "must be in [0, 1)")
    if not all(0 <= beta < 1 for beta in job.betas):
        yield Fault("betas", str(job.betas), "both must be in [0, 1)")
    if not job.eps > 0:
        yield Fault("eps", str(job.eps), "must be above 0")


def _steps(job: TrainJob) -> Iterator[Fault]:
    if not job.snapshots:
        yield Fault(
            "snapshots", "()", "name at least one step count; the last one is the length of the training"
        )
    for step in job.snapshots:
        if step <= job.start_step:
            yield Fault("snapshots", str(step), f"must come after start_step = {job.start_step}")
    schedule = job.schedule
    if schedule.name not in PREFIX_SAFE and job.schedule_steps < 1:
        yield Fault(
            "schedule_steps", str(job.schedule_steps), f"a {schedule.name} schedule needs its last step"
        )
    if schedule.cycles < 1:
        yield Fault("schedule.cycles", str(schedule.cycles), "must be at least 1")
    if schedule.name == "step" and (schedule.step_size is None or schedule.step_size < 1):
        yield Fault("schedule.step_size", str(schedule.step_size), "a step schedule needs at least 1")


def _adapter_names(job: TrainJob) -> Iterator[Fault]:
    if not job.adapters:
        yield Fault("adapters", "()", "there is nothing to train")
    for style, count in Counter(adapter.style for adapter in job.adapters).items():
        if count > 1:
            yield Fault("adapters", style, f"{count} adapters of one style would write the same folders")


def _resume(job: TrainJob) -> Iterator[Fault]:
    if bool(job.resume) != (job.start_step > 0):
        yield Fault(
            "start_step", str(job.start_step), "is above 0 exactly when there are snapshots to resume from"
        )
    if not job.resume:
        return
    for adapter in job.adapters:
        folder = job.resume.get(adapter.style)
        if folder is None:
            yield Fault(
                "resume", adapter.style, "all styles of a job resume or none does; this one has no snapshot"
            )
        elif (fault := state_fault(folder, job.start_step)) is not None:
            yield fault


def _adapter(adapter: AdapterSpec) -> Iterator[Fault]:
    of = f"adapter {adapter.style}: "
    if not trained_windows(adapter):
        allowed = "one of the two networks needs a rank above 0, or the style a word or an enhancer"
        yield Fault(of + "rank", "0", allowed)
    networks = {
        "unet": (adapter.unet, adapter.unet_lr),
        "text_encoder": (adapter.text_encoder, adapter.text_encoder_lr),
    }
    for name, (lora, lr) in networks.items():
        yield from _lora(of + name, lora)
        if not (math.isfinite(lr) and lr >= 0):
            yield Fault(f"{of}{name}_lr", str(lr), "must be a finite number of at least 0")
    yield from _tokens(of, adapter.tokens)
    if not (math.isfinite(adapter.weight_decay) and adapter.weight_decay >= 0):
        yield Fault(of + "weight_decay", str(adapter.weight_decay), "must be a finite number of at least 0")
    if (enhancer := adapter.enhancer) is not None:
        if not (math.isfinite(enhancer.weight) and enhancer.weight > 0):
            yield Fault(of + "enhancer.weight", str(enhancer.weight), "must be a finite number above 0")
        if not (math.isfinite(enhancer.lr) and enhancer.lr >= 0):
            yield Fault(of + "enhancer.lr", str(enhancer.lr), "must be a finite number of at least 0")
    if adapter.max_grad_norm is not None and not adapter.max_grad_norm > 0:
        yield Fault(
            of + "max_grad_norm", str(adapter.max_grad_norm), "must be above 0, or null for no clipping"
        )
    yield from _weights(of, adapter)
    if adapter.ema_decay is not None and not 0 < adapter.ema_decay < 1:
        yield Fault(
            of + "ema_decay", str(adapter.ema_decay), "must be between 0 and 1, or null for no average"
        )


def _weights(of: str, adapter: AdapterSpec) -> Iterator[Fault]:
    weight, share, gamma = adapter.prior_weight, adapter.prior_fraction, adapter.min_snr_gamma
    if not (math.isfinite(weight) and weight >= 0):
        yield Fault(of + "prior_weight", str(weight), "must be a finite number of at least 0")
    if share is not None and not 0 < share < 1:
        yield Fault(of + "prior_fraction", str(share), "must be between 0 and 1, or null for none")
    if share is not None and weight > 0:
        yield Fault(of + "prior_fraction", str(share), f"excludes prior_weight = {weight}: give one of them")
    if gamma is not None and not (math.isfinite(gamma) and gamma > 0):
        yield Fault(of + "min_snr_gamma", str(gamma), "must be a finite number above 0, or null for none")


def _tokens(of: str, tokens: TokensSpec | None) -> Iterator[Fault]:
    if tokens is None:
        return
    if tokens.vectors < 1:
        yield Fault(of + "tokens.vectors", str(tokens.vectors), "must be at least 1")
    for name in ("lr", "weight_decay"):
        value = getattr(tokens, name)
        if not (math.isfinite(value) and value >= 0):
            yield Fault(f"{of}tokens.{name}", str(value), "must be a finite number of at least 0")
    if tokens.steps is not None and tokens.steps < 1:
        yield Fault(of + "tokens.steps", str(tokens.steps), "must be at least 1, or null for all steps")


def _lora(of: str, lora: LoraSpec) -> Iterator[Fault]:
    if lora.rank < 0:
        yield Fault(of + ".rank", str(lora.rank), "must be at least 0")
    if lora.rank > 0 and not (math.isfinite(lora.alpha) and lora.alpha > 0):
        yield Fault(of + ".alpha", str(lora.alpha), "must be a finite number above 0")
    if lora.rank > 0 and not lora.targets:
        yield Fault(of + ".targets", "()", "name at least one module, such as to_q")


def _idle(job: TrainJob, adapter: AdapterSpec) -> Iterator[Fault]:
    """Steps in which nothing of an adapter would learn."""
    end, reached = max(job.snapshots, default=0), 0
    windows = sorted(trained_windows(adapter).values(), key=lambda window: window.start)
    if not windows:
        return
    for window in windows:
        if window.start < 0:
            yield Fault(f"adapter {adapter.style}: start", str(window.start), "must be at least 0")
        if window.start > reached:
            break
        reached = max(reached, end if window.stop is None else window.stop)
    if reached < end:
        later = min((w.start for w in windows if w.start > reached), default=end)
        allowed = "nothing would learn in them: begin a network earlier, or train something to their end"
        yield Fault(f"adapter {adapter.style}: steps", f"{reached + 1} to {min(later, end)}", allowed)


def _learnt_pictures(job: TrainJob, adapter: AdapterSpec, channels: int) -> Iterator[Fault]:
    sources = adapter.sources or (adapter.style,)
    folders = tuple(job.moments[source] for source in sources if source in job.moments)
    if lost := [source for source in sources if source not in job.moments] if folders else []:
        yield Fault(
            f"moments of {adapter.style}", ", ".join(lost), "every source needs the folder of its encoding"
        )
    else:
        yield from _moments(f"moments of {adapter.style}", folders, adapter.captions, channels)
    if adapter.enhancer is not None:
        seen = job.enhancer_moments.get(adapter.style)
        folders, one_view = () if seen is None else (seen,), [""] * len(adapter.captions)
        yield from _moments(f"enhancer_moments of {adapter.style}", folders, one_view, channels)
    if has_prior(adapter):
        folders = job.prior_moments.get(adapter.style, ())
        yield from _moments(f"prior_moments of {adapter.style}", folders, adapter.prior_captions, channels)


def _moments(
    key: str, folders: Sequence[Path], captions: Sequence[str | tuple[str, ...]], channels: int
) -> Iterator[Fault]:
    """Faults of the files that together hold one picture for each caption."""
    if not folders:
        yield Fault(key, "none", "every style needs the folder that encoding wrote for it")
        return
    counts: list[int] = []
    views: list[int] = []
    for folder in folders:
        try:
            with safe_open(folder / MOMENTS, "np") as file:
                shapes = [tuple(file.get_slice(name).get_shape()) for name in ("mean", "std")]
        except (OSError, SafetensorError) as error:
            yield Fault(key, str(folder / MOMENTS), f"cannot be read ({error}); encode the pictures first")
            continue
        faults = list(_shape(key, shapes, channels))
        yield from faults
        if not faults:
            counts.append(shapes[0][0])
            views += [shapes[0][1]] * shapes[0][0]
    if len(counts) == len(folders) and sum(counts) != len(captions):
        allowed = f"there are {len(captions)} captions; one for each picture is needed"
        yield Fault(key, f"{sum(counts)} pictures", allowed)
    for caption, count in zip(captions, views, strict=False):
        if not isinstance(caption, str) and len(caption) != count:
            yield Fault(key, f"{count} views", f"there are {len(caption)} captions for them: {caption}")
            return


def _shape(key: str, shapes: Sequence[tuple[int, ...]], channels: int) -> Iterator[Fault]:
    if shapes[0] != shapes[1] or len(shapes[0]) != 5 or 0 in shapes[0]:
        yield Fault(
            key, str(shapes), "mean and std must both be (pictures, variants, C, h, w), none of them 0"
        )
    elif shapes[0][2] != channels:
        yield Fault(key, f"{shapes[0][2]} channels", f"this model's latents have {channels}; encode with it")
