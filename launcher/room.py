"""The room that a pool has: this machine's cards, or the CPU's slots where there are none, as far as they are free."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from launcher.base import JobSpec
from launcher.cards import Card, Cards
from launcher.places import Hold, Place, Places
from launcher.quarantine import Ward
from launcher.settings import PoolSettings

log = logging.getLogger(__name__)

Wish = tuple[list[Place], float, int]
"""Places that would do, the share of each, and how many of them."""


class Room:
    """Raises: PermissionError when the folder of leases is closed to us."""

    def __init__(self, settings: PoolSettings, nvml: Cards):
        self.settings = settings
        self._nvml = nvml
        self.leases = Places(Path(settings.leases) if settings.leases else None)
        self.cards = {card.id: card for card in nvml.list()}
        cores = len(os.sched_getaffinity(0))
        slots = settings.cpu_slots or max(1, cores // 2)
        self.cpu = Place("cpu", slots)
        self._threads = settings.threads_per_job or max(1, cores // (len(self.cards) or slots))
        self._env = dict(os.environ)
        self._wishes: set[Place] = set()
        self._ward = Ward(self.leases, settings.probe_every)

    @property
    def places(self) -> list[Place]:
        """All there is."""
        return [Place(card) for card in self.cards] or [self.cpu]

    def title(self, place: Place) -> str:
        """For people."""
        card = self.cards.get(place.id)
        return f"{card.name} {card.index}" if card else "CPU"

    def closed(self, place: Place, used: float) -> str:
        """Why nothing is started there; empty when it is open."""
        return self.leases.quarantined(place) or self._foreign(place, used)

    def wish(self, spec: JobSpec | None) -> Wish:
        """What a job asks for; None: a card. Without any card a GPU job runs on the CPU."""
        gpus, cpus = (1.0, 1) if spec is None else (spec.gpus, spec.cpus)
        if gpus == 0 or not self.cards:
            wanted = math.ceil(cpus / self._threads) if cpus > 1 else 1
            return [self.cpu], float(min(wanted, self.cpu.size)), 1
        return self.places, min(gpus, 1.0), max(1, int(gpus))

    def free(self, wish: Wish, idle: Iterable[Hold]) -> int:
        """How many such jobs would find room, if what idle workers hold is given back; tells others when none would."""
        places, share, count = wish
        used = self.leases.used(places)
        for hold in idle:
            used[hold.place.id] = used.get(hold.place.id, 0.0) - hold.share
        room = [
            int((place.size - used[place.id]) / share + 1e-6)
            for place in places
            if not self.closed(place, used[place.id])
        ]
        found = sum(room) // count
        self.wait_for(places, waiting=found == 0)
        return found

    def take(self, wish: Wish) -> list[Hold] | None:
        """Lease it; None when there is no room."""
        places, share, count = wish
        return self.leases.take(places, share, count, self._foreign)

    def wait_for(self, places: Collection[Place], *, waiting: bool) -> None:
        """Let other pools know whether we wait for a place."""
        if waiting:
            self._wishes.update(places)
            self.leases.want(places)
        elif self._wishes:
            self.leases.unwant(self._wishes)
            self._wishes.clear()

    def set_aside(self, gpus: Iterable[str], reason: str) -> None:
        """Cards that have failed: nobody uses them until a probe succeeds."""
        for gpu in gpus:
            if gpu in self.cards:
                log.warning("%s is set aside: %s", self.cards[gpu].name, reason)
                self.leases.quarantine(Place(gpu), reason)

    def environment(self, spec: JobSpec, gpus: tuple[str, ...]) -> dict[str, str]:
        """Of a worker with these cards."""
        env = dict(self._env)
        threads = spec.cpus if spec.cpus > 1 else self._threads
        if self.settings.threads_per_job or spec.cpus > 1 or "OMP_NUM_THREADS" not in env:
            env["OMP_NUM_THREADS"] = str(threads)
        if self.cards:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            env["JDX_GPU_SHARE"] = f"{min(spec.gpus, 1.0):g}"
        return {**env, **spec.env}

    def drive(self) -> None:
        """Probe the cards that were set aside, when it is time."""
        self._ward.drive(self.places)

    def close(self) -> None:
        """Wait for nothing any more."""
        self.wait_for((), waiting=False)
        self._ward.close()

    def _foreign(self, place: Place, used: float) -> str:
        """Why a card is left alone: others use it without a lease, or it does not answer."""
        card: Card | None = self.cards.get(place.id)
        if card is None:
            return ""
        try:
            memory = self._nvml.used(card)
        except LookupError as error:
            return str(error)
        foreign = (memory - used * card.memory) / 2**30
        if foreign > self.settings.foreign_memory:
            return f"other processes use {foreign:.1f} GiB of it"
        return ""
