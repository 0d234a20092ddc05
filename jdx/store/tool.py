"""`python -m jdx.store ls|du|gc|verify`: what the store holds, what it costs, what may go, whether it is whole."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from jdx.store import ENTRY, Store, damage_of, key_of
from jdx.words import counted

DAY = 86400.0
UNITS = {"h": 3600.0, "d": DAY, "w": 7 * DAY}
SIZES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


@dataclass(frozen=True)
class Entry:
    """One finished stage. used: when it was last looked up, made or claimed (seconds since the epoch)."""

    stage: str
    key: str
    part: str
    size: int
    used: float
    name: str
    damage: str

    @property
    def place(self) -> str:
        """Its folder below the store's root."""
        return "/".join(filter(None, (self.stage, self.key, self.part)))


def entries(store: Store) -> Iterator[Entry]:
    """All entries, whole or damaged, sorted by place."""
    for stage in sorted(path for path in store.root.iterdir() if path.is_dir() and path.name[0] != "."):
        for folder in sorted(path for path in stage.iterdir() if path.is_dir()):
            parts = [path for path in sorted(folder.iterdir()) if (path / ENTRY).is_file()]
            if (folder / ENTRY).is_file() or not parts:
                yield _entry(stage.name, folder.name, "", folder)
            for part in parts:
                yield _entry(stage.name, folder.name, part.name, part)


def _entry(stage: str, key: str, part: str, folder: Path) -> Entry:
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    mark = folder / ENTRY
    used = mark.stat().st_mtime if mark.is_file() else folder.stat().st_mtime
    record = _record(folder)
    name = str(record.get("name") or record.get("style") or "")
    return Entry(stage, key, part, sum(stat.st_size for stat in files), used, name, damage_of(folder) or "")


def _record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


# -- who needs what ---------------------------------------------------------------------------------------------------


def referenced(store: Store, runs: Iterable[Path]) -> set[str]:
    """Places that finished runs name in their trial.json; a reference counts as long as the run folder exists."""
    found: set[str] = set()
    for path in (path for root in runs for path in root.rglob("trial.json")):
        try:
            trial = json.loads(path.read_text(encoding="utf-8"))
            root = Path(trial["config"]["store"]["root"]).expanduser().absolute()
            places = {place for stage in trial["entries"].values() for place in stage.values()}
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # not one of ours
        if (
            root.name == store.root.name
        ):  # a moved store, or a relative path from elsewhere: spare too much, not too little
            found |= places
    return found


def oldest_running(runs: Iterable[Path]) -> float:
    """When the first of the trials that are running now began; infinity when none is."""
    starts = [float("inf")]
    for mark in (path for root in runs for path in root.rglob("seeds.json")):
        lock = mark.parent / ".lock"
        if lock.exists():
            try:
                with FileLock(lock).acquire(timeout=0):
                    continue
            except (Timeout, OSError):
                starts.append(mark.stat().st_mtime)
    return min(starts)


@dataclass(frozen=True)
class Plan:
    """What `gc` would remove, and what it leaves with the reason."""

    remove: list[Entry]
    keep: list[tuple[Entry, str]]


def plan(
    found: Sequence[Entry], older_than: float | None, max_size: int | None, spare: Callable[[Entry], str]
) -> Plan:
    """Entries unused for `older_than` seconds, then the longest unused ones until the rest fits into `max_size`.

    spare(entry): why it must stay, empty if it may go.
    """
    now, left = time.time(), sum(entry.size for entry in found)
    result = Plan([], [])
    for entry in sorted(found, key=lambda entry: entry.used):
        old = older_than is not None and now - entry.used > older_than
        if not old and (max_size is None or left <= max_size):
            continue
        if why := spare(entry):
            result.keep.append((entry, why))
        else:
            result.remove.append(entry)
            left -= entry.size
    return result


def remove(store: Store, entry: Entry) -> str:
    """Remove an entry unless somebody works on it; returns why it stayed, or nothing."""
    folder = store.root / ".locks" / entry.stage
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / f"{entry.key}.lock").acquire(timeout=0):
            store.discard(entry.stage, entry.key, entry.part)
            with suppress(OSError):  # other parts are there
                store.path(entry.stage, entry.key).rmdir()
    except Timeout:
        return "locked by a process that works on it"
    return ""


