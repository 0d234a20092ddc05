"""The pool on real cards: what fakes cannot show. Skipped, with the reason, where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.base import JobSpec, Kind
from launcher.cards import Cards
from launcher.channel import Channel
from launcher.folder import read_lease, read_result
from launcher.gpu_pool import GpuPool
from launcher.settings import PoolSettings
from tests.launcher.test_gpu_pool import ended, until

GIB = 2**30
CARDS = Cards().list()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not CARDS, reason="no GPU, or no driver that NVML can ask")]


def look(folder: Path, payload: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """Fill some of the card and tell which it is."""
    import torch

    kept = torch.zeros(int(payload.get("gib", 0.1) * GIB), dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    (folder / "there").touch()
    time.sleep(payload.get("seconds", 0.0))
    names = [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]
    return {"uuids": names, "bytes": kept.numel()}


def exhaust(folder: Path, payload: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """More memory than any card has."""
    import torch

    return {"shape": list(torch.zeros(1 << 42, dtype=torch.uint8, device="cuda").shape)}


def overstep(folder: Path, payload: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """A device-side assert: the context of the process is of no more use."""
    import torch

    torch.zeros(4, device="cuda")[torch.tensor([5000], device="cuda")]
    torch.cuda.synchronize()
    return {}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[GpuPool]:
    """A pool with leases of its own."""
    executor = GpuPool(PoolSettings(leases=str(tmp_path / "leases"), probe_every=1.0))
    if executor.capacity() < 1:
        pytest.skip(f"every card is in use: {executor.slots()}")
    yield executor
    executor.close(kill=True)


def spec(folder: Path, job: str, gpus: float = 1.0, **payload: Any) -> JobSpec:
    """A job of this file."""
    folder.mkdir()
    return JobSpec(folder, f"tests.launcher.test_real_cards:{job}", payload, gpus=gpus, name=folder.name)


def test_the_probe_passes_on_a_card_and_fails_without() -> None:
    for visible, passes in ((CARDS[0].id, True), ("", False)):
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
        done = subprocess.run(
            [sys.executable, "-m", "launcher.probe"], env=env, capture_output=True, check=False
        )
        assert (done.returncode == 0) is passes, done.stderr


def test_torch_sees_the_leased_card(pool: GpuPool, tmp_path: Path) -> None:
    status = ended(pool, pool.submit(spec(tmp_path / "job", "look")))
    assert status.code == 0, status
    seen = (read_result(tmp_path / "job") or {})["value"]["uuids"]
    assert [status.gpus[0].removeprefix("GPU-")] == [uuid.removeprefix("GPU-") for uuid in seen]


@pytest.mark.skipif(len(CARDS) < 2, reason="one card only")
def test_a_job_gets_two_cards(pool: GpuPool, tmp_path: Path) -> None:
    assert ended(pool, pool.submit(spec(tmp_path / "job", "look", gpus=2.0))).code == 0
    assert len((read_result(tmp_path / "job") or {})["value"]["uuids"]) == 2


def test_real_lack_of_memory_and_a_broken_context_are_told_apart(pool: GpuPool, tmp_path: Path) -> None:
    assert ended(pool, pool.submit(spec(tmp_path / "oom", "exhaust"))).kind is Kind.OOM
    status = ended(pool, pool.submit(spec(tmp_path / "assert", "overstep")))
    assert status.kind is Kind.GPU_LOST
    deadline = time.monotonic() + 60  # the card itself is well: a probe opens it again
    while any(slot.closed for slot in pool.slots()):
        assert time.monotonic() < deadline, pool.slots()
        pool.poll([])
        time.sleep(0.1)
    assert ended(pool, pool.submit(spec(tmp_path / "next", "look"))).code == 0


def test_a_killed_workers_memory_is_free_again(pool: GpuPool, tmp_path: Path) -> None:
    handle = pool.submit(spec(tmp_path / "job", "look", gib=4, seconds=60))
    until(pool, handle, lambda status: (tmp_path / "job" / "there").exists() or status.over)
    (card,) = (card for card in CARDS if card.id == read_lease(tmp_path / "job")["gpus"][0])
    before = Cards().used(card)
    os.kill(read_lease(tmp_path / "job")["pid"], signal.SIGKILL)
    assert ended(pool, handle).kind is Kind.KILLED
    deadline = time.monotonic() + 30
    while Cards().used(card) > before - 4 * GIB:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_process_without_a_lease_closes_its_card(pool: GpuPool) -> None:
    code = "import torch; x = torch.zeros(3 << 30, dtype=torch.uint8, device='cuda'); print(1, flush=True); input()"
    free = pool.capacity()
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": CARDS[0].id}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=-1, stdout=-1) as other:
        assert other.stdout
        other.stdout.readline()
        assert pool.capacity() == free - 1
        assert "other processes use" in pool.slots()[0].closed
        other.kill()
