"""A card that jobs share."""

import pytest
import torch

from jdx.backends.torch import memory
from jdx.backends.torch.devices import free_memory, limit_memory, memory_limit
from jdx.backends.torch.memory import GIB


@pytest.mark.parametrize(("share", "free"), [("", 60), ("1", 60), ("0.5", 30), ("0.1", 0)])
def test_a_job_that_shares_a_card_takes_its_share_only(
    monkeypatch: pytest.MonkeyPatch, share: str, free: int
) -> None:
    monkeypatch.setenv("JDX_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    assert free_memory(torch.device("cuda", 0)) == free


def test_a_setting_holds_a_job_to_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card of 100 GiB, of which 60 are free and 20 are this process's."""
    shares: list[float] = []
    device, card = torch.device("cuda", 0), type("Card", (), {"total_memory": 100 * GIB})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: shares.append(share))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (60 * GIB, 100 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 20 * GIB)
    for share, gib, free in (
        ("", 24.0, 4),
        ("0.5", 24.0, 4),
        ("0.3", 90.0, 10),
        ("", 99.0, 60),
        ("", 0.0, 60),
    ):
        monkeypatch.setenv("JDX_GPU_SHARE", share)
        limit_memory(device, gib)
        assert free_memory(device) == free * GIB
        assert memory_limit(device) == (gib * GIB or None)
    assert shares == [0.24, 0.24, 0.3, 0.99, 1.0]


def test_on_a_cpu_it_is_the_budget_of_a_pass() -> None:
    cpu = torch.device("cpu")
    usual = memory.budget(cpu)
    try:
        limit_memory(cpu, 0.25)
        assert memory.budget(cpu) == GIB // 4
    finally:
        limit_memory(cpu, 0.0)
    assert memory.budget(cpu) == usual
