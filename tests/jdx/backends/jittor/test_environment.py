"""What is looked at before a worker starts, and what is said when it is not as it should be."""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil
import pytest

from jdx.backends.jittor import home, interpreter, machine
from jdx.backends.jittor.environment import Environment, Place
from jdx.backends.jittor.interpreter import JITTOR, Interpreter, faults_of, probe
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import NullProgress
from launcher.processes import is_alive

GOOD = Interpreter(
    Path("/opt/jt/bin/python"),
    (3, 11, 7),
    {"jittor": JITTOR, "numpy": "1.26.4", "safetensors": "0.5", "tokenizers": "0.21", "pillow": "11.0"},
    ("jittor",),
    None,
    headers=True,
    config=None,
)


def script(path: Path, text: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def texts(found: Interpreter, **changes: object) -> str:
    return "\n".join(fault.allowed for fault in faults_of(replace(found, **changes)))  # type: ignore[arg-type]


def test_this_very_python_is_told_every_fault_at_once() -> None:
    """The tests' own interpreter has NumPy 2 and no Jittor."""
    found = probe(sys.executable)
    assert isinstance(found, Interpreter)
    assert found.python == sys.version_info[:3]
    told = texts(found)
    assert "no jittor: " in told
    assert "hold garbage and no error tells" in told
    assert {fault.key for fault in faults_of(found)} == {"backend.python"}


def test_a_good_interpreter_has_no_faults() -> None:
    assert faults_of(GOOD) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"python": (3, 8, 1)}, "is Python 3.8.1; needed is 3.11 or 3.12"),
        ({"headers": False}, "no C headers"),
        ({"packages": {**GOOD.packages, "numpy": "2.1.0"}}, "pip install 'numpy<2'"),
        ({"packages": {**GOOD.packages, "jittor": "1.3.9.14"}}, "has jittor 1.3.9.14"),
        ({"fork": "jittor.compatibility"}, "for JDiffusion's fork use backend=jdiffusion"),
        ({"packages": {"jittor": JITTOR, "numpy": "1.26.4"}}, "lacks safetensors, tokenizers, pillow"),
    ],
)
def test_what_an_interpreter_may_lack(changes: dict[str, object], told: str) -> None:
    assert told in texts(GOOD, **changes)


def test_a_path_that_is_no_python(tmp_path: Path) -> None:
    nowhere = probe(tmp_path / "none")
    assert isinstance(nowhere, Fault)
    assert "cannot be run (No such file or directory)" in nowhere.allowed
    other = probe("/bin/echo")
    assert isinstance(other, Fault)
    assert "is no Python that jdx can ask" in other.allowed


def test_an_old_interpreter_answers_too(tmp_path: Path) -> None:
    """Python before 3.8 has no importlib.metadata; the probe must not need it."""
    code = interpreter.PROBE % (interpreter.MODULES, ("numpy",))
    blocked = "import sys; sys.modules['importlib.metadata'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    assert '"packages": {}' in done.stdout


def test_all_faults_of_a_machine_are_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("cc_path", raising=False)
    monkeypatch.setattr(machine, "cards", lambda env: ["0"])
    monkeypatch.setenv("nvcc_path", str(script(tmp_path / "nvcc", "echo 'release 13.0, V13.0.88'")))
    faults = Environment(Place(python=Path(sys.executable), home=tmp_path)).faults()
    with pytest.raises(ConfigError) as caught:
        Environment(Place(python=Path(sys.executable), home=tmp_path)).ready(NullProgress())
    told = str(caught.value)
    assert len(faults) >= 4
    for words in ("no C++ compiler: g++", "is CUDA 13.0", "CUDA 11 or 12 is needed", "no jittor", "numpy"):
        assert words in told
    assert list(tmp_path.iterdir()) == [tmp_path / "nvcc"]  # nothing was made


