"""StyleID's features on their way from host memory: an error may let go of them before they have arrived."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from jdx.backends.torch import styleid_features
from jdx.backends.torch.styleid_features import CONTENT, STYLE, Lender
from jdx.backends.torch.styleid_memory import Inverted

CARD = torch.device("meta")


class Stream:
    """A stream without a device."""

    def wait_stream(self, other: object) -> None: ...

    def wait_event(self, event: object) -> None: ...

    def record_event(self) -> None: ...


def test_memory_is_not_given_to_others_while_copies_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that ran out of memory is tried again at once, in the memory of the one that failed."""
    stream = Stream()
    monkeypatch.setattr(styleid_features, "_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())
    awaits: dict[int, object] = {}  # what a tensor's memory waits for before it is anybody else's
    monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: awaits.update({id(x): stream}))
    content, reference = (
        Inverted({("layer", part): torch.zeros(3, 4, 8) for part in parts}) for parts in (CONTENT, STYLE)
    )
    lender = Lender([content, content], [reference, reference], CARD)
    for row in (2, 1, 0):
        lender.lend(row, row - 1 if row else None)
        for room in lender._rooms:
            assert {part: len(x) for (_, part), x in room.items()} == {"q": 2, "k": 1, "v": 1}
            assert all(awaits.get(id(x)) is stream for x in room.values())
    assert len(lender._rooms) == 2
