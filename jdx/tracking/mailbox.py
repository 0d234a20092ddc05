"""Runs calls to a service in order on a thread of their own, so that a hanging service holds nobody up."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Mailbox:
    """Calls posted from any thread, made one after the other; `post` returns at once.

    The first call that raises is logged as a warning, once, and all later calls are dropped.
    """

    def __init__(self, name: str, *, consequence: str) -> None:
        self._name, self._consequence = name, consequence
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._broken = self._closed = False
        self._last: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def post(self, call: Callable[[], object]) -> None:
        """Have `call()` made in its turn; ignored once the mailbox is closed or a call has failed."""
        if not (self._broken or self._closed):
            self._calls.put(call)

    def close(self, timeout: float, last: Callable[[], object]) -> bool:
        """Take no more calls and wait up to `timeout` seconds for the posted ones; False when time ran out.

        `last()` is called at the very end, even after a failure: the service's own clean-up.
        """
        if not self._closed:
            self._closed = True
            self._last = last
            self._calls.put(None)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            return True
        if not self._broken:
            self._broken = True
            log.warning("%s did not end within %.0f s; %s", self._name, timeout, self._consequence)
        return False

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not self._broken:
                self._make(call)
        self._make(self._last)

    def _make(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # whatever the service raises, the trial goes on
            if not self._broken:
                what = f"{type(error).__name__}: {error}"
                log.warning("%s failed (%s); %s", self._name, what, self._consequence)
            self._broken = True