@pytest.mark.parametrize(
    ("setting", "gpu", "release", "told"),
    [
        ("cpu", True, "13.0", None),
        ("auto", False, "13.0", None),
        ("auto", True, "12.4", None),
        ("auto", True, "11.8", None),
        ("auto", True, "13.1", "CUDA 13.1, which Jittor does not compile with"),
        ("cuda", False, "12.4", "shows no NVIDIA card"),
        ("cuda:1", True, "", "needs CUDA's compiler"),
        ("cuda:2", True, "12.4", "which shows 2 from cuda:0 on"),
    ],
)
def test_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, gpu: bool, release: str, told: str | None
) -> None:
    monkeypatch.setattr(machine, "cards", lambda env: ["0", "1"] if gpu else [])
    compiler = script(tmp_path / "nvcc", f"echo 'Cuda compilation tools, release {release}, V1'")
    faults = list(machine.cuda_faults(setting, {"nvcc_path": str(compiler), "PATH": ""}))
    assert [told in fault.allowed for fault in faults] == [True] if told else faults == []


def test_a_hidden_card_is_none() -> None:
    assert not machine.cards({"CUDA_VISIBLE_DEVICES": ""})
    assert not machine.cards({"CUDA_VISIBLE_DEVICES": "-1"})


@pytest.mark.parametrize(
    ("visible", "shown"),
    [(None, ["0", "1", "2"]), ("2,0", ["2", "0"]), ("1, -1, 0", ["1"]), ("GPU-4f", ["GPU-4f"])],
)
def test_cards_are_counted_as_cuda_counts_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, shown: list[str]
) -> None:
    names = ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [Path("/dev") / name for name in names])
    env = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert machine.cards(env) == shown
    assert machine.card_of("cuda:1", env) == (shown[1] if len(shown) > 1 else None)
    assert machine.card_of("cuda", env) is None


def test_a_home_that_cannot_be_one_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(machine.home_faults(tmp_path / "to" / "be" / "made")) == []
    (tmp_path / "file").touch()
    faults = Environment(Place(home=tmp_path / "file" / "home", device="cpu")).faults()
    assert any(f.key == "backend.home" and "file is no folder" in f.allowed for f in faults)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for who is not root
    (fault,) = machine.home_faults(tmp_path / "home")
    assert f"nothing can be written in {tmp_path}:" in fault.allowed


@pytest.mark.parametrize(("given", "threads"), [("5", 5), ("3,2", 3), ("", 2), ("many", 2)])
def test_threads_as_openmp_says(monkeypatch: pytest.MonkeyPatch, given: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert Environment(Place()).threads == threads


def test_the_workers_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    place = Place(python=Path("/opt/jt/bin/python"), home=tmp_path, device="cpu")
    env = Environment(place).variables(GOOD)
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & env.keys()
    assert (env["JITTOR_HOME"], env["HOME"], env["nvcc_path"]) == (str(tmp_path), str(tmp_path), "")
    assert env["OMP_NUM_THREADS"] == "7"
    assert Environment(replace(place, threads=3)).variables(GOOD)["OMP_NUM_THREADS"] == "3"


def test_onednn_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    library = tmp_path / machine.ONEDNN / "lib" / "libmkldnn.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert machine.link_onednn(tmp_path) == library.parent
    place = Place(python=Path("/opt/jt/bin/python"), home=tmp_path, device="cpu")
    env = Environment(place).variables(GOOD)
    assert env["use_mkl"] == "1"
    assert env["LD_LIBRARY_PATH"].split(os.pathsep)[0] == str(library.parent)


def test_debians_onednn_is_linked(tmp_path: Path) -> None:
    if machine._onednn_library() is None or not Path("/usr/include/dnnl.hpp").is_file():
        pytest.skip("libdnnl-dev is not installed")
    folder = machine.link_onednn(tmp_path)
    assert folder is not None
    assert (folder / "libmkldnn.so").resolve().name.startswith("libdnnl.so.2")
    source = tmp_path / "main.cpp"
    source.write_text("#include <dnnl.hpp>\nint main() { return dnnl_version()->major == 2 ? 0 : 1; }")
    command = ["g++", str(source), "-I", str(folder.parent / "include"), "-L", str(folder), "-lmkldnn"]
    subprocess.run([*command, "-o", str(tmp_path / "main")], check=True)
    subprocess.run([str(tmp_path / "main")], check=True)
    assert machine.link_onednn(tmp_path) == folder


def test_without_onednn_the_cost_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "_onednn_library", lambda: None)
    environment = Environment(Place(python=Path("/opt/jt/bin/python"), home=tmp_path, device="cpu"))
    monkeypatch.setattr(environment, "faults", list)
    monkeypatch.setattr(
        environment, "found", lambda: replace(GOOD, executable=script(tmp_path / "python", "exit 0"))
    )
    with caplog.at_level(logging.WARNING):
        environment.ready(NullProgress())
    assert "100 times slower" in caplog.text
    assert "apt install libdnnl-dev" in caplog.text


