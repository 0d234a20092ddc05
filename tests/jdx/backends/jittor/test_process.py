"""The worker's life: what it says is heard, however it ends is told, and nothing of it stays."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from data.faults import DataError
from jdx.backends.jittor.hearing import Hearing
from jdx.backends.jittor.process import Patience, Worker
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import NullProgress, Progress
from tests.jdx.backends.jittor.scripted import job, start

CHILD = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    one = start(tmp_path)
    yield one
    one.end()


def order(worker: Worker, folder: Path, script: str, hearing: Hearing | None = None) -> object:
    return worker.order(job(folder, script), folder / "out", NullProgress(), hearing or Hearing())


def group(worker: Worker) -> list[psutil.Process]:
    """Every process of the worker's session, without those that only wait to be collected."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == worker.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def gone(worker: Worker) -> bool:
    deadline = time.monotonic() + 60.0
    while group(worker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_everything_that_a_job_says_is_heard_in_order(
    worker: Worker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[object] = []
    hearing = Hearing(
        lambda style, folder: heard.append((style, folder)),
        lambda style, step, folder: heard.append((style, step, folder)),
        lambda step, losses: heard.append((step, dict(losses))),
    )
    script = """
        tell.progress("training", 3)
        tell.advance(loss=0.5)
        tell.losses(1, {"00": 0.5, "01": float("nan")})
        tell.snapshot("00", 1, out / "00" / "1")
        tell.style("Ice cream", out / "Ice cream")
        tell.log("look here", "warning")
        failed = {"01": (7, "NaN")}
    """
    with caplog.at_level(logging.WARNING):
        outcome = worker.order(job(tmp_path, script), tmp_path / "out", NullProgress(), hearing)
    out = tmp_path / "out"
    assert heard[1:] == [("00", 1, out / "00" / "1"), ("Ice cream", out / "Ice cream")]
    assert str(heard[0]) == "(1, {'00': 0.5, '01': nan})"
    assert outcome.failed == {"01": (7, "NaN")}
    assert "look here" in caplog.text


def test_tasks_are_shown_and_an_error_ends_them(
    worker: Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = """
        tell.progress("encoding", 2)
        tell.advance(2)
        tell.progress("training", 4)
        tell.advance()
        raise ValueError("no luck")
    """
    with Progress(quiet=True) as progress, pytest.raises(BackendError, match="ValueError: no luck") as caught:
        worker.order(job(tmp_path, script), tmp_path, progress, Hearing())
    told = capsys.readouterr().err
    assert "encoding: done, 2/2" in told
    assert "training: stopped by BackendError, 1/4" in told
    assert 'raise ValueError("no luck")' in str(caught.value) or "script" in str(caught.value)


def test_a_jobs_own_faults_come_as_they_are_and_the_worker_stays(worker: Worker, tmp_path: Path) -> None:
    faulty = """
        from jdx.errors import ConfigError, Fault
        raise ConfigError([Fault("a.b", "3", "at most 2"), Fault("c", "x", "y")], "training job")
    """
    with pytest.raises(ConfigError, match="2 faults in the training job") as caught:
        order(worker, tmp_path, faulty)
    assert caught.value.faults == (Fault("a.b", "3", "at most 2"), Fault("c", "x", "y"))
    unread = """
        from data.faults import DataError, Fault
        raise DataError([Fault(Path("/p.png"), "is torn", "replace it")])
    """
    with pytest.raises(DataError, match=r"/p\.png: is torn; replace it"):
        order(worker, tmp_path, unread)
    with pytest.raises(BackendError, match="no such luck"):
        order(worker, tmp_path, "from jdx.errors import BackendError\nraise BackendError('no such luck')")
    assert not worker.ended
    order(worker, tmp_path, "tell.log('still here')")


def test_a_killed_worker_is_told_with_its_last_lines_and_what_it_had_finished(
    worker: Worker, tmp_path: Path
) -> None:
    styles: list[str] = []
    script = f"""
        {CHILD.strip()}
        print("line before the end", flush=True)
        tell.style("00", out)
        import os, signal, time
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    told = r"(?s)signal 9 \(SIGKILL\).*out of memory.*line before the end"
    with pytest.raises(BackendError, match=told):
        order(worker, tmp_path, script, Hearing(on_style=lambda style, folder: styles.append(style)))
    assert styles == ["00"]
    assert worker.ended
    assert gone(worker)


def test_an_exit_without_an_answer_is_an_error(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="exit code 3 while working"):
        order(worker, tmp_path, "import os; os._exit(3)")


def test_a_silent_worker_is_ended_and_progress_counts_as_a_word(tmp_path: Path) -> None:
    one = start(tmp_path, patience=Patience(60.0, 5.0))
    talking = "import time\nfor _ in range(12):\n    time.sleep(0.5)\n    tell.advance()\n"
    order(one, tmp_path, talking)
    with pytest.raises(BackendError, match=r"said nothing for 5 s while working.*backend\.timeout"):
        order(one, tmp_path, CHILD + "import time; time.sleep(300)")
    assert gone(one)


def test_a_worker_that_does_not_come_up_in_time_is_told_with_the_setting_for_that(tmp_path: Path) -> None:
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "jittor.py").write_text("import time; time.sleep(300)")
    with pytest.raises(BackendError, match=r"said nothing for 1 s while starting.*backend\.compile_timeout"):
        start(tmp_path, fake=False, patience=Patience(1.0, 60.0))


def test_a_full_disk_is_told_as_such_and_the_worker_stays(worker: Worker, tmp_path: Path) -> None:
    full = "raise OSError(28, 'No space left on device', str(out / 'a.png'))"
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.png'") as caught:
        order(worker, tmp_path, full)
    assert caught.value.errno == errno.ENOSPC
    assert not worker.ended
    with pytest.raises(
        BackendError, match="FileNotFoundError"
    ):  # the program's own fault: with its traceback
        order(worker, tmp_path, "open('/nowhere/at/all')")


def test_of_a_bar_the_last_state_is_shown(worker: Worker, tmp_path: Path) -> None:
    bar = "import os, sys\nsys.stdout.write('1/3\\r2/3\\r3/3 compiled\\n')\nsys.stdout.flush()\nos._exit(3)"
    with pytest.raises(BackendError, match=r"\n  \| 3/3 compiled$"):
        order(worker, tmp_path, bar)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), ConfigError([Fault("a", "b", "c")])],
    ids=["disk", "config"],
)
def test_a_listener_that_fails_ends_the_worker(worker: Worker, tmp_path: Path, error: Exception) -> None:
    """Also with an error that a job could have told of: this job still works, and the next would hear its words."""

    def fails(style: str, folder: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        order(worker, tmp_path, "tell.style('00', out)", Hearing(on_style=fails))
    assert worker.ended
    assert gone(worker)


def test_interrupting_us_ends_the_whole_group(worker: Worker, tmp_path: Path) -> None:
    def interrupt(style: str, folder: Path) -> None:
        assert len(group(worker)) >= 3  # worker, its watching process, its child
        raise KeyboardInterrupt

    script = CHILD + "tell.style('00', out)\nimport time; time.sleep(300)"
    with pytest.raises(KeyboardInterrupt):
        order(worker, tmp_path, script, Hearing(on_style=interrupt))
    assert gone(worker)


def test_the_worker_goes_when_the_trial_is_killed(tmp_path: Path) -> None:
    """Also while its own interpreter is stuck: here it holds the interpreter's lock for minutes, as compilers do."""
    script = CHILD + "tell.log('stuck', 'warning')\nimport ctypes; ctypes.PyDLL(None).sleep(300)"
    folder = job(tmp_path, script)
    code = f"""
import logging
logging.basicConfig(level=logging.WARNING)
from pathlib import Path
from jdx.backends.jittor.hearing import Hearing
from jdx.progress import NullProgress
from tests.jdx.backends.jittor.scripted import start
one = start(Path({str(tmp_path)!r}))
print(one.pid, flush=True)
one.order(Path({str(folder)!r}), Path({str(tmp_path)!r}), NullProgress(), Hearing())
"""
    trial = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert trial.stdout is not None
    assert trial.stderr is not None
    pid = int(trial.stdout.readline())
    assert "stuck" in trial.stderr.readline()
    assert psutil.pid_exists(pid)
    trial.send_signal(signal.SIGKILL)
    trial.wait()
    trial.stdout.close()
    trial.stderr.close()

    class Dead:
        def __init__(self) -> None:
            self.pid = pid

    assert gone(Dead())  # type: ignore[arg-type]


def test_a_killed_trials_folder_goes_at_the_next_start_and_those_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    (temporary / "jdx-jittor-abc").mkdir(parents=True)  # without a lock: whose it is cannot be known
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    code = f"""
import time
from pathlib import Path
from tests.jdx.backends.jittor.scripted import start
print(start(Path({str(tmp_path)!r})).folder, flush=True)
time.sleep(300)
"""
    trial = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(temporary)}, stdout=-1, text=True
    )
    first = second = None
    try:
        assert trial.stdout is not None
        theirs = Path(trial.stdout.readline().strip())
        assert theirs.parent == temporary
        first = start(tmp_path)
        assert (theirs / "path" / "jdx").is_symlink()
        trial.kill()
        trial.wait()
        assert theirs.is_dir()
        second = start(tmp_path)
        assert not theirs.exists()
        order(first, tmp_path, "tell.log('still here')")
        assert first.folder.is_dir()
    finally:
        trial.kill()
        trial.communicate()
        for one in (first, second):
            if one is not None:
                one.end()
    assert [path.name for path in temporary.iterdir()] == ["jdx-jittor-abc"]


def test_an_interpreter_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"/nowhere/python cannot be started: No such file"):
        start(tmp_path, python=Path("/nowhere/python"))


def test_a_worker_that_dies_at_its_start_is_told_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "jittor.py").write_text("raise ImportError('libfoo.so: undefined symbol')")
    with pytest.raises(BackendError, match=r"(?s)exit code 1 while starting.*undefined symbol"):
        start(tmp_path, fake=False)
