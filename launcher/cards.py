"""The machine's cards, as NVML tells (nvidia-ml-py); no CUDA context is made and no framework imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pynvml

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """A GPU, or a MIG part of one. `id` is the UUID, which CUDA_VISIBLE_DEVICES takes whatever the order of devices."""

    id: str
    name: str
    index: str
    memory: int
    """Bytes."""


class Cards:
    """Those that this process may use: all of NVML's, cut by CUDA_VISIBLE_DEVICES."""

    def list(self) -> list[Card]:
        """The cards; empty without a driver."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        try:
            with _nvml():
                cards = [card for index in range(pynvml.nvmlDeviceGetCount()) for card in _cards(index)]
        except pynvml.NVMLError as error:
            log.debug("no cards: %s", error)
            return []
        return cards if visible is None else chosen(cards, visible)

    def used(self, card: Card) -> int:
        """Bytes of a card's memory that are in use, by anybody. Raises: LookupError when the card does not answer."""
        try:
            with _nvml():
                return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(card.id)).used)
        except pynvml.NVMLError as error:
            raise LookupError(f"{card.name} {card.id} does not answer: {error}") from error


def chosen(cards: Sequence[Card], visible: str) -> list[Card]:
    """What a value of CUDA_VISIBLE_DEVICES leaves: indices or beginnings of UUIDs, up to the first unknown one."""
    found = []
    for word in (part.strip() for part in visible.split(",")):
        match = [card for card in cards if word and (card.index == word or card.id.startswith(word))]
        if len(match) != 1 or match[0] in found:
            break  # as CUDA reads it: what stands behind an invalid entry does not count
        found.append(match[0])
    return found


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _cards(index: int) -> list[Card]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        parted = pynvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:
        parted = False
    if not parted:
        return [_card(handle, str(index))]
    cards = []
    for part in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            cards.append(_card(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, part), f"{index}:{part}"))
        except pynvml.NVMLError:
            continue  # this place of the card holds no part
    return cards


def _card(handle: object, index: str) -> Card:
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    return Card(uuid, name, index, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total))
