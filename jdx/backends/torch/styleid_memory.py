"""Where StyleID's features live: on the device while they fit, else in host memory.

SD 2.1 at 512 px, six layers, 50 steps, bfloat16: 0.59 GB of queries for a content picture, 1.18 GB of keys
and values for a style picture. They depend neither on gamma nor on the temperature, so they are kept for the
next trial while there is room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor

from jdx.backends.torch.devices import free_memory
from jdx.errors import BackendError

Key = tuple[object, ...]
Shape = tuple[int, ...]
Shapes = Mapping[tuple[str, str], Shape]
"""{(layer, part): (time steps, S, C)} of one picture."""

DEVICE_SHARE, HOST_SHARE = 0.6, 0.5
"""Of what is free; the rest is for activations, decoding and the neighbours."""
KEPT_SHARE = 0.4
"""Of what a running job may take stays taken after it: training and scoring in the same process come next."""
ENOUGH = 8
"""Pictures in a pass that keep a device nearly as busy as any larger number."""


@dataclass(eq=False)
class Inverted:
    """One picture's DDIM inversion: its first latent and the attention inputs met on the way.

    features[layer, part]: (n, S, C) for the n time steps with injection, ascending. latent: z_T (C, h, w),
    None until the inversion is complete.
    """

    features: dict[tuple[str, str], Tensor]
    latent: Tensor | None = None


@dataclass(frozen=True)
class Place:
    """A memory for features. limit(used): bytes that features may take in all, given what they take now."""

    device: torch.device
    limit: Callable[[int], int]
    pinned: bool = False

    def empty(self, shape: Shape, dtype: torch.dtype) -> Tensor:
        """Uninitialised memory here."""
        return torch.empty(shape, dtype=dtype, device=self.device, pin_memory=self.pinned)


def places(device: torch.device) -> tuple[Place, ...]:
    """The device's own memory, then pinned host memory; on a CPU the one memory there is. Never a disk."""
    cpu = torch.device("cpu")
    if device.type != "cuda":
        return (Place(cpu, _host_limit),)

    def device_limit(used: int) -> int:
        free = free_memory(device)
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(DEVICE_SHARE * (free + reusable + used))

    return Place(device, device_limit), Place(cpu, _host_limit, pinned=True)


def _host_limit(used: int) -> int:
    return int(HOST_SHARE * (psutil.virtual_memory().available + used))


def size(shapes: Shapes, dtype: torch.dtype) -> int:
    """Bytes of one picture's features."""
    return sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize


@dataclass
class _Entry:
    place: Place
    size: int
    job: int
    inverted: Inverted


@dataclass
class FeatureMemory:
    """Inversions by key, kept after use and dropped when a running one needs their room.

    First to go are those that neither this job nor the one before used, oldest first; then the most recently
    used. A sweep runs over the same pictures in the same order again and again, and dropping the oldest would
    drop exactly what is needed next.
    """

    places: Sequence[Place]
    sizes: dict[tuple[int, tuple[str, ...]], dict[str, tuple[int, int]]] = field(default_factory=dict)
    """(S, C) of each layer's inputs, by (resolution, layers)."""
    _entries: dict[Key, _Entry] = field(default_factory=dict)  # in the order of their last use
    _busy: Counter[Key] = field(default_factory=Counter)
    _job: int = 0

    def next_job(self) -> None:
        """Count a job, so that leftovers of older ones are known."""
        self._job += 1

    def trim(self) -> None:
        """Drop what is more than the neighbours should have to bear between two jobs."""
        for place in self.places:
            self._drop_to(place, int(KEPT_SHARE * place.limit(self.used(place))))

    def clear(self) -> None:
        """Forget all inversions that are not in use."""
        for key in [key for key in self._entries if not self._busy[key]]:
            del self._entries[key]

    def holds(self, key: Key) -> bool:
        """Whether `get` would give a complete inversion now."""
        entry = self._entries.get(key)
        return entry is not None and entry.inverted.latent is not None

    def get(self, key: Key) -> Inverted | None:
        """A complete inversion, or None."""
        if not self.holds(key):
            return None
        entry = self._entries[key]
        self._entries[key] = self._entries.pop(key)
        entry.job = self._job
        return entry.inverted

    @contextmanager
    def using(self, keys: Sequence[Key]) -> Iterator[None]:
        """While it lasts these keys are not dropped; at the end those without a latent are, as unfinished."""
        self._busy.update(keys)
        try:
            yield
        finally:
            self._busy.subtract(keys)
            for key in keys:
                if key in self._entries and self._entries[key].inverted.latent is None:
                    del self._entries[key]

    def allocate(self, key: Key, shapes: Shapes, dtype: torch.dtype) -> Inverted:
        """Memory for a picture's features in the first place that has room, dropping what is not in use.

        Raises: BackendError when no place has room.
        """
        self._entries.pop(key, None)  # an unfinished one of a batch that did not fit
        need = size(shapes, dtype)
        for place in self.places:
            if self._room(place) >= need:
                self._drop_to(place, place.limit(self.used(place)) - need)
                inverted = Inverted({name: place.empty(shape, dtype) for name, shape in shapes.items()})
                self._entries[key] = _Entry(place, need, self._job, inverted)
                return inverted
        raise BackendError(
            f"StyleID's features of one picture need {_gib(need)}, and there is room for "
            + " and ".join(f"{_gib(self._room(p))} on {p.device}" for p in self.places)
            + "; ask for fewer layers, steps, references or pixels, or a smaller batch"
        )

    def count_that_fit(self, each: int, wanted: int, beside: int = 0) -> int:
        """How many pictures of `each` bytes to take at a time, at most `wanted`, beside those in use.

        beside: bytes that others will take.

        A second place is called upon only when the first would leave small batches: its features travel at
        every step.
        """
        count = 0
        for place in self.places:
            room = self._room(place)
            theirs = min(room, beside)
            beside -= theirs
            count += (room - theirs) // each if each else wanted
            if count >= min(wanted, ENOUGH):
                break
        return max(1, min(wanted, count))

    def used(self, place: Place, *, busy_only: bool = False) -> int:
        """Bytes of features in a place."""
        entries = ((key, entry) for key, entry in self._entries.items() if entry.place is place)
        return sum(entry.size for key, entry in entries if self._busy[key] or not busy_only)

    def _room(self, place: Place) -> int:
        return max(0, place.limit(self.used(place)) - self.used(place, busy_only=True))

    def _drop_to(self, place: Place, most: int) -> None:
        """Drop idle inversions of a place until it holds at most so many bytes."""
        idle = [key for key, entry in self._entries.items() if entry.place is place and not self._busy[key]]
        stale = [key for key in idle if self._entries[key].job < self._job - 1]
        recent = [key for key in idle if key not in stale]
        for key in [*stale, *reversed(recent)]:
            if self.used(place) <= most:
                return
            del self._entries[key]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
