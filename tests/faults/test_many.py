"""Many small trials: exactly as many as asked for, each once."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweeps.bench import Bench, states

POINTS = 1000


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of syncs take minutes on a busy disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_a_thousand_trials_by_eight_workers_are_a_thousand(quick_disk: Path) -> None:
    deeds = {f"{number}.0": "kill" for number in range(50, POINTS, 200)}
    pool = {"cpu_slots": 8, "jobs_per_worker": 400}
    bench = Bench(quick_disk, words=[f"x=range(0,{POINTS})"], pool=pool, payload={"deeds": deeds})
    controller, done = bench.run()
    assert done
    assert Counter(states(controller).values()) == {"COMPLETE": POINTS}
    assert sorted(trial.params["x"] for trial in controller.ledger.trials()) == list(range(POINTS))
    again = Counter(f"{name.removesuffix('.0')}.1" for name in deeds)
    assert bench.starts() == Counter(f"{number}.0" for number in range(POINTS)) + again
