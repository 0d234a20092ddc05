"""What the jobs of these tests do. Every function is a target: `tests.launcher.jobs:NAME`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.channel import Channel

Payload = Mapping[str, Any]
Value = dict[str, Any]


def started(folder: Path) -> None:
    """Count the starts of a folder's job, in a way that no later start can undo."""
    fd = os.open(folder / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, f"{os.getpid()}\n".encode())
    os.close(fd)


def add(folder: Path, payload: Payload, channel: Channel) -> Value:
    """The sum, after `seconds`."""
    started(folder)
    print("adding", payload["a"], payload["b"], flush=True)
    time.sleep(payload.get("seconds", 0.0))
    return {"sum": payload["a"] + payload["b"], "pid": os.getpid(), "attempt": channel.attempt}


def fail(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Raise the builtin exception that the payload names."""
    started(folder)
    raise getattr(__import__("builtins"), payload["error"])(payload.get("text", "as told"))


def unserialisable(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Return what JSON cannot say."""
    return {"value": object()}


def sleep(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Sleep; SIGTERM ends it with an exception."""
    started(folder)
    time.sleep(payload.get("seconds", 60.0))
    return {}


def tidy(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Leave a file behind when the job is cancelled."""
    started(folder)
    try:
        time.sleep(60)
    finally:
        (folder / "tidied").touch()
    return {}


CHILD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)
open(os.path.join(sys.argv[1], f"child.{os.getpid()}"), "w").close()
time.sleep(120)
"""


def stubborn(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Ignore SIGTERM, and have a child and a grandchild (in a session of its own) that ignore it too."""
    started(folder)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", CHILD, str(folder), CHILD])
    time.sleep(120)
    return {}


def lose_child(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Start a process that leaves session and parents behind, as daemons do, and go on."""
    started(folder)
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], start_new_session=True)"
    subprocess.run([sys.executable, "-c", code, CHILD, str(folder)], check=True)
    time.sleep(60)
    return {}


def leave_children(folder: Path, payload: Payload, channel: Channel) -> Value:
    """End well, but leave processes running."""
    started(folder)
    subprocess.Popen([sys.executable, "-c", CHILD, str(folder), CHILD])
    while len(list(folder.glob("child.*"))) < 2:
        time.sleep(0.02)
    return {}


def styles(folder: Path, payload: Payload, channel: Channel) -> Value:
    """One event per piece of work not done by an earlier attempt; dies, stays or stops where the payload says.

    stay_at: before this piece the first start waits to be ended, however long it takes others to see to that.
    """
    started(folder)
    first = len((folder / "starts").read_text().split()) == 1
    done = [event["style"] for event in channel.events]
    for style in range(payload["count"]):
        if channel.stopping():
            break
        if style in done:
            continue
        if style == payload.get("die_at") and channel.attempt == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if style == payload.get("stay_at") and first:
            time.sleep(600)
        channel.event({"style": style, "score": style / 10, "attempt": channel.attempt})
        time.sleep(payload.get("pause", 0.0))
    return {"styles": len(channel.events)}


def environment(folder: Path, payload: Payload, channel: Channel) -> Value:
    """What the job sees of its surroundings."""
    names = payload["names"]
    seen = {name: os.environ.get(name) for name in names}
    os.environ["JDX_TEST_LEFT_BEHIND"] = "1"
    return {
        "env": seen,
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "sid": os.getsid(0),
        "gpus": list(channel.gpus),
    }


def stop_self(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Stand still, as a process does on a dead network disk."""
    started(folder)
    os.kill(os.getpid(), signal.SIGSTOP)
    return {"went_on": True}


def die(folder: Path, payload: Payload, channel: Channel) -> Value:
    """End this process by a signal."""
    started(folder)
    os.kill(os.getpid(), payload["signal"])
    time.sleep(60)
    return {}


def leave(folder: Path, payload: Payload, channel: Channel) -> Value:
    """End this process without a word."""
    started(folder)
    os._exit(payload["code"])


def interval(folder: Path, payload: Payload, channel: Channel) -> Value:
    """When it ran, by a clock that all processes of the machine share; meets: jobs that wait for each other."""
    start = time.monotonic()
    (folder / "here").touch()
    if folder.name in payload["meets"]:
        while not all((folder.parent / name / "here").exists() for name in payload["meets"]):
            time.sleep(0.02)
    time.sleep(payload["seconds"])
    return {"start": start, "end": time.monotonic()}


def grow(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Keep memory in the worker for good."""
    KEPT.append(bytearray(os.urandom(1 << 20) * payload["mib"]))
    return {"pid": os.getpid()}


def grow_child(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Keep memory in a process that stays for the next job."""
    code = (
        "import os, sys; held = os.urandom(1 << 20) * int(sys.argv[1]); print(flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(payload["mib"])], stdin=-1, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    CHILDREN.append(child)
    channel.kept.update(one.pid for one in CHILDREN)
    return {"pid": os.getpid()}


KEPT: list[bytearray] = []
CHILDREN: list[subprocess.Popen[bytes]] = []


def fill_address_space(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Allocate until RLIMIT_AS says no."""
    import resource

    started(folder)
    resource.setrlimit(resource.RLIMIT_AS, (payload["limit"], payload["limit"]))
    hoard = []
    while True:
        hoard.append(bytearray(16 << 20))


def fill_cgroup(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Enter a group with little memory and touch more of it."""
    started(folder)
    (Path(payload["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    while not (folder / "seen").exists():
        time.sleep(0.01)
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(4096) * 4096))


def write_events(folder: Path, payload: Payload, channel: Channel) -> Value:
    """Write events until the disk is full; room is made again by `release`, as a person would."""
    number = 0
    try:
        while True:
            channel.event({"n": number, "fill": "x" * 4000})
            number += 1
    finally:
        (folder.parent / "full").touch()


def keep_child(folder: Path, payload: Payload, channel: Channel) -> Value:
    """End well and leave two processes of two generations each; one of the two is kept for the next job."""
    started(folder)
    left = []
    for name in ("kept", "lost"):
        (folder / name).mkdir()
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder / name), CHILD])
        while len(list((folder / name).glob("child.*"))) < 2:
            time.sleep(0.02)
        left.append(child.pid)
    channel.kept.add(left[0])
    return {"pid": os.getpid(), "kept": left[0], "lost": left[1]}
