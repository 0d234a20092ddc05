"""A Slurm cluster of its own for tests: munged, slurmctld and slurmd from Debian, two nodes on this machine.

Everything lies in one temporary folder and listens on free ports; an installed cluster and its munge are not touched.
Fixture (offered to every test by tests/conftest.py): `slurm`, one cluster per session and process. Programs find it by
`SLURM_CONF`, which the fixture sets for the session.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.servers.server import Server

START_LIMIT = 180.0
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
NODES = ("jdx1", "jdx2")
CONF = """
ClusterName=jdx-tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/{proctrack}
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=3
SlurmdTimeout=300
MinJobAge=300
SchedulerParameters=sched_interval=1,sched_min_interval=100000,requeue_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    return f"{', '.join(absent)} not installed (as root: apt-get install slurm-wlm munge)" if absent else ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _version() -> tuple[int, int]:
    """Slurm's version, as in (22, 5)."""
    text = subprocess.run(
        [str(_program("slurmd")), "-V"], capture_output=True, text=True, check=True
    ).stdout.split()[-1]
    major, minor, *_ = (int(part) for part in text.split("."))
    return major, minor


def _free_ports(count: int) -> list[int]:
    """Ports of which the kernel gives none away by itself, to whatever else starts before Slurm's daemons take them."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first = int(given.read_text().split()[0]) if given.exists() else 32768
    candidates = list(range(max(1024, first - 20_000), first))
    ports: list[int] = []
    while len(ports) < count:
        port = candidates.pop(secrets.randbelow(len(candidates)))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
    return ports


class SlurmServer(Server):
    """One cluster of two nodes with four CPUs and two (pretended) GPUs each; `with SlurmServer() as slurm: ...`."""

    def __init__(self, proctrack: str = "linuxproc") -> None:
        if reason := missing():
            raise RuntimeError(reason)
        # Not pytest's folder: a socket's path may have 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="jdx-slurm-", dir="/tmp"))
        self.conf = self.folder / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write(proctrack)

    def _write(self, proctrack: str) -> None:
        controller, *ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=1000"
            f" Gres=gpu:2 State=UNKNOWN"
            for name, port in zip(NODES, ports, strict=True)
        )
        values = {"user": getpass.getuser(), "folder": self.folder, "host": host, "nodes": nodes}
        self.conf.write_text(CONF.format(controller_port=controller, proctrack=proctrack, **values))
        self.devices = self._devices()
        if _version() >= (
            23,
            2,
        ):  # Earlier ones do not know the word, and need no cgroups unless asked to use them.
            (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        (self.folder / "state").mkdir()
        for name in NODES:
            (self.folder / f"spool-{name}").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o400)
        key.chmod(0o600)
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.folder.chmod(0o755)

    def _devices(self) -> bool:
        """Two devices that pass for cards, so that Slurm hands out CUDA_VISIBLE_DEVICES; making them takes root."""
        try:
            for card in ("nvidia0", "nvidia1"):
                os.mknod(self.folder / card, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            (self.folder / "gres.conf").write_text("Name=gpu Count=2\n")
            return False
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/nvidia[0-1]\n")
        return True

    def start(self) -> None:
        files = {name: f"{self.folder}/munge.{name}" for name in ("socket", "pid", "log", "seed")}
        options = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={self.folder}/munge.key", *options)
        self._until(lambda: Path(files["socket"]).exists(), "munged did not start")
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self._until(self._idle, "the nodes did not become idle")

    def start_controller(self) -> None:
        self._daemon("slurmctld", "-D")

    def start_node(self, name: str) -> None:
        self._daemon("slurmd", "-D", "-N", name, label=name)

    def stop_daemon(self, label: str) -> None:
        """End `slurmctld` or a node's daemon (by the node's name); jobs go on.

        Not as a crash: slurmctld saves its state every few seconds, and killed in between it brings ended jobs back.
        """
        process = self.processes.pop(label)
        process.terminate()
        process.wait(START_LIMIT)

    def run(self, program: str, *arguments: str) -> str:
        """Output of one Slurm command; raises with its message where it fails."""
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def state(self, job: str) -> str:
        """Slurm's own word for a job, such as RUNNING."""
        return self.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()

    def wait(self, job: str, *states: str, limit: float = START_LIMIT) -> str:
        """Wait until a job is in one of these states; returns it."""
        self._until(
            lambda: self.state(job) in states, f"job {job} did not become {' or '.join(states)}", limit
        )
        return self.state(job)

    def release(self, job: str) -> None:
        """Let a job that went back into the queue start as soon as Slurm can start it; by itself it waits two minutes.

        A node refuses a credential made in the second in which it revoked the job's last one, and Slurm then ends the
        job as FAILED ("Job credential revoked"); that wait (AuthInfo's cred_expire) is there to rule it out.
        """
        self.wait(job, "PENDING")
        self.run("scontrol", "update", f"jobid={job}", "starttime=now+2")

    def clear(self) -> None:
        """Cancel every job and bring every node back, between tests."""
        self.run("scancel", f"--user={getpass.getuser()}")
        self._until(lambda: not self.run("squeue", "--noheader").strip(), "jobs did not end")
        for name in NODES:
            if "drain" in self.run("sinfo", "--noheader", f"--nodes={name}", "--format=%T"):
                self.run("scontrol", "update", f"nodename={name}", "state=resume")
        self._until(self._idle, "the nodes did not become idle")

    def remove(self) -> None:
        if "slurmctld" in self.processes:
            subprocess.run(
                ["scancel", f"--user={getpass.getuser()}"], env=self.environment, timeout=60, check=False
            )
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline and self._queue():
                time.sleep(0.2)
        for label in reversed(list(self.processes)):
            self.stop_daemon(label)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _queue(self) -> bool:
        done = subprocess.run(
            ["squeue", "--noheader"], capture_output=True, env=self.environment, timeout=60, check=False
        )
        return bool(done.stdout.strip())

    def _idle(self) -> bool:
        try:
            states = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").split()
        except RuntimeError:
            return False
        return states == ["idle"] * len(NODES)

    def _daemon(self, program: str, *arguments: str, label: str = "") -> None:
        path = _program(program)
        with (self.folder / "daemons.log").open("ab") as log:
            command: Sequence[str] = [str(path), *arguments]
            self.processes[label or program] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.folder,
            )

    def _until(self, done: Callable[[], bool], otherwise: str, limit: float = START_LIMIT) -> None:
        deadline = time.monotonic() + limit
        while not done():
            dead = [label for label, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(
                    f"{path.name}:\n{path.read_text(errors='replace')[-1500:]}"
                    for path in self.folder.glob("*.log")
                )
                why = f"{', '.join(dead)} ended" if dead else f"{limit:g} s passed"
                raise RuntimeError(f"{otherwise}: {why}\n{logs}")
            time.sleep(0.1)


@pytest.fixture(scope="session")
def slurm_server() -> Iterator[SlurmServer]:
    """A running cluster shared by the tests of this process."""
    if reason := missing():
        pytest.skip(reason)
    with SlurmServer() as server:
        yield server


@pytest.fixture
def slurm(slurm_server: SlurmServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmServer]:
    """The cluster with an empty queue; Slurm's commands of this test and its children speak to it."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_server.conf))
    yield slurm_server
    slurm_server.clear()
