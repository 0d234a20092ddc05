"""Which styles train in the same pass: alike in structure, and as many as fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jdx.backends.base import AdapterSpec, LoraSpec, TrainJob
from jdx.backends.torch import memory, repeatable
from jdx.backends.windows import alike, structure
from jdx.errors import BackendError
from jdx.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """Styles trained together, and the most samples of one style that go into one pass.

    rows: adapters that a pass is made for; where there are fewer styles the rest is filled (`seats`), so that all
    packs have the same shapes. 0 = as many as there are.
    """

    adapters: tuple[AdapterSpec, ...]
    most: int
    rows: int = 0

    @property
    def seats(self) -> tuple[AdapterSpec, ...]:
        """The adapters of all rows: the pack's own, then copies of the last that nobody asks for."""
        spare = max(0, self.rows - len(self.adapters))
        return (*self.adapters, *(_spare(self.adapters[-1], i) for i in range(spare)))

    @property
    def prior(self) -> bool:
        """Whether these styles have a second loss, of class pictures; all of a pack do or none does."""
        return self.adapters[0].prior_weight > 0

    def smaller(self, finished: Iterable[str]) -> list[Pack]:
        """What to try after this pack ran out of memory: half the styles, or half the samples of the last
        one.

        finished: styles that need no further training (they failed).
        Raises: BackendError when one sample of one style does not fit.
        """
        left = tuple(a for a in self.adapters if a.style not in set(finished))
        if len(left) > 1:
            return [Pack(half, self.most) for half in memory.even(left, -(-len(left) // 2))]
        if left and self.most == 1:
            raise BackendError(
                f"style {left[0].style}: one training sample does not fit into the GPU's memory; "
                "lower train.resolution or the rank, raise backend.memory if it is set, or use a larger GPU"
            )
        return [Pack(left, self.most // 2)] if left else []


def plan(
    job: TrainJob, available: Callable[[], int], need: Callable[[Sequence[AdapterSpec]], memory.Need]
) -> list[Pack]:
    """The packs of a job. available: bytes there are; need: what a group takes (not with `micro_batch`)."""
    if job.deterministic:
        return _fixed(job)
    packs = []
    for group in alike(job.adapters):
        samples = _samples(job, group)
        if job.micro_batch:
            styles, most = max(1, job.micro_batch // samples), min(job.micro_batch, samples)
        else:
            takes = need(group)
            styles, most = memory.fit(available(), takes, samples)
            log.info(
                "a sample takes %.3g GiB, an adapter %.3g GiB", takes.sample / 2**30, takes.adapter / 2**30
            )
        packs += [Pack(part, most) for part in memory.even(group, styles)]
    _tell(packs)
    return packs


def of_one_shape(packs: Sequence[Pack]) -> list[Pack]:
    """The packs, filled up where others of the same structure are larger: what is compiled for one serves all."""
    rows: dict[tuple[object, ...], int] = {}
    for pack in packs:
        shape = (pack.most, *structure(pack.adapters[0]))
        rows[shape] = max(rows.get(shape, 0), len(pack.adapters))
    return [replace(pack, rows=rows[pack.most, *structure(pack.adapters[0])]) for pack in packs]


def _fixed(job: TrainJob) -> list[Pack]:
    """Packs of a number of rows that depends on settings alone, of adapters that are alike in every size."""
    most = job.micro_batch or repeatable.SAMPLES
    packs = []
    for group in alike(job.adapters):
        sizes: dict[tuple[object, ...], list[AdapterSpec]] = {}
        for a in group:
            sizes.setdefault((a.unet, a.text_encoder, a.tokens and a.tokens.vectors), []).append(a)
        samples = _samples(job, group)
        rows = max(1, most // samples)
        for some in sizes.values():
            packs += [Pack(part, min(most, samples), rows) for part in memory.even(some, rows)]
    _tell(packs)
    return packs


def _samples(job: TrainJob, group: Sequence[AdapterSpec]) -> int:
    """Samples of one style in a batch."""
    return job.batch_size * (2 if group[0].prior_weight > 0 else 1)


def _tell(packs: Sequence[Pack]) -> None:
    sizes = [len(pack.adapters) for pack in packs]
    log.info("training %s in packs of %s", counted(sum(sizes), "style"), ", ".join(map(str, sizes)))


def _spare(adapter: AdapterSpec, number: int) -> AdapterSpec:
    """A copy that learns the same, but says no style's word: its text would change that word's vectors."""
    if adapter.tokens is None:
        return adapter
    captions, prior = ((("",) * len(texts)) for texts in (adapter.captions, adapter.prior_captions))
    tokens = replace(adapter.tokens, token=f"<spare_{number}>")
    return replace(adapter, captions=captions, prior_captions=prior, tokens=tokens)


def largest(group: Sequence[AdapterSpec]) -> AdapterSpec:
    """The first adapter, with parts that take at least the memory of any of the group's."""
    words = [a.tokens for a in group if a.tokens]
    return replace(
        group[0],
        tokens=max(words, key=lambda word: word.vectors, default=None),
        unet=widest(a.unet for a in group),
        text_encoder=widest(a.text_encoder for a in group),
    )


def widest(specs: Iterable[LoraSpec]) -> LoraSpec:
    """The spec that takes at least the memory of any of these: the highest rank on all of their targets, with
    DoRA if any has it.
    """
    used = [spec for spec in specs if spec.rank]
    targets = dict.fromkeys(target for spec in used for target in spec.targets)
    rank = max((spec.rank for spec in used), default=0)
    return LoraSpec(rank, 1.0, tuple(targets), dora=any(spec.dora for spec in used))
