"""Snapshots written in a thread while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

log = logging.getLogger(__name__)

Work = Callable[[], None]
"""Writes one adapter's files and hands them over."""


class Writer:
    """Does the works of one snapshot at a time, one after the other, in a thread of its own.

    What a work raises ends its snapshot and is raised by the next `look`, `wait` or `begin`.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshots")
        self._flight: Future[None] | None = None
        self._abandoned = False

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._flight is not None and not self._flight.done()

    def begin(self, works: Sequence[Work]) -> None:
        """Start with a snapshot, once the one before it is written."""
        self.wait()
        self._flight = self._pool.submit(self._do, works)

    def look(self) -> None:
        """Raise what the snapshot in flight has failed of; does not wait for it."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until the snapshot in flight is written. Raises what it failed of."""
        if (flight := self._flight) is not None:
            try:
                flight.result()
            finally:
                if flight.done():  # and not the wait interrupted
                    self._flight = None

    def close(self) -> None:
        """Wait for the snapshot in flight and end the thread; when that is interrupted, for the work in hand only."""
        try:
            self.wait()
        finally:
            self._abandoned = True
            self._pool.shutdown(wait=True)

    def _do(self, works: Sequence[Work]) -> None:
        for work in works:
            if self._abandoned:
                return
            work()


@contextmanager
def writing() -> Iterator[Writer]:
    """A writer whose last snapshot is there when the block has ended, whatever ended it.

    A snapshot that fails meanwhile is the block's failure; an interruption stays one, and the log has the failure.
    """
    writer = Writer()
    try:
        yield writer
    except BaseException as reason:
        try:
            writer.close()
        except Exception as failure:
            if isinstance(reason, Exception):
                raise
            log.error("a snapshot could not be written: %s", failure)
        raise
    writer.close()
