"""`backend.device=cuda:1` in a process whose current card is the first: whoever waits must wait for the second."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from jdx.backends.torch.develop import reached
from jdx.backends.torch.styleid_features import Keeper

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


class Stream:
    """A stream without a device: it notes for whom it was told to wait."""

    waits: list[tuple[torch.device, torch.device]]

    def __init__(self, device: torch.device = FIRST):
        self.device = device

    def wait_stream(self, other: Stream) -> None:
        self.waits.append((self.device, other.device))

    def record_event(self) -> Event:
        return Event()

    def wait_event(self, event: Event) -> None:
        assert event.stream is None


class Event:
    """An event without a device."""

    stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or Stream()


@pytest.fixture(autouse=True)
def _no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stream, "waits", [], raising=False)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())


def test_pictures_are_fetched_once_their_card_has_made_them() -> None:
    event: Any = reached(SECOND)
    assert event.stream.device == SECOND
    assert reached(torch.device("cpu")) is None


def test_features_travel_once_their_card_has_made_them() -> None:
    keeper = Keeper([], SECOND)
    keeper._send([])
    keeper.close()
    assert Stream.waits == [(SECOND, SECOND), (SECOND, SECOND)]
