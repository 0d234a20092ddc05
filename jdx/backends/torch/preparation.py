"""What training needs before its first step: data, trained parts in the models, restored states, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.owners import Owner
from jdx.backends.samples import Noising, Plan, Sample, Source, read_sources
from jdx.backends.state_files import LossLog
from jdx.backends.torch import memory, packs
from jdx.backends.torch.adamw import Knobs, StackedAdamW
from jdx.backends.torch.adapters import canonical_te_path
from jdx.backends.torch.batches import Drawer
from jdx.backends.torch.compile import plain
from jdx.backends.torch.dropout import BYTES_AN_ENTRY, KeyedDropout
from jdx.backends.torch.ema import StackedEma
from jdx.backends.torch.enhancer_part import EnhancerPart
from jdx.backends.torch.models import Models
from jdx.backends.torch.parts import Part
from jdx.backends.torch.snapshots import AdapterState
from jdx.backends.torch.stacked import inject
from jdx.backends.torch.step import Captions, losses_of
from jdx.backends.torch.tokens import TokensPart
from jdx.backends.windows import windows_of
from jdx.errors import ConfigError, Fault


@dataclass(frozen=True)
class Making:
    """What a part is made from."""

    job: TrainJob
    models: Models
    adapters: Sequence[AdapterSpec]
    dropout: KeyedDropout | None


def _unet(of: Making) -> Part | None:
    if not any(a.unet.rank for a in of.adapters):
        return None
    owners = [Owner(a.style, a.seed, a.unet, a.unet_lr, a.weight_decay) for a in of.adapters]
    return inject(of.models.unet, owners, dropout=of.dropout, window=windows_of(of.adapters[0])["unet"])


def _text_encoder(of: Making) -> Part | None:
    if not any(a.text_encoder.rank for a in of.adapters):
        return None
    owners = [Owner(a.style, a.seed, a.text_encoder, a.text_encoder_lr, a.weight_decay) for a in of.adapters]
    window = windows_of(of.adapters[0])["text_encoder"]
    stack = inject(
        of.models.text_encoder, owners, rename=canonical_te_path, dropout=of.dropout, window=window
    )
    stack.changes_text = True
    return stack


def _enhancer(of: Making) -> Part | None:
    if of.adapters[0].enhancer is None:
        return None
    return EnhancerPart(of.models, of.adapters, of.job.enhancer_moments)


def _tokens(of: Making) -> Part | None:
    if not any(a.tokens for a in of.adapters):
        return None
    return TokensPart(of.models, [a.tokens for a in of.adapters], windows_of(of.adapters[0])["tokens"])


MAKERS: Mapping[str, Callable[[Making], Part | None]] = {
    "unet": _unet,
    "text_encoder": _text_encoder,
    "enhancer": _enhancer,
    "tokens": _tokens,
}
"""Makes each part of a pack, or None when none of its styles has it."""


@contextmanager
def opened_parts(of: Making) -> Iterator[dict[str, Part]]:
    """{name: part} of everything that these styles train, in the models until the block ends.

    Raises: ConfigError when targets match no linear layer.
    """
    parts: dict[str, Part] = {}
    try:
        for name, make in MAKERS.items():
            if (part := make(of)) is not None:
                parts[name] = part
        yield parts
    finally:
        for part in reversed(parts.values()):
            part.remove()


def trained(parts: Mapping[str, Part], k: int) -> dict[str, Part]:
    """The parts that adapter k has, whatever its company trains."""
    return {name: part for name, part in parts.items() if part.trains(k)}


def knobs_of(job: TrainJob, adapters: Sequence[AdapterSpec], parts: Mapping[str, Part]) -> Knobs:
    """The optimiser's settings, one number per adapter where they may differ."""
    return Knobs(
        lr={name: part.rates for name, part in parts.items()},
        weight_decay={name: part.decays for name, part in parts.items()},
        max_grad_norm=[math.inf if a.max_grad_norm is None else a.max_grad_norm for a in adapters],
        betas=job.betas,
        eps=job.eps,
        windows={name: part.window for name, part in parts.items()},
    )


def captions_of(
    models: Models, texts: Sequence[str], parts: Mapping[str, Part], *, alone: bool = False
) -> Captions:
    """The table of captions, computed anew in every pass when a part changes the text encoder."""
    return Captions(models, texts, trained=any(part.changes_text for part in parts.values()), alone=alone)


