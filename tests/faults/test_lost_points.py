"""A controller dies for good: the points that it had taken are run once more, exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import ledger as module
from sweeps.ledger import AGAIN, Ledger
from sweeps.plan import UNCOUNTED
from tests.sweeps.bench import Bench


def shared(root: Path, owner: str) -> Bench:
    """A controller of a study that others write too."""
    url = f"sqlite:///{root}/shared.db"
    return Bench(root / owner, words=["x=0,1,2", "y=0,1"], url=url, shared=True, owner=owner)


def dies(ledger: Ledger) -> None:
    """Two points taken, one more in the middle of being chosen; nobody comes back."""
    assert ledger.ask(None) is not None
    assert ledger.ask(None) is not None
    trial = ledger.study.ask()
    ledger._attr(trial._trial_id, "jdx:owner", ledger.owner)
    trial.suggest_categorical("x", (0, 1, 2))


def check(bench: Bench) -> None:
    trials = bench.ledger().counted()
    points = sorted((trial.params["x"], trial.params["y"]) for trial in trials)
    assert points == [(x, y) for x in (0, 1, 2) for y in (0, 1)]
    assert {trial.state.name for trial in trials} == {"COMPLETE"}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OWNER_STALE", -1.0)


def test_points_of_a_dead_controller_run_once_more(tmp_path: Path) -> None:
    dies(shared(tmp_path, "a").ledger())
    bench = shared(tmp_path, "b")
    _, done = bench.run()
    assert done
    check(bench)
    assert sum(bench.starts().values()) == 6
    again = [trial.user_attrs[AGAIN] for trial in bench.ledger().counted() if AGAIN in trial.user_attrs]
    assert sorted(again) == [0, 1, 2]


def test_a_death_while_points_are_put_back_loses_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(shared(tmp_path, "a").ledger())
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "give_up", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            shared(tmp_path, "b").ledger().unfinished(None)
    bench = shared(tmp_path, "c")
    _, done = bench.run()
    assert done
    check(bench)
    assert sum(bench.starts().values()) == 6


def test_two_controllers_that_put_back_the_same_point_run_it_once(tmp_path: Path) -> None:
    dies(shared(tmp_path, "a").ledger())
    bench = shared(tmp_path, "b")
    bench.root.mkdir()
    ledger = bench.ledger()
    for number in (0, 0, 1):  # another one at the same moment: neither has seen the other's
        point = ledger.trials()[number].params
        ledger.study.enqueue_trial(point, user_attrs={AGAIN: number})
    _, done = bench.run()
    assert done
    check(bench)
    surplus = [trial for trial in ledger.trials() if trial.user_attrs.get(UNCOUNTED) == "surplus"]
    assert [trial.user_attrs[AGAIN] for trial in surplus] == [0]


def test_a_trial_that_was_given_up_too_early_is_not_run_again(tmp_path: Path) -> None:
    """Its controller was only slow, and has told the result before the point's turn came."""
    slow = shared(tmp_path, "a").ledger()
    ticket = slow.ask(None)
    assert ticket is not None
    bench = shared(tmp_path, "b")
    bench.ledger().study.enqueue_trial(dict(ticket.params), user_attrs={AGAIN: ticket.number})
    slow.complete(ticket, [1.0])
    _, done = bench.run()
    assert done
    check(bench)
    assert sum(bench.starts().values()) == 5


def test_a_larger_budget_finds_the_points_that_came_too_late_before(tmp_path: Path) -> None:
    """Two controllers ask for the last of four: the number that was one too many takes no point of the list."""
    small, other = shared(tmp_path, "a"), shared(tmp_path, "b")
    small.n_trials = other.n_trials = 4
    _, done = small.run()
    assert done
    late = other.ledger()
    late._counted, late._begun = float("inf"), 0  # counted before the last one was taken
    assert late.ask(None) is None
    other.n_trials = 6
    _, done = other.run()
    assert done
    check(other)