def drop_lock_files(store: Store) -> int:
    """Remove lock files that nobody holds and whose entry is gone; returns how many.

    A lock is the kernel's and ends with its process, so a file left over holds nobody up. Should another process open
    one at the very moment, two make the same entry, and the first to publish stands.
    """
    count = 0
    for path in (store.root / ".locks").glob("*/*.lock"):
        if store.path(path.parent.name, path.stem).exists():
            continue
        with suppress(Timeout), FileLock(path).acquire(timeout=0):
            path.unlink(missing_ok=True)
            count += 1
    return count


# -- is it whole ------------------------------------------------------------------------------------------------------


def faults_of(store: Store, entry: Entry) -> list[str]:
    """What is wrong with an entry: files, their digests, and whether its key is that of its recorded content."""
    folder = store.path(entry.stage, entry.key, entry.part)
    if entry.damage:
        return [entry.damage]
    record, faults = _record(folder), []
    for name, digest in record.get("sha256", {}).items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                faults.append(f"{name} has other bytes than were published")
    content = record.get("content")
    if isinstance(content, dict) and key_of(content) != entry.key:
        faults.append(f"{ENTRY} describes {key_of(content)}, not this entry")
    return faults


# -- the command ------------------------------------------------------------------------------------------------------


def duration(text: str) -> float:
    """`12h`, `30d`, `2w` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 12h, 30d or 2w")
    return float(match[1]) * UNITS[match[2]]


def size(text: str) -> int:
    """`500M`, `20GB`, `20GiB` in bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 500M, 20GB or 20GiB")
    return int(float(match[1]) * SIZES[match[2] or ""])