def noising_of(models: Models) -> Noising:
    """How samples are made for this model."""
    return Noising(
        models.alphas_cumprod.numpy(), models.vae_scaling, models.vae_shift, models.prediction_type
    )


def drawer_of(models: Models, sources: Sequence[Source], plan: Plan) -> Drawer:
    """Draws this model's samples, in float32 unless the base itself is float64."""
    dtype = torch.float64 if models.dtype == torch.float64 else torch.float32
    return Drawer(sources, plan, noising_of(models), dtype, pin=models.device.type == "cuda")


def average_of(adapters: Sequence[AdapterSpec], parts: Mapping[str, Part]) -> StackedEma | None:
    """The running averages of a pack; None when no adapter wants one."""
    limits = [a.ema_decay for a in adapters]
    if all(limit is None for limit in limits):
        return None
    flats = {name: part.flat for name, part in parts.items()}
    return StackedEma(flats, limits, {name: part.window for name, part in parts.items()})


def state_rows(
    parts: Mapping[str, Part], optimiser: StackedAdamW, average: StackedEma | None
) -> dict[str, Tensor]:
    """All (K, P) buffers from which training goes on, by the names that `AdapterState.vectors` has."""
    rows: dict[str, Tensor] = {}
    for name, part in parts.items():
        moments = optimiser.moments[name]
        rows |= {f"{name}.param": part.flat.detach(), f"{name}.m": moments.m, f"{name}.v": moments.v}
        if average is not None:
            rows[f"{name}.ema"] = average.rows[name]
    return rows


def state_keys(adapter: AdapterSpec) -> tuple[str, ...]:
    """What a snapshot of this adapter holds of each part."""
    return ("param", "m", "v") if adapter.ema_decay is None else ("param", "m", "v", "ema")


def restore(
    state: AdapterState | None,
    k: int,
    adapter: AdapterSpec,
    parts: Mapping[str, Part],
    optimiser: StackedAdamW,
    average: StackedEma | None,
) -> LossLog:
    """Put adapter k back to where its snapshot was taken; nothing to do when there is none.

    All adapters of a pack share the optimiser's step count, so they must come from the same step.
    Raises: ConfigError when the snapshot is of an adapter of another shape, or lacks the average.
    """
    if state is None:
        return LossLog()
    mine = trained(parts, k)
    if {name: part.layout(k) for name, part in mine.items()} != dict(state.layout):
        allowed = (
            "the snapshot's ranks, targets, words or base model differ from this job's; use the same ones"
        )
        raise ConfigError([Fault("resume", adapter.style, allowed)], "training job")
    wanted = [(part, f"{name}.{key}") for name, part in mine.items() for key in state_keys(adapter)]
    if any(name not in state.vectors for _, name in wanted):
        allowed = "the snapshot holds no running average; resume without ema_decay, or from one made with it"
        raise ConfigError([Fault("resume", adapter.style, allowed)], "training job")
    rows = state_rows(parts, optimiser, average)
    with torch.no_grad():
        for part, name in wanted:
            rows[name][k] = part.row(k, state.vectors[name]).to(rows[name])
    optimiser.steps = state.step
    return state.losses


def measure(job: TrainJob, models: Models, group: Sequence[AdapterSpec]) -> memory.Need:
    """What a sample and an adapter of this group take, from one forward pass over one sample of one style."""
    texts, sources = read_sources(job, group[:1])
    dropout = KeyedDropout(job.dropout) if job.dropout else None
    with opened_parts(Making(job, models, [packs.largest(group)], dropout)) as parts:
        captions = captions_of(models, texts, parts)
        drawn = drawer_of(models, sources, ((Sample(False, 0),),))(0)[0].to(models.device)
        if dropout is not None:
            dropout.keys = drawn.keys
        for part in parts.values():
            part.bind()
        held = [tensor for part in parts.values() for tensor in part.held()]
        known = [*models.unet.parameters(), *models.text_encoder.parameters(), *held]
        denoise = partial(plain, models.unet)
        sample = memory.kept_for_backward(
            lambda: losses_of(models, denoise, captions, parts.values(), drawn), known
        )
        if dropout is not None:
            sample += dropout.widest * BYTES_AN_ENTRY
        copies = memory.COPIES + any(a.ema_decay is not None for a in group)
        adapter = sum(part.width * part.flat.element_size() * copies for part in parts.values())
    return memory.Need(sample, adapter)
