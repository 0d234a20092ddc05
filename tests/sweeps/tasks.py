"""Jobs of the controller's tests: cheap, and as bad as they are asked to be."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from launcher.channel import Channel
from launcher.folder import ask_to_stop


def task(folder: Path, payload: Mapping[str, Any], channel: Channel) -> Mapping[str, Any]:
    """Score a point: the highest is at x = 3. `payload["deeds"]` says what goes wrong: {"NUMBER.ATTEMPT": deed}."""
    number, attempt = payload["number"], channel.attempt
    _note(folder, f"{number}.{attempt}")
    deeds = payload.get("deeds", {})
    deed = deeds.get(f"{number}.{attempt}", deeds.get(str(number), deeds.get("all", "")))
    deed = deeds.get(f"{number}.seed{payload['seed']}", deed)
    time.sleep(payload.get("seconds", 0.0))
    if awaited := payload.get("awaits"):  # a file of the sweep's folder
        _until((folder.parent.parent / awaited).exists, awaited)
    if deed:
        found = misbehave(deed, folder)
        if found is not None:
            return found
    x = float(payload["params"].get("x", 0))
    score = -((x - 3) ** 2) + 0.01 * (payload["seed"] or 0)
    stops = payload.get("stops", {})
    stop_at = stops.get(f"{number}.seed{payload['seed']}", stops.get(str(number)))
    for index in payload.get("styles", []):
        if index == stop_at:  # somebody makes the file by hand
            ask_to_stop(folder)
        if index == stop_at and channel.stopping():
            return {"stopped": True}
        channel.event({"kind": "style", "style": f"{index:02d}", "index": index, "score": score + index / 10})
        if channel.stopping():
            return {"stopped": True}
    for step in payload.get("snapshots", []):
        channel.event({"kind": "snapshot", "step": step, "score": score * step / 10})
        if channel.stopping():
            return {"stopped": True}
    if payload["seed"] in payload.get("slow_seeds", []):
        _wait(folder.parent.parent / "never.txt", "never")
    if number in payload.get("lingers", []) and _asked_to_stop(channel):
        return {"stopped": True}
    return {"value": score, "metrics": {"metrics.size": x}, "run_dir": str(folder)}


def _asked_to_stop(channel: Channel) -> bool:
    """Wait for it: the controller may be slow."""
    deadline = time.monotonic() + 300
    while not channel.stopping() and time.monotonic() < deadline:
        time.sleep(0.02)
    return channel.stopped


def _note(folder: Path, line: str) -> None:
    """Every start of a job leaves a line, however the job ends."""
    fd = os.open(folder.parent.parent / "starts.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(fd, f"{line}\n".encode())
    os.close(fd)


def _wait(path: Path, line: str) -> None:
    """Until another job has begun."""
    _until(lambda: path.exists() and line in path.read_text().split(), line)


def _until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} has not come")
        time.sleep(0.02)


def misbehave(deed: str, folder: Path) -> Mapping[str, Any] | None:
    """raise, nan, kill, stop (SIGSTOP), hang, oom, cuda, settings, meet (the sweep beside), or none of them."""
    if deed == "meet":
        beside = folder.parent.parent.parent
        _until(lambda: len(list(beside.glob("*/starts.txt"))) == 2, "the other sweep")
    if deed.startswith("wait for "):
        _wait(folder.parent.parent / "starts.txt", deed.removeprefix("wait for "))
    if deed == "raise":
        raise ValueError("as asked")
    if deed == "nan":
        return {"value": float("nan")}
    if deed == "none":
        return {"value": None}
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if deed == "hang":
        time.sleep(600)
    if deed == "really oom":
        resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.getrlimit(resource.RLIMIT_AS)[1]))
        bytearray(2**32)
    if deed == "oom":
        raise MemoryError("no room")
    if deed == "cuda":
        raise RuntimeError("CUDA error: unspecified launch failure")
    if deed == "settings":
        return {"failed": {"kind": "settings", "message": "x = 9 is not allowed"}}
    return None