def human(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def age(when: float) -> str:
    """How long ago, as people say it."""
    seconds = max(0.0, time.time() - when)
    return f"{seconds / DAY:.0f} d" if seconds >= 2 * DAY else f"{seconds / 3600:.1f} h"


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", type=Path, help="the store; default: what store.root says")
    common.add_argument("--json", action="store_true", help="for programs")
    common.add_argument("--stage", help="this stage only, such as train")
    parser = argparse.ArgumentParser(prog="python -m jdx.store", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("ls", parents=[common], help="every entry")
    verbs.add_parser("du", parents=[common], help="size of every stage")
    verify = verbs.add_parser("verify", parents=[common], help="read everything again; exit code 1 on damage")
    verify.add_argument(
        "--repair", action="store_true", help="drop what is damaged; it is made again when needed"
    )
    gc = verbs.add_parser("gc", parents=[common], help="remove what was not used for long; shows it first")
    gc.add_argument("--older-than", type=duration, help="unused for so long: 12h, 30d, 2w")
    gc.add_argument("--max-size", type=size, help="the longest unused go until this is left: 500M, 20GB")
    gc.add_argument("--yes", action="store_true", help="do it; without this nothing is removed")
    gc.add_argument("--runs", type=Path, nargs="*", default=[Path("outputs"), Path("multirun")],
                    help="where run folders are; what they name stays")  # fmt: skip
    gc.add_argument("--referenced", action="store_true", help="also what existing run folders name")
    gc.add_argument("--grace", type=duration, default=DAY, help="never what was used since: 1d unless told")
    return parser


def default_root() -> Path:
    """What conf/store says, from this folder."""
    from omegaconf import OmegaConf

    from jdx import ROOT

    return Path(str(OmegaConf.load(ROOT / "conf" / "store" / "local.yaml").root))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    args = _parser().parse_args(arguments)
    root: Path = args.root or default_root()
    if not root.is_dir():
        print(
            f"{root} is no folder: give the store with --root, or start where store.root points",
            file=sys.stderr,
        )
        return 2
    store = Store(root)
    found = [entry for entry in entries(store) if args.stage in {None, entry.stage}]
    verbs = {"ls": _ls, "du": _du, "verify": _verify, "gc": _gc}
    return verbs[args.verb](store, found, args)


def _show(rows: Sequence[Sequence[str]], heads: Sequence[str], title: str) -> None:
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="right" if head in {"size", "entries"} else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table if console.is_terminal else "\n".join("\t".join(row) for row in rows), soft_wrap=True)


def _ls(store: Store, found: Sequence[Entry], args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps([{**asdict(entry), "place": entry.place} for entry in found], indent=1))
        return 0
    rows = [(entry.place, entry.name, human(entry.size), age(entry.used), entry.damage) for entry in found]
    _show(rows, ("entry", "of", "size", "last used", "damage"), str(store.root))
    return 0


def _du(store: Store, found: Sequence[Entry], args: argparse.Namespace) -> int:
    stages = sorted({entry.stage for entry in found})
    sums = {
        stage: {
            "entries": sum(entry.stage == stage for entry in found),
            "size": sum(entry.size for entry in found if entry.stage == stage),
            "used": max(entry.used for entry in found if entry.stage == stage),
        }
        for stage in stages
    }
    free = shutil.disk_usage(store.root).free
    total = sum(entry.size for entry in found)
    if args.json:
        print(json.dumps({"root": str(store.root), "stages": sums, "size": total, "free": free}, indent=1))
        return 0
    rows = [(stage, str(one["entries"]), human(one["size"]), age(one["used"])) for stage, one in sums.items()]
    rows.append(("all", str(len(found)), human(total), f"{human(free)} free on the disk"))
    _show(rows, ("stage", "entries", "size", "last used"), str(store.root))
    return 0


def _verify(store: Store, found: Sequence[Entry], args: argparse.Namespace) -> int:
    faults = {entry: wrong for entry in found if (wrong := faults_of(store, entry))}
    kept = {entry: remove(store, entry) for entry in faults} if args.repair else {}
    if args.json:
        told = {entry.place: wrong for entry, wrong in faults.items()}
        print(json.dumps({"checked": len(found), "damaged": told, "repaired": args.repair}, indent=1))
    else:
        for entry, wrong in faults.items():
            outcome = (f"  (left: {kept[entry]})" if kept[entry] else "  (dropped)") if args.repair else ""
            print(f"{entry.place}: {'; '.join(wrong)}{outcome}")
        print(f"{counted(len(found), 'entry')} read, {len(faults)} damaged")
    return 1 if faults and (not args.repair or any(kept.values())) else 0


def _gc(store: Store, found: Sequence[Entry], args: argparse.Namespace) -> int:
    if args.older_than is None and args.max_size is None:
        print("say what may go: --older-than 30d, --max-size 50GB, or both", file=sys.stderr)
        return 2
    runs = [path for path in args.runs if path.is_dir()]
    named = set() if args.referenced else referenced(store, runs)
    since = min(time.time() - args.grace, oldest_running(runs))

    def spare(entry: Entry) -> str:
        if entry.used >= since:
            return "used a short while ago, or by a trial that runs"
        return "named by a run folder" if entry.place in named else ""

    todo = plan(found, args.older_than, args.max_size, spare)
    done, kept = list(todo.remove), list(todo.keep)
    if args.yes:
        done = []
        for entry in todo.remove:
            why = remove(store, entry)
            if why:
                kept.append((entry, why))
            else:
                done.append(entry)
        drop_lock_files(store)
    _tell(done, kept, args)
    return 0


def _tell(done: Sequence[Entry], kept: Sequence[tuple[Entry, str]], args: argparse.Namespace) -> None:
    freed = sum(entry.size for entry in done)
    if args.json:
        told = {"removed": args.yes, "entries": [entry.place for entry in done], "size": freed}
        print(json.dumps({**told, "kept": {entry.place: why for entry, why in kept}}, indent=1))
        return
    _show([(entry.place, entry.name, human(entry.size), age(entry.used)) for entry in done],
          ("entry", "of", "size", "last used"), "removed" if args.yes else "would be removed")  # fmt: skip
    for why in sorted({why for _, why in kept}):
        some = [entry for entry, reason in kept if reason == why]
        stay = "1 entry stays" if len(some) == 1 else f"{len(some)} entries stay"
        print(f"{stay} ({human(sum(entry.size for entry in some))}): {why}")
    verb = "were freed" if args.yes else "would be freed; add --yes to do it"
    print(f"{human(freed)} in {counted(len(done), 'entry')} {verb}")
