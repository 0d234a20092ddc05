"""Stage 2: train the adapters of all styles together; step counts are prefixes of one run.

The store holds `train/RECIPE/STEP`: RECIPE is everything that shapes a style's training except how long it goes on
(with a learning rate that does not know its end), STEP a snapshot from which training can go on. So checkpoints of an
interrupted run, a request for more steps, and a repeated request are one mechanism: look what is there, make the rest.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jdx.backends.base import AdapterSpec, EnhancerSpec, LoraSpec, ScheduleSpec, TrainJob
from jdx.beside import beside
from jdx.methods.schedule import PREFIX_SAFE
from jdx.schema import NetworkLora, Optim, TrialConfig
from jdx.stages.bench import PUBLISHERS, Bench
from jdx.stages.encode import crop_of
from jdx.stages.wording import token_of
from jdx.store import key_of

VERSION = 1
STAGE = "train"


@dataclass
class Adapters:
    """Result of training: {style: {step: folder}}, and the styles that stopped: {style: (step, reason)}.

    coarse: {style: folder} of the adapters of coarse branches, where they are trained.
    """

    steps: dict[str, dict[int, Path]] = field(default_factory=dict)
    failed: dict[str, tuple[int, str]] = field(default_factory=dict)
    coarse: dict[str, Path] = field(default_factory=dict)

    def add(self, other: Adapters) -> None:
        """With those of other styles."""
        self.steps |= other.steps
        self.failed |= other.failed
        self.coarse |= other.coarse


@dataclass(frozen=True)
class _Order:
    """What is to be trained, by style: the adapters, what they learn from, and where their snapshots go."""

    specs: Mapping[str, AdapterSpec]
    moments: Mapping[str, Path]
    prior_moments: Mapping[str, tuple[Path, ...]]
    enhancer_moments: Mapping[str, Path]
    recipes: Mapping[str, dict[str, Any]]
    keys: Mapping[str, str]
    wanted: list[int]


def part_name(step: int) -> str:
    """Folder name of a snapshot."""
    return f"{step:07d}"


def adapter_specs(bench: Bench, prior: Mapping[str, tuple[str, ...]]) -> dict[str, AdapterSpec]:
    """One adapter per style; prior: captions of its class pictures, when there are any."""
    config, enhancer = bench.config, bench.config.method.enhancer
    specs = {}
    for style in bench.challenge.styles:
        captions = tuple(
            _of_views(bench, style.id, ref.path.stem, bench.wording.caption(style.id, ref.object))
            for ref in style.references
        )
        specs[style.id] = AdapterSpec(
            style=style.id,
            captions=captions,
            seed=config.train.seed,
            unet=_lora(config.lora.unet),
            text_encoder=_lora(config.lora.text_encoder),
            unet_lr=config.optim.unet.lr if config.lora.unet.rank else 0.0,
            text_encoder_lr=config.optim.text_encoder.lr if config.lora.text_encoder.rank else 0.0,
            weight_decay=config.optim.weight_decay,
            max_grad_norm=config.optim.max_grad_norm,
            prior_captions=prior.get(style.id, ()),
            prior_weight=config.method.prior.weight if style.id in prior else 0.0,
            prior_fraction=config.method.prior.fraction if style.id in prior else None,
            min_snr_gamma=config.train.min_snr_gamma,
            ema_decay=config.train.ema_decay,
            unet_start=config.optim.unet.start_step if config.lora.unet.rank else 0,
            text_encoder_start=config.optim.text_encoder.start_step if config.lora.text_encoder.rank else 0,
            enhancer=EnhancerSpec(enhancer.weight, enhancer.lr, enhancer.zero) if enhancer.enabled else None,
            tokens=token_of(config, style.id),
        )
    return specs


def _of_views(bench: Bench, style: str, stem: str, caption: str) -> str | tuple[str, ...]:
    """A reference's caption, or with a flip tag one for each of its views: mirroring is then a word like others."""
    tag, crop = bench.config.train.crop.flip_tag, crop_of(bench)
    if not tag:
        return caption
    mirrored = (crop.mirrors(crop.seed, style, stem, variant) for variant in range(crop.variants))
    return tuple(caption + tag if yes else caption for yes in mirrored)