def test_an_environment_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = script(tmp_path / "base", 'mkdir -p "$3/bin"; echo "no network here" >&2; exit 1')
    monkeypatch.setattr(interpreter, "base_python", lambda: str(base))
    with pytest.raises(BackendError, match=r"(?s)could not be made.*no network here.*backend\.python="):
        interpreter.make_own(tmp_path / "home")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["environment.lock"]


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    copies_itself = (
        f'echo "$@" >> {log}; [ "$2" = venv ] && mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; exit 0'
    )
    base = script(tmp_path / "base", copies_itself)
    monkeypatch.setattr(interpreter, "base_python", lambda: str(base))
    assert interpreter.make_own(tmp_path / "home") == interpreter.own_python(tmp_path / "home")
    half = tmp_path / "home" / f".{interpreter.own_folder(tmp_path / 'home').name}.0badcafe"
    half.mkdir()
    interpreter.make_own(tmp_path / "home")
    assert half.is_dir()  # somebody's who makes one; below, a killed one's
    interpreter.own_python(tmp_path / "home").unlink()
    interpreter.own_folder(tmp_path / "home").joinpath("bin").rmdir()
    interpreter.own_folder(tmp_path / "home").rmdir()
    interpreter.make_own(tmp_path / "home")
    assert not half.exists()
    venv, install = log.read_text().splitlines()[:2]
    assert len(log.read_text().splitlines()) == 4
    assert venv.startswith("-m venv ")
    assert install == "-m pip install -q " + " ".join(interpreter.REQUIREMENTS)


# The first compile. The interpreter is a shell script, so that only what is around it is tested here.


@pytest.fixture
def counted(tmp_path: Path) -> Interpreter:
    """An interpreter that writes a line whenever it is started."""
    return replace(
        GOOD, executable=script(tmp_path / "python", f"echo started >> {tmp_path}/starts; sleep 0.5")
    )


def test_jittor_compiles_once_a_home(tmp_path: Path, counted: Interpreter) -> None:
    env = {"PATH": os.environ["PATH"], "use_mkl": "0"}
    for _ in range(2):
        home.compile_first(tmp_path / "home", counted, env, 60.0)
    assert (tmp_path / "starts").read_text() == "started\n"
    home.compile_first(
        tmp_path / "home", counted, {**env, "use_mkl": "1"}, 60.0
    )  # compiled with oneDNN since
    assert (tmp_path / "starts").read_text() == "started\n" * 2


