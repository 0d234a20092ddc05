"""Workers that stand still, run out of memory or lose their place."""

from __future__ import annotations

from pathlib import Path

from sweeps.ledger import REASON
from tests.sweeps.bench import Bench, states


def test_a_stopped_worker_is_noticed_and_replaced(tmp_path: Path) -> None:
    """SIGSTOP: no exception, no exit, no heartbeat."""
    bench = Bench(
        tmp_path,
        words=["x=0,3"],
        payload={"deeds": {"0.0": "stop"}},
        pool={"stale_after": 3.0, "kill_after": 12.0},  # in which any worker comes up
    )
    controller, _ = bench.run()
    assert states(controller) == {0: "COMPLETE", 1: "COMPLETE"}
    assert '"hung"' in (tmp_path / "jobs" / "0000" / "failures.jsonl").read_text()


def test_real_lack_of_memory_is_told_as_such_and_tried_once_more(tmp_path: Path) -> None:
    """An allocation under RLIMIT_AS that the system refuses."""
    bench = Bench(tmp_path, words=["x=0,3"], payload={"deeds": {"0": "really oom"}})
    controller, _ = bench.run()
    assert states(controller) == {0: "FAIL", 1: "COMPLETE"}
    assert controller.ledger.trials()[0].user_attrs[REASON].startswith("oom")
    assert [bench.starts()[f"0.{attempt}"] for attempt in range(3)] == [1, 1, 0]


def test_a_sweep_outlives_any_mixture(tmp_path: Path) -> None:
    deeds = {
        "0.0": "kill",
        "1.0": "raise",
        "2": "nan",
        "3.0": "cuda",
        "4.0": "hang",
        "5": "oom",
        "7.1": "kill",
    }
    bench = Bench(tmp_path, words=["x=range(0,12)"], payload={"deeds": deeds}, timeout=15.0)
    controller, done = bench.run()
    assert done
    failed = {number for number, state in states(controller).items() if state == "FAIL"}
    assert failed == {2, 5}
    assert len(states(controller)) == 12