def _lora(lora: NetworkLora) -> LoraSpec:
    """A network without adapter is written in one way, so that its other settings are no part of the recipe."""
    if lora.rank == 0:
        return LoraSpec(0, 1.0, ())
    alpha = lora.alpha
    if alpha is None:
        alpha = lora.rank**0.5 if lora.rslora else float(lora.rank)
    return LoraSpec(lora.rank, float(alpha), tuple(lora.targets), lora.rslora, lora.dora)


def _schedule(optim: Optim) -> ScheduleSpec:
    """Numbers of other schedules are put to one value, so that they are no part of the recipe."""
    spec = ScheduleSpec(optim.schedule, optim.warmup_steps)
    if optim.schedule == "cosine_with_restarts":
        return replace(spec, cycles=optim.cycles)
    if optim.schedule == "step":
        return replace(spec, step_size=optim.step_size, step_factor=optim.step_factor)
    return spec


def adapt(
    bench: Bench,
    specs: Mapping[str, AdapterSpec],
    moments: Mapping[str, Path],
    prior_moments: Mapping[str, tuple[Path, ...]],
    enhancer_moments: Mapping[str, Path],
) -> Adapters:
    """Train what the store lacks, publish every snapshot as it is written, return the wanted ones."""
    store, train = bench.store, bench.config.train
    wanted = sorted({*train.snapshots, train.steps})
    recipes = {
        style: _recipe(bench, spec, moments, prior_moments, enhancer_moments) for style, spec in specs.items()
    }
    keys = {style: key_of(recipe) for style, recipe in recipes.items()}
    order = _Order(specs, moments, prior_moments, enhancer_moments, recipes, keys, wanted)
    result = Adapters()
    lacking = [s for s in specs if any(store.claim(STAGE, keys[s], part_name(n)) is None for n in wanted)]
    if lacking:
        bench.look_ahead()
        with store.locked(STAGE, [keys[style] for style in lacking], "adapters"):
            legs = _legs(bench, {style: keys[style] for style in lacking}, wanted)
            for leg, styles in legs.items():
                result.failed |= _train(bench, order, leg, styles)
            lacking = [style for styles in legs.values() for style in styles]
            _drop_checkpoints(bench, [keys[style] for style in lacking], wanted)
    bench.count(STAGE, len(lacking), len(specs) - len(lacking))
    for style in specs:
        found = {step: store.claim(STAGE, keys[style], part_name(step)) for step in wanted}
        if style not in result.failed:
            result.steps[style] = {step: path for step, path in found.items() if path is not None}
    return result


def _recipe(
    bench: Bench,
    spec: AdapterSpec,
    moments: Mapping[str, Path],
    prior_moments: Mapping[str, tuple[Path, ...]],
    enhancer_moments: Mapping[str, Path],
) -> dict[str, Any]:
    """Everything that shapes one style's training."""
    config = bench.config
    return {
        "version": VERSION,
        **bench.identity,
        "adapter": asdict(spec),
        "moments": [moments[source].name for source in spec.sources or (spec.style,)],
        "prior_moments": [folder.name for folder in prior_moments.get(spec.style, ())],
        "enhancer_moments": enhancer_moments[spec.style].name if spec.style in enhancer_moments else None,
        "schedule": asdict(_schedule(config.optim)),
        "horizon": None if config.optim.schedule in PREFIX_SAFE else config.train.steps,
        "batch": [config.train.batch_size, config.train.accumulation],
        "adamw": [*config.optim.betas, config.optim.eps],
        "dropout": config.lora.dropout if spec.unet.rank or spec.text_encoder.rank else 0.0,
        **_bits(config),
    }


