"""What training needs before its first step: data, adapters in the networks, restored states, sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.numpy import load_file

from jdx.backends.base import AdapterSpec, TrainJob
from jdx.backends.torch import memory, packs
from jdx.backends.torch.adamw import Knobs, StackedAdamW
from jdx.backends.torch.adapters import canonical_te_path
from jdx.backends.torch.batches import Drawer, Noising, Pictures, Sample, Source
from jdx.backends.torch.checks import MOMENTS
from jdx.backends.torch.dropout import KeyedDropout
from jdx.backends.torch.models import Models
from jdx.backends.torch.snapshots import AdapterState, LossLog
from jdx.backends.torch.stacked import Owner, Stack, inject
from jdx.backends.torch.step import Captions, losses_of
from jdx.errors import ConfigError, Fault


def read_sources(job: TrainJob, adapters: Sequence[AdapterSpec]) -> tuple[list[str], list[Source]]:
    """The distinct captions of some styles, and what each style learns from, captions given by their row."""
    texts: dict[str, int] = {}

    def pictures(folder: Path, captions: Sequence[str]) -> Pictures:
        rows = tuple(texts.setdefault(caption, len(texts)) for caption in captions)
        moments = load_file(folder / MOMENTS)
        return Pictures(moments["mean"], moments["std"], rows)

    sources = []
    for a in adapters:
        instance = pictures(job.moments[a.style], a.captions)
        prior = pictures(job.prior_moments[a.style], a.prior_captions) if a.prior_weight > 0 else None
        sources.append(Source(a.style, a.seed, instance, prior, a.prior_weight))
    return list(texts), sources


@contextmanager
def injected(
    models: Models, adapters: Sequence[AdapterSpec], dropout: KeyedDropout | None
) -> Iterator[dict[str, Stack]]:
    """{network: stack} of these styles, in the networks that any of them trains, until the block ends.

    Raises: ConfigError when targets match no linear layer.
    """
    stacks: dict[str, Stack] = {}
    try:
        if any(a.unet.rank for a in adapters):
            owners = [Owner(a.style, a.seed, a.unet) for a in adapters]
            stacks["unet"] = inject(models.unet, owners, dropout=dropout)
        if any(a.text_encoder.rank for a in adapters):
            owners = [Owner(a.style, a.seed, a.text_encoder) for a in adapters]
            stacks["text_encoder"] = inject(
                models.text_encoder, owners, rename=canonical_te_path, dropout=dropout
            )
        yield stacks
    finally:
        for stack in stacks.values():
            stack.remove()


def trained(stacks: Mapping[str, Stack], k: int) -> dict[str, Stack]:
    """The networks in which adapter k has a rank above 0, whatever its company adapts."""
    return {name: stack for name, stack in stacks.items() if stack.owners[k].spec.rank}


def knobs_of(job: TrainJob, adapters: Sequence[AdapterSpec], stacks: Mapping[str, Stack]) -> Knobs:
    """The optimiser's settings, one number per adapter where they may differ."""
    rates = {"unet": [a.unet_lr for a in adapters], "text_encoder": [a.text_encoder_lr for a in adapters]}
    norms = [math.inf if a.max_grad_norm is None else a.max_grad_norm for a in adapters]
    decays = [a.weight_decay for a in adapters]
    return Knobs({name: rates[name] for name in stacks}, decays, norms, job.betas, job.eps)


def noising_of(models: Models) -> Noising:
    """How samples are made for this model; in float32 unless the base itself is float64."""
    dtype = torch.float64 if models.dtype == torch.float64 else torch.float32
    return Noising(models.alphas_cumprod, models.vae_scaling, models.vae_shift, dtype)


def restore(
    state: AdapterState | None, k: int, stacks: Mapping[str, Stack], optimiser: StackedAdamW
) -> LossLog:
    """Put adapter k back to where its snapshot was taken; nothing to do when there is none.

    All adapters of a stack share the optimiser's step count, so they must come from the same step.
    Raises: ConfigError when the snapshot is of an adapter of another shape.
    """
    if state is None:
        return LossLog()
    mine = trained(stacks, k)
    if {name: stack.layout(k) for name, stack in mine.items()} != dict(state.layout):
        style = next(iter(stacks.values())).owners[k].style
        allowed = "the snapshot's ranks, targets or base model differ from this job's; use the same ones"
        raise ConfigError([Fault("resume", style, allowed)], "training job")
    with torch.no_grad():
        for name, stack in mine.items():
            moments = optimiser.moments[name]
            for key, tensor in (("param", stack.flat), ("m", moments.m), ("v", moments.v)):
                tensor[k] = stack.row(k, state.vectors[f"{name}.{key}"]).to(tensor)
    optimiser.steps = state.step
    return state.losses


def measure(job: TrainJob, models: Models, group: Sequence[AdapterSpec]) -> memory.Need:
    """What a sample and an adapter of this group take, from one forward pass over one sample of one style."""
    texts, sources = read_sources(job, group[:1])
    probe = AdapterSpec(
        style=group[0].style,
        captions=group[0].captions,
        seed=group[0].seed,
        unet=packs.widest(a.unet for a in group),
        text_encoder=packs.widest(a.text_encoder for a in group),
        unet_lr=0.0,
        text_encoder_lr=0.0,
    )
    dropout = KeyedDropout(job.dropout) if job.dropout else None
    with injected(models, [probe], dropout) as stacks:
        captions = Captions(models, texts, trained=probe.text_encoder.rank > 0)
        drawn = Drawer(sources, ((Sample(False, 0),),), noising_of(models))(0)[0].to(models.device)
        if dropout is not None:
            dropout.keys = drawn.keys
        for stack in stacks.values():
            stack.bind()
        factors = [
            f for s in stacks.values() for slot in s.slots for f in (s.flat, slot.layer.a, slot.layer.b)
        ]
        known = [*models.unet.parameters(), *models.text_encoder.parameters(), *factors]
        sample = memory.kept_for_backward(lambda: losses_of(models, captions, drawn), known)
        adapter = sum(s.width * s.flat.element_size() * memory.COPIES for s in stacks.values())
    return memory.Need(sample, adapter)
