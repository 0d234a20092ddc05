"""The time in which slurmctld does not answer: said in one line, waited out, and bounded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from launcher.slurm_queue import SlurmUnreachableError

log = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to reach it; 1, 2, 4 ... before."""


class SlurmGoneError(RuntimeError):
    """slurmctld has not answered for as long as the settings wait."""


class Outage:
    """Whether slurmctld answers, as seen by everything that asks it something."""

    def __init__(self, limit: float):
        """limit: seconds to wait for it."""
        self.limit = limit
        self._since: float | None = None
        self._failures = 0
        self._next = float("-inf")

    @property
    def resting(self) -> bool:
        """Whether the last question found nobody and it is too early for the next."""
        return self._since is not None and time.monotonic() < self._next

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Round a question to Slurm. Raises: what the question raises; SlurmGoneError instead after the limit."""
        try:
            yield
        except SlurmUnreachableError as error:
            self._failed(error)
            raise
        if self._since is not None:
            log.warning("Slurm answers again, after %.0f s", time.monotonic() - self._since)
        self._since, self._failures = None, 0

    def insist(self, question: Callable[[], T]) -> T:
        """Ask until there is an answer. Raises: SlurmGoneError after the limit."""
        while True:
            try:
                with self.watch():
                    return question()
            except SlurmUnreachableError:
                time.sleep(max(0.0, self._next - time.monotonic()))

    def _failed(self, error: SlurmUnreachableError) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            log.warning(
                "Slurm does not answer (%s): waiting for it, %.0f minutes at most; running jobs go on",
                error,
                self.limit / 60,
            )
        self._next = now + min(LONGEST_PAUSE, 2.0**self._failures)
        self._failures += 1
        if now - self._since >= self.limit:
            raise SlurmGoneError(
                f"Slurm has not answered for {(now - self._since) / 60:.0f} minutes ({error}). Its jobs go on; when "
                "it is back the same command takes them over. launcher.unreachable_minutes says how long to wait"
            ) from error
