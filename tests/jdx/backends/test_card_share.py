"""A card that jobs share."""

import pytest
import torch

from jdx.backends.torch.devices import free_memory


@pytest.mark.parametrize(("share", "free"), [("", 60), ("1", 60), ("0.5", 30), ("0.1", 0)])
def test_a_job_that_shares_a_card_takes_its_share_only(
    monkeypatch: pytest.MonkeyPatch, share: str, free: int
) -> None:
    monkeypatch.setenv("JDX_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    assert free_memory(torch.device("cuda", 0)) == free
