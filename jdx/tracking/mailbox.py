"""Runs calls to a service in order on a thread of their own, so that a hanging service holds nobody up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Mailbox:
    """Calls posted from any thread, made one after the other; `post` returns at once.

    The first call that raises is logged as a warning (unless `quiet`), and all later calls are dropped.
    """

    def __init__(self, name: str, *, consequence: str, quiet: bool = False) -> None:
        self.broken = False
        """Whether a call has failed or `close` ran out of time."""
        self._name, self._consequence, self._quiet = name, consequence, quiet
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Have `call()` made in its turn; dropped once a call has failed. Not to be used after `close`."""
        if not self.broken:
            self._calls.put(call)

    def close(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the posted calls are made; False when time ran out.

        Then the call in hand is left to itself, with its thread, and the rest are dropped.
        """
        self._calls.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._break(f"did not answer within {timeout:.0f} s")
            return False
        return True

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.broken:
                continue
            try:
                call()
            except Exception as error:  # whatever the service raises, the trial goes on
                self._break(f"failed ({type(error).__name__}: {error})")

    def _break(self, what: str) -> None:
        if not self.broken:
            level = logging.DEBUG if self._quiet else logging.WARNING
            log.log(level, "%s %s; %s", self._name, what, self._consequence)
        self.broken = True
