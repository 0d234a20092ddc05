"""StyleID's features on their way: from the network to where they are kept, and back one time step ahead.

What is kept on the device is copied there in line. What is kept in host memory travels on a stream of its own, so that
copies and passes overlap: about 0.3 GB a step for 25 pictures' queries, a few milliseconds beside a pass of fifty.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jdx.backends.torch.attention import Parts
from jdx.backends.torch.styleid_memory import Inverted

CONTENT, STYLE = ("q",), ("k", "v")
"""The parts of a self-attention that a content and a reference lend."""
ALL = (*CONTENT, *STYLE)
AHEAD = 2
"""Time steps whose features may be on their way at once; more would only take memory."""


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream


class Keeper:
    """Writes what captures meet into some pictures' inversions."""

    def __init__(self, into: Sequence[Inverted], device: torch.device, *, lent: bool = False):
        """lent: what is met will be written over by the next pass, so what travels is copied first."""
        self.into, self.device, self.lent, self._stream = into, device, lent, _stream(device)
        self._under_way: deque[torch.cuda.Event] = deque()

    def keep(self, row: int, met: Mapping[str, Parts]) -> None:
        """Keep the inputs {layer: parts} of one time step. Rows beyond the pictures' number are filling."""
        pairs = [
            (one.features[layer, part][row], features)
            for layer, parts in met.items()
            for part, x in parts.items()
            for one, features in zip(self.into, x[: len(self.into)], strict=True)
            if (layer, part) in one.features
        ]
        near = [pair for pair in pairs if pair[0].device == pair[1].device]
        if near:
            torch._foreach_copy_([kept for kept, _ in near], [x for _, x in near])
        if len(near) < len(pairs):
            self._send([pair for pair in pairs if pair[0].device != pair[1].device])

    def _send(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        assert self._stream is not None
        computing = torch.cuda.current_stream(self.device)
        if self.lent:
            pairs = [(kept, x.clone()) for kept, x in pairs]
        if len(self._under_way) == AHEAD:
            computing.wait_event(self._under_way.popleft())
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            for kept, x in pairs:
                kept.copy_(x, non_blocking=True)
                x.record_stream(self._stream)
        self._under_way.append(self._stream.record_event())

    def close(self) -> None:
        """Whatever the device does from now on finds everything kept."""
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)


class Lender:
    """The contents' queries and their references' keys and values, time step by time step.

    rows: of a pass, at least as many as contents; the last content fills them up. whole: give every tensor its own
    memory, as compiled code wants to find it.
    """

    def __init__(
        self,
        contents: Sequence[Inverted],
        references: Sequence[Inverted],
        device: torch.device,
        rows: int = 0,
        *,
        whole: bool = False,
    ):
        fill = max(0, rows - len(contents))
        self.contents = [*contents, *[contents[-1]] * fill]
        self.own = references = [*references, *[references[-1]] * fill]
        self.references = list({id(one): one for one in references}.values())
        place = {id(one): i for i, one in enumerate(self.references)}
        self.which = torch.tensor([place[id(one)] for one in references], device=device)
        self.device, self.whole = device, whole
        self._layers = list(dict.fromkeys(layer for layer, _ in self.contents[0].features))
        everyone = [*self.contents, *self.references]
        far = any(x.device != device for one in everyone for x in one.features.values())
        self._stream = _stream(device) if far else None
        self._ready: dict[int, tuple[dict[tuple[str, str], Tensor], torch.cuda.Event]] = {}
        self._rooms: deque[dict[tuple[str, str], Tensor]] = deque()

    def lend(self, row: int, then: int | None = None) -> dict[str, dict[str, Tensor]]:
        """{layer: {"q", "k", "v": (B, S, C)}} of one time step on the device. then: the one wanted next."""
        if self._stream is None:
            # Each content's own reference at once: stacking some and picking rows would move everything twice.
            kept = self._kept(row, self.own if len(self.references) > 1 else self.references)
            found = {name: torch.stack(some) for name, some in kept.items()}
        else:
            if row not in self._ready:
                self._fetch(row)
            found, event = self._ready.pop(row)
            torch.cuda.current_stream(self.device).wait_event(event)
            if then is not None:
                self._fetch(then)
        return {layer: {part: self._spread(found[layer, part]) for part in "qkv"} for layer in self._layers}

    def _spread(self, x: Tensor) -> Tensor:
        """References' parts for all their contents; what is one for each content already stays as it is."""
        if len(x) == len(self.contents):
            return x
        if len(x) > 1:
            return x[self.which]
        spread = x.expand(len(self.contents), -1, -1)
        return spread.contiguous() if self.whole else spread

    def _kept(self, row: int, references: Sequence[Inverted]) -> dict[tuple[str, str], list[Tensor]]:
        whose = dict.fromkeys(CONTENT, self.contents) | dict.fromkeys(STYLE, references)
        return {
            (layer, part): [one.features[layer, part][row] for one in some]
            for layer in self._layers
            for part, some in whose.items()
        }

    def _fetch(self, row: int) -> None:
        """Bring a time step's features into one of two rooms; the pass that used it last has been launched before."""
        assert self._stream is not None
        kept = self._kept(row, self.references)
        if len(self._rooms) < AHEAD:
            room = {
                name: some[0].new_empty(len(some), *some[0].shape, device=self.device)
                for name, some in kept.items()
            }
            for x in room.values():  # an error lets go of it while copies are on their way
                x.record_stream(self._stream)
        else:
            room = self._rooms.popleft()
        self._rooms.append(room)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            for name, some in kept.items():
                for place, x in zip(room[name], some, strict=True):
                    place.copy_(x, non_blocking=True)
        self._ready[row] = room, self._stream.record_event()
