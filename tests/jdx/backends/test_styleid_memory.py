"""StyleID's memory by itself, with blobs of 100 bytes: what is kept, what leaves first, where it goes."""

from __future__ import annotations

import pytest
import torch

from jdx.backends.torch.styleid_memory import FeatureMemory, Key, Place
from jdx.errors import BackendError
from tests.jdx.backends.styleid_jobs import CPU

SHAPES = {("layer", "q"): (1, 1, 100)}
BYTE = torch.int8


def keep(memory: FeatureMemory, name: str) -> None:
    key: Key = (name,)
    with memory.using([key]):
        memory.allocate(key, SHAPES, BYTE).latent = torch.zeros(1)


def known(memory: FeatureMemory, names: str) -> str:
    return "".join(name for name in names if memory.get((name,)) is not None)


def test_memory_drops_stale_ones_first_then_the_most_recent() -> None:
    memory = FeatureMemory((Place(CPU, lambda used: 350),))
    memory.next_job()
    for name in "abcd":
        keep(memory, name)
    assert known(memory, "abcd") == "abd"  # c made room: in a second round, a and b are wanted before it
    for _ in range(2):
        memory.next_job()
    assert known(memory, "b") == "b"
    keep(memory, "e")
    assert known(memory, "abde") == "bde"  # a, unused for two jobs, left first
    memory.trim()  # to 140 bytes of 350
    assert known(memory, "abde") == "b"
    memory.clear()
    assert known(memory, "abde") == ""


def test_memory_never_drops_what_is_in_use() -> None:
    memory = FeatureMemory((Place(CPU, lambda used: 250),))
    with memory.using([("a",), ("b",), ("c",)]):
        memory.allocate(("a",), SHAPES, BYTE).latent = torch.zeros(1)
        memory.allocate(("b",), SHAPES, BYTE)
        assert memory.count_that_fit(100, 9) == 1
        memory.clear()
        with pytest.raises(BackendError, match=r"room for 0.00 GiB on cpu; ask for fewer"):
            memory.allocate(("c",), SHAPES, BYTE)
        assert memory.used(memory.places[0]) == 200
    assert known(memory, "abc") == "a"
    assert memory.used(memory.places[0]) == 100  # b was never finished


def test_memory_prefers_the_first_place_for_good_batches() -> None:
    def fit(near: int, far: int, wanted: int) -> int:
        memory = FeatureMemory((Place(CPU, lambda used: near), Place(CPU, lambda used: far)))
        return memory.count_that_fit(100, wanted)

    assert fit(near=1000, far=10_000, wanted=25) == 10  # enough to keep a device busy
    assert fit(near=300, far=10_000, wanted=25) == 25
    assert fit(near=300, far=0, wanted=2) == 2
    assert fit(near=0, far=0, wanted=25) == 1
    assert FeatureMemory(()).count_that_fit(0, 25) == 1
    assert FeatureMemory((Place(CPU, lambda used: 0),)).count_that_fit(0, 25) == 25
