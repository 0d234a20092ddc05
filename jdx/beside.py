"""Work done in threads beside what the caller goes on with, such as a device's next pass."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

log = logging.getLogger(__name__)


def threads(most: int) -> int:
    """At most so many threads, and no more than this process has cores."""
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return max(1, min(most, len(may)))


class Beside:
    """Begins works in the order given. ahead: how many may wait or run before `do` waits for the oldest; 0 = any."""

    def __init__(self, pool: ThreadPoolExecutor, ahead: int):
        self._pool, self._ahead = pool, ahead
        self._under_way: deque[Future[object]] = deque()

    def do(self, work: Callable[[], object]) -> None:
        """Have it done. Raises what an earlier one has failed of; this one is not begun then."""
        while self._under_way and (self._under_way[0].done() or len(self._under_way) == self._ahead):
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(work))

    def failures(self) -> list[BaseException]:
        """What has failed and was not raised yet, once all is done."""
        errors = [future.exception() for future in self._under_way]
        self._under_way.clear()
        return [error for error in errors if error is not None]


@contextmanager
def beside(count: int, name: str, ahead: int = 0) -> Iterator[Beside]:
    """Threads whose works are all done when the block has ended, whatever ended it.

    A work that fails is the block's failure; when the block has failed by itself, the log has the work's. It has the
    failures of further works too.
    """
    with ThreadPoolExecutor(count, thread_name_prefix=name) as pool:
        works = Beside(pool, ahead)
        try:
            yield works
        except BaseException:
            pool.shutdown(wait=True)
            _tell(name, works.failures())
            raise
    failures = works.failures()
    _tell(name, failures[1:])
    if failures:
        raise failures[0]


def _tell(name: str, failures: Iterable[BaseException]) -> None:
    for failure in failures:
        log.error("%s: %s", name, failure)
