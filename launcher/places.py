"""Who uses which card, over all processes and users of a machine: files in one folder, locked by those who use them.

    ROOT/mutex                     held for a moment by who looks or takes
    ROOT/PLACE/NUMBER.hold         one per share in use; locked (flock) by the worker that uses it
    ROOT/PLACE/NAME.want           renewed by who waits for a share: idle workers of others make room
    ROOT/PLACE/quarantine.json     why nothing is started there

A hold counts as long as its lock is held: the kernel frees it however its worker ends, so nothing has to be cleaned
up by hand, and nothing remembers a machine's earlier life.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from launcher.folder import Lease, read_json

ALL = 0o777
QUARANTINE = "quarantine.json"
WANT_SECONDS = 5.0
"""How long a wish counts after it was last renewed."""
SLACK = 1e-6
"""Three thirds are one."""


def default_root() -> Path:
    """One folder for all users of the machine; JDX_LEASES overrides it."""
    return Path(os.environ.get("JDX_LEASES") or Path(tempfile.gettempdir()) / "jdx-leases")


@dataclass(frozen=True)
class Place:
    """A card (size 1) or the CPU (size = its slots)."""

    id: str
    size: float = 1.0


@dataclass(frozen=True)
class Hold:
    """A share of a place, as long as `lease` (or a copy of it in a worker) is open."""

    place: Place
    share: float
    path: Path
    lease: Lease

    def release(self) -> None:
        """Give it back."""
        self.path.unlink(missing_ok=True)
        self.lease.close()


class Places:
    """The machine-wide book of holds. Raises: PermissionError with what to do when the folder is closed to us."""

    def __init__(self, root: Path | None = None):
        self.root = root or default_root()
        _shared_folder(self.root)
        self._wish = f"{uuid.uuid4().hex[:12]}.want"
        self._mutex = self.root / "mutex"
        _shared_file(self._mutex)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fd = os.open(self._mutex, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def used(self, places: Sequence[Place]) -> dict[str, float]:
        """Share of each place in use."""
        with self._alone():
            return {place.id: self._used(place) for place in places}

    def _used(self, place: Place) -> float:
        folder = self._folder(place)
        return sum(share for path in folder.glob("*.hold") if (share := _held_share(path)) is not None)

    def take(
        self, places: Sequence[Place], share: float, count: int, admit: Callable[[Place, float], str]
    ) -> list[Hold] | None:
        """Take a share of `count` places, the emptiest first; None when there are not so many.

        admit(place, used): why nothing may start there, empty if it may; asked for places with room only.
        Raises: OSError of the leases' disk; nothing is held then.
        """
        with self._alone():
            used = {place.id: self._used(place) for place in places}
            room = [place for place in places if used[place.id] + share <= place.size + SLACK]
            room.sort(key=lambda place: used[place.id] / place.size)
            fit: list[Place] = []
            for place in room:
                if len(fit) < count and not (self.quarantined(place) or admit(place, used[place.id])):
                    fit.append(place)
            return self._holds(fit, share) if len(fit) == count else None

    def want(self, places: Iterable[Place]) -> None:
        """Tell the other pools that we wait for a share of any of these."""
        for place in places:
            (self._folder(place) / self._wish).touch(0o644)

    def unwant(self, places: Iterable[Place]) -> None:
        """We wait no longer."""
        for place in places:
            (self._folder(place) / self._wish).unlink(missing_ok=True)

    def wanted(self, place: Place) -> bool:
        """Whether another pool waits for a share of this one."""
        for path in self._folder(place).glob("*.want"):
            if path.name != self._wish:
                with suppress(OSError):
                    age = time.time() - path.stat().st_mtime
                    if age < WANT_SECONDS:
                        return True
                    if age > 60 * WANT_SECONDS:  # of a pool that is long gone
                        path.unlink(missing_ok=True)
        return False

    def _holds(self, places: Sequence[Place], share: float) -> list[Hold]:
        """All of them or, where the disk fails, none."""
        with ExitStack() as undo:
            held = []
            for place in places:
                held.append(self._hold(place, share))
                undo.callback(held[-1].release)
            undo.pop_all()
        return held

    def _hold(self, place: Place, share: float) -> Hold:
        path = self._folder(place) / f"{uuid.uuid4().hex[:12]}.hold"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        hold = Hold(place, share, path, Lease(fd))
        try:
            hold.lease.write(share=share, by=_me(), since=time.time())
            os.fchmod(fd, 0o644)  # others must see that it is locked, whatever our umask
        except BaseException:
            hold.release()
            raise
        return hold

    def _folder(self, place: Place) -> Path:
        folder = self.root / place.id.replace("/", "_")
        _shared_folder(folder)
        return folder

    def quarantine(self, place: Place, reason: str) -> None:
        """Start nothing there until `reopen`."""
        record = {"reason": reason, "since": time.time(), "by": _me()}
        path = self._folder(place) / QUARANTINE
        beside = path.with_name(f".{uuid.uuid4().hex}")
        beside.write_text(json.dumps(record))
        beside.chmod(0o644)
        beside.replace(path)

    def quarantined(self, place: Place) -> str:
        """Why nothing is started there; empty when it is open."""
        record = read_json(self._folder(place) / QUARANTINE)
        return "" if record is None else str(record.get("reason") or "unknown")

    def reopen(self, place: Place) -> None:
        """The place works again."""
        (self._folder(place) / QUARANTINE).unlink(missing_ok=True)


def _me() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers without a name
        return f"user {os.getuid()}"


def _held_share(path: Path) -> float | None:
    """The share of a hold in use; the file of one that is no longer held is removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        record = read_json(path) or {}
        return float(record.get("share", 1.0))
    finally:
        os.close(fd)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def _shared_folder(path: Path) -> None:
    """A folder that all users may write into, whatever our umask."""
    try:
        path.mkdir(parents=True)
        path.chmod(ALL)
    except FileExistsError:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            remedy = (
                f"chmod 777 {path}, or export JDX_LEASES=FOLDER, the same one for all users of the machine"
            )
            raise PermissionError(f"{path} cannot be written by {_me()}: {remedy}") from None


def _shared_file(path: Path) -> None:
    """A file that all users may open; not through somebody's link."""
    with suppress(FileExistsError):
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        os.fchmod(fd, 0o666)
        os.close(fd)