def test_what_a_worker_still_lacks(
    tmp_path: Path, counted: Interpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment(Place(home=tmp_path / "home", device="cpu"))
    assert "is not made yet" in environment.lacks()
    environment = Environment(Place(python=counted.executable, home=tmp_path / "home", device="cpu"))
    monkeypatch.setattr(environment, "looked_at", lambda: counted)
    assert environment.lacks() == "Jittor is not compiled yet"
    environment.ready(NullProgress())
    assert environment.lacks() == ""


def test_a_compile_that_fails_or_hangs_is_told_and_not_remembered(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"]}
    failing = replace(GOOD, executable=script(tmp_path / "failing", "echo 'fatal error: Python.h'; exit 1"))
    for _ in range(2):
        with pytest.raises(BackendError, match=r"(?s)does not start.*fatal error: Python\.h"):
            home.compile_first(tmp_path / "home", failing, env, 60.0)
    hanging = replace(GOOD, executable=script(tmp_path / "hanging", "sleep 300"))
    with pytest.raises(BackendError, match=r"after 0\.5 s.*backend\.compile_timeout"):
        home.compile_first(tmp_path / "home", hanging, env, 0.5)


def test_a_compile_goes_when_the_trial_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, sys
from dataclasses import replace
from pathlib import Path
from jdx.backends.jittor import home
from tests.jdx.backends.jittor.test_environment import GOOD
home.CHECK = "import os, time; open({str(tmp_path / "pid")!r}, 'w').write(str(os.getpid())); time.sleep(300)"
home.compile_first(Path({str(tmp_path / "home")!r}), replace(GOOD, executable=Path(sys.executable)), os.environ, 600)
"""
    trial = subprocess.Popen([sys.executable, "-c", code])
    for _ in range(600):
        if (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    pid = int((tmp_path / "pid").read_text())
    assert psutil.pid_exists(pid)
    trial.kill()
    trial.wait()
    deadline = time.monotonic() + 60.0
    while is_alive(pid, None):
        assert time.monotonic() < deadline, "the compiling process outlived the trial"
        time.sleep(0.05)


HOLD = """
import os, sys, time
from pathlib import Path
from jdx.backends.jittor import home
with home.locked(Path(sys.argv[1])):
    if sys.argv[2] == "orphan" and os.fork() == 0:
        time.sleep(300)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended with all that they started."""
    some: list[subprocess.Popen[str]] = []
    yield some
    for process in some:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def hold(folder: Path, how: str) -> subprocess.Popen[str]:
    """A process that holds the lock until its input is closed."""
    command = [sys.executable, "-c", HOLD, str(folder), how]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_living_owner_is_waited_for_and_named(
    tmp_path: Path, holder: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    holder.append(hold(tmp_path, "alone"))

    def let_go_when_told() -> None:
        deadline = time.monotonic() + 60.0
        while "waiting" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(2 * home.PATIENCE)  # it looks again, and does not say it again
        assert holder[0].stdin is not None
        holder[0].stdin.close()

    other = threading.Thread(target=let_go_when_told)
    other.start()
    with caplog.at_level(logging.WARNING), home.locked(tmp_path):
        holder[0].wait(60)
    other.join()
    assert f"waiting for process {holder[0].pid}" in caplog.text
    assert caplog.text.count("waiting") == 1


def test_a_dead_owners_lock_is_taken_over_although_its_child_holds_it(
    tmp_path: Path, holder: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    holder.append(hold(tmp_path, "orphan"))
    holder[0].kill()
    holder[0].wait()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), home.locked(tmp_path), home.locked(tmp_path / "another"):
        waited = time.monotonic() - began
    assert f"held for process {holder[0].pid}, which is gone" in caplog.text
    assert waited < 60
    with home.locked(tmp_path):  # and given back
        pass


def test_a_lock_that_is_not_signed_yet_is_not_the_dead_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one looks between the lock and the signature, where the note still names who was killed."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    note = {"pid": dead.pid, "host": platform.node(), "started": 0.0}
    (tmp_path / "compile.lock").write_text(json.dumps(note))
    sign, inside, most = home._sign, list[int](), list[int]()

    def enter() -> None:
        with home.locked(tmp_path):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.5)
            inside.pop()

    other = threading.Thread(target=enter)

    def late(file: IO[str]) -> None:
        monkeypatch.setattr(home, "_sign", sign)
        other.start()
        time.sleep(0.3)  # for the other one, who would be in here by then
        sign(file)

    monkeypatch.setattr(home, "_sign", late)
    enter()
    other.join()
    assert most == [1, 1]


JITTORS = """
import fcntl, os, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
if os.fork() == 0:
    time.sleep(300)
print("held", flush=True)
time.sleep(300)
"""


def test_jittors_own_lock_is_freed_when_its_owner_is_dead_and_left_alone_while_it_lives(
    tmp_path: Path, holder: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    lock = tmp_path / ".cache/jittor/jt1.3.11/g++12/py3.11/Linux/cpu/1031/jittor.lock"
    lock.parent.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", JITTORS, str(lock)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    holder.append(process)
    assert process.stdout is not None
    process.stdout.readline()
    home.free_stale(tmp_path)
    assert lock.exists()
    process.kill()
    process.wait()
    with caplog.at_level(logging.WARNING):
        home.free_stale(tmp_path)
    assert not lock.exists()
    assert f"process {process.pid}, which is gone" in caplog.text