def _bits(config: TrialConfig) -> dict[str, Any]:
    """Settings that are part of the recipe where its very bits are: other ones change them, by rounding only."""
    backend = config.backend
    if not config.train.deterministic:
        return {}
    plain = {} if backend.fused == "auto" else {"fused": backend.fused}
    return {"deterministic": backend.micro_batch, **plain}


def _legs(bench: Bench, keys: Mapping[str, str], wanted: list[int]) -> dict[tuple[int, int], list[str]]:
    """Styles by the snapshot that they go on from (0 = from the beginning) and the last one that they lack."""
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for style, key in keys.items():
        there = {int(part) for part in bench.store.parts(STAGE, key)}
        missing = [step for step in wanted if step not in there]
        if missing:  # else another process made them while we waited for the lock
            start = max((step for step in there if step < missing[0]), default=0)
            groups[start, missing[-1]].append(style)
    return dict(sorted(groups.items()))


def _train(
    bench: Bench, order: _Order, leg: tuple[int, int], styles: list[str]
) -> dict[str, tuple[int, str]]:
    """Train some styles from one snapshot to another; returns those that stopped."""
    store, keys = bench.store, order.keys
    job = _job(bench, order, leg, styles)

    def keep(style: str, step: int, folder: Path) -> None:
        if store.find(STAGE, keys[style], part_name(step)) is None:
            recipe = order.recipes[style]
            store.publish(folder, STAGE, keys[style], part_name(step), style=style, content=recipe)
            if step in order.wanted:
                store.claim(STAGE, keys[style], part_name(step))

    with store.workspace() as work, beside(PUBLISHERS, "publishing adapters") as others:

        def publish(style: str, step: int, folder: Path) -> None:
            others.do(partial(keep, style, step, folder))

        outcome = bench.backend.train(job, work, bench.progress, publish, bench.tracker.log_losses)
    return dict(outcome.failed)


def _job(bench: Bench, order: _Order, leg: tuple[int, int], styles: list[str]) -> TrainJob:
    config, (start, end) = bench.config, leg
    last = {style: bench.store.path(STAGE, order.keys[style], part_name(start)) for style in styles}
    wanted = tuple(step for step in order.wanted if start < step <= end)
    return TrainJob(
        model=bench.model,
        adapters=tuple(order.specs[style] for style in styles),
        moments={source: order.moments[source] for s in styles for source in order.specs[s].sources or (s,)},
        snapshots=wanted,
        restart_points=_restart_points(start, wanted, config.train.checkpoint_every),
        schedule=_schedule(config.optim),
        schedule_steps=config.train.steps,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
        betas=(config.optim.betas[0], config.optim.betas[1]),
        eps=config.optim.eps,
        dropout=config.lora.dropout,
        prior_moments={s: order.prior_moments[s] for s in styles if s in order.prior_moments},
        enhancer_moments={s: order.enhancer_moments[s] for s in styles if s in order.enhancer_moments},
        resume=last if start else {},
        start_step=start,
        micro_batch=config.backend.micro_batch,
        compile=config.backend.compile,
        graphs=config.backend.graphs == "auto",
        deterministic=config.train.deterministic,
        log_every=config.train.log_every,
    )


def _restart_points(start: int, wanted: Sequence[int], every: int) -> tuple[int, ...]:
    """Steps between the wanted ones from which training may have to go on."""
    points = range((start // every + 1) * every, wanted[-1], every) if every else range(0)
    return tuple(step for step in points if step not in wanted)


def _drop_checkpoints(bench: Bench, keys: list[str], wanted: list[int]) -> None:
    """Remove restart points that a finished run no longer needs, unless some trial claimed them as its snapshots."""
    for key in keys:
        parts = bench.store.parts(STAGE, key)
        if part_name(wanted[-1]) in parts:
            for part in parts:
                if int(part) < wanted[-1]:
                    bench.store.discard(STAGE, key, part, unclaimed=True)


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) rows of a snapshot's losses.csv."""
    with (folder / "losses.csv").open(newline="") as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
