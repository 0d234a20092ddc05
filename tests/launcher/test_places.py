"""Machine-wide leases: shares, users, dead holders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.folder import Lease
from launcher.places import Place, Places

HOLD = """
import os, sys
from pathlib import Path
from launcher.places import Place, Places
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
holds = Places(Path(sys.argv[1])).take([Place("card")], 0.5, 1, lambda place, used: "")
print("held" if holds else "full", flush=True)
sys.stdin.read()
"""


def anybody(place: Place, used: float) -> str:
    """Everything is open."""
    return ""


def test_shares_add_up_to_a_whole_and_come_back(tmp_path: Path) -> None:
    places, card = Places(tmp_path), Place("card")
    thirds = [places.take([card], 1 / 3, 1, anybody) for _ in range(4)]
    assert [bool(held) for held in thirds] == [True, True, True, False]
    assert places.used([card])["card"] == pytest.approx(1.0)
    assert thirds[0]
    thirds[0][0].release()
    assert places.take([card], 1.0, 1, anybody) is None
    assert places.take([card], 1 / 3, 1, anybody)


def test_several_are_taken_together_or_not_at_all_and_the_emptiest_first(tmp_path: Path) -> None:
    places, cards = Places(tmp_path), [Place("a"), Place("b"), Place("c")]
    assert places.take(cards[:1], 0.5, 1, anybody)
    assert places.take(cards, 1.0, 3, anybody) is None
    assert places.used(cards) == {"a": 0.5, "b": 0.0, "c": 0.0}
    both = places.take(cards, 1.0, 2, anybody)
    assert both
    assert {hold.place.id for hold in both} == {"b", "c"}


def test_nothing_is_held_where_the_disk_fails_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, cards = Places(tmp_path), [Place("a"), Place("b")]
    real, room = Lease.write, [True]

    def write(lease: Lease, **content: Any) -> None:
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room.pop()
        real(lease, **content)

    monkeypatch.setattr(Lease, "write", write)
    with pytest.raises(OSError, match="No space left"):
        places.take(cards, 1.0, 2, anybody)
    assert places.used(cards) == {"a": 0.0, "b": 0.0}
    assert not list(tmp_path.glob("*/*.hold"))
    monkeypatch.undo()
    assert places.take(cards, 1.0, 2, anybody)


def test_a_dead_holder_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        places, card = Places(tmp_path), Place("card")
        assert places.used([card]) == {"card": 0.5}
        holder.kill()
        holder.wait()
        assert places.used([card]) == {"card": 0.0}
        assert not list((tmp_path / "card").glob("*.hold"))


def test_a_forked_child_does_not_keep_its_parents_share(tmp_path: Path) -> None:
    places, card = Places(tmp_path), Place("card")
    (hold,) = places.take([card], 1.0, 1, anybody) or []
    (end, ending), (ready, told) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ending)
        os.write(told, b"x")
        os.read(end, 1)
        os._exit(0)
    os.read(ready, 1)  # the child is past what happens at a fork
    hold.lease.close()  # what the parent's death does
    assert places.used([card]) == {"card": 0.0}
    for fd in (end, ending, ready, told):
        os.close(fd)
    os.waitpid(child, 0)


def test_users_share_a_folder(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become two other users")
    root = Path("/dev/shm") / f"jdx-test-{os.getpid()}" if Path("/dev/shm").is_dir() else tmp_path / "leases"
    Places(root)  # made by root, for everybody
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(root), str(user)], stdin=-1, stdout=-1, text=True)
        for user in (65533, 65534, 65533)
    ]
    try:
        told = sorted(holder.stdout.readline() for holder in holders if holder.stdout)
        assert told == ["full\n", "held\n", "held\n"]
    finally:
        for holder in holders:
            holder.communicate("")
        subprocess.run(["rm", "-rf", str(root)], check=True)


def test_a_folder_that_is_closed_to_us_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="JDX_LEASES"):
        Places(tmp_path)


def test_quarantine_is_for_all(tmp_path: Path) -> None:
    one, two, card = Places(tmp_path), Places(tmp_path), Place("card")
    one.quarantine(card, "fell off the bus")
    assert two.quarantined(card) == "fell off the bus"
    assert two.take([card], 1.0, 1, anybody) is None
    two.reopen(card)
    assert one.take([card], 1.0, 1, anybody)


def test_wishes_are_heard_by_others_only(tmp_path: Path) -> None:
    one, two, card = Places(tmp_path), Places(tmp_path), Place("card")
    one.want([card])
    assert (one.wanted(card), two.wanted(card)) == (False, True)
    one.unwant([card])
    assert not two.wanted(card)
    one.want([card])
    for path in (tmp_path / "card").glob("*.want"):
        os.utime(path, (0, 0))
    assert not two.wanted(card), "a dead pool wants nothing"
