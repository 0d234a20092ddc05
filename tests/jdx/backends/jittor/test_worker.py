"""The worker with real Jittor, and what happens to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from jdx.backends.jittor.environment import Environment
from jdx.backends.jittor.hearing import Hearing
from jdx.backends.jittor.home import CHECK
from jdx.backends.jittor.process import Patience, Worker
from jdx.errors import BackendError
from jdx.progress import NullProgress
from tests.jdx.backends.jittor.scripted import job, start

LONG = Patience(1800.0, 1800.0)


@pytest.fixture
def worker(tmp_path: Path, jittor: Environment) -> Iterator[Worker]:
    one = start(
        tmp_path, python=jittor.python, env=jittor.variables(jittor.found()), fake=False, patience=LONG
    )
    yield one
    one.end()


def test_it_says_what_it_is_and_computes(worker: Worker, tmp_path: Path) -> None:
    assert worker.ready["versions"]["jittor"].startswith("1.3.11")
    assert worker.ready["versions"]["numpy"].startswith("1.")
    assert worker.ready["cuda"] is False
    script = """
        import jittor as jt
        x = jt.array([[1.0, 2.0], [3.0, 4.0]])
        tell.losses(1, {"00": float((x @ x).sum().numpy())})
    """
    heard: list[object] = []
    hearing = Hearing(on_losses=lambda step, losses: heard.append((step, dict(losses))))
    worker.order(job(tmp_path, script), tmp_path, NullProgress(), hearing)
    assert heard == [(1, {"00": 54.0})]


def test_killed_in_the_middle_of_computing(worker: Worker, tmp_path: Path, jittor: Environment) -> None:
    """What was handed over stays, the next worker starts in the same home."""
    styles: list[str] = []
    script = """
        import os, signal, threading
        import jittor as jt
        (out / "00").mkdir(parents=True)
        tell.style("00", out / "00")
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        x = jt.random((256, 256))
        while True:
            x = x @ x * 0.01
            x.sync()
    """
    with pytest.raises(BackendError, match=r"SIGKILL.*What it had finished is kept"):
        worker.order(
            job(tmp_path, script), tmp_path, NullProgress(), Hearing(on_style=lambda s, _: styles.append(s))
        )
    assert styles == ["00"]
    again = start(
        tmp_path, python=jittor.python, env=jittor.variables(jittor.found()), fake=False, patience=LONG
    )
    again.order(job(tmp_path, "tell.log('fine')"), tmp_path, NullProgress(), Hearing())
    again.end()


def test_numpy_2_is_noticed_by_what_it_does(jittor: Environment, tmp_path: Path) -> None:
    """Jittor itself says nothing: its arrays hold garbage. The check that follows its first compile looks at them."""
    if int(numpy.__version__.partition(".")[0]) < 2:
        pytest.skip("the tests' own NumPy, which is lent here, is 1.x")
    packages = Path(numpy.__file__).parent.parent
    for name in ("numpy", "numpy.libs"):
        if (packages / name).is_dir():
            (tmp_path / name).symlink_to(packages / name)
    env = {**jittor.variables(jittor.found()), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [str(jittor.python), "-c", CHECK], env=env, capture_output=True, text=True, check=False, cwd=os.sep
    )
    assert done.returncode != 0
    assert "its NumPy does not fit" in done.stderr, done.stderr[-2000:]
