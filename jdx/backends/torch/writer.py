"""Snapshots written in threads while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from jdx.beside import threads

log = logging.getLogger(__name__)

HandOver = Callable[[], None]
Work = Callable[[], HandOver]
"""Writes one adapter's files; its result hands them over."""
FILES = 4
"""Adapters of a snapshot that are written at once: each takes some copies of its state, 100 MB at rank 32."""


class Writer:
    """Does the works of one snapshot at a time: files are written side by side, and handed over one by one in order.

    What a work raises ends its snapshot and is raised by the next `look`, `wait` or `begin`.
    """

    def __init__(self) -> None:
        self._files = ThreadPoolExecutor(threads(FILES), thread_name_prefix="snapshots' files")
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
        """Wait for the snapshot in flight and end the threads; when that is interrupted, for the works in hand only."""
        try:
            self.wait()
        finally:
            self._abandoned = True
            self._pool.shutdown(wait=True)
            self._files.shutdown(wait=True)

    def _do(self, works: Sequence[Work]) -> None:
        begun = [self._files.submit(self._written, work) for work in works]
        try:
            for one in begun:
                if (hand_over := one.result()) is None:
                    return
                hand_over()
        finally:
            for one in begun:
                one.cancel()
            wait(begun)  # what was begun is whole before its snapshot's end is told

    def _written(self, work: Work) -> HandOver | None:
        return None if self._abandoned else work()


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
