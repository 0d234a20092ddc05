"""Warm starts that are interrupted, repeated, or made by two controllers at once: every result once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from jdx.errors import ConfigError
from sweeps import warm
from sweeps.content import Content
from sweeps.ledger import CONTENT, WARM, Ledger
from sweeps.plan import UNCOUNTED
from tests.sweeps.bench import Bench

WORDS = ["x=range(0,50)"]
VALUES = {3: 0.5, 7: 0.25, 8: 0.125}


def bench(root: Path, owner: str = "a") -> Bench:
    url = f"sqlite:///{root}/new.db"
    return Bench(root / owner, words=WORDS, url=url, sampler="random", n_trials=2, owner=owner, shared=True)


def content(ledger: Ledger) -> Content:
    return Content(ledger.space.content(), ["maximize"], ["value"], [])


def source(root: Path, name: str, values: dict[int, float], settings: dict[str, str] | None = None) -> str:
    """A finished study of the same space."""
    url = f"sqlite:///{root}/{name}.db"
    study = optuna.create_study(study_name=name, storage=url, direction="maximize")
    told = {"space": {}, "settings": settings or {}}
    study.set_user_attr(CONTENT, json.dumps(told))
    space = bench(root).ledger().space.dimensions["x"].distribution
    for x, value in values.items():
        study.add_trial(optuna.create_trial(params={"x": x}, distributions={"x": space}, value=value))
    return f"{url}#{name}"


def begin(ledger: Ledger, sources: list[str]) -> list[str]:
    said: list[str] = []
    warm.start(ledger, sources, content(ledger), [], said.append)
    return said


def results(ledger: Ledger) -> list[tuple[Any, Any]]:
    done = [trial for trial in ledger.trials() if trial.state == TrialState.COMPLETE]
    return [(trial.params["x"], trial.value) for trial in done]


def queue(ledger: Ledger) -> list[Any]:
    waiting = [trial for trial in ledger.trials() if trial.state == TrialState.WAITING]
    return [trial.system_attrs["fixed_params"]["x"] for trial in waiting]


@pytest.mark.parametrize("deaths", range(1, 12))
def test_killed_at_any_write_nothing_is_lost_or_told_twice(tmp_path: Path, deaths: int) -> None:
    sources = [
        source(tmp_path, "same", VALUES),
        source(tmp_path, "other", {20: 0.5, 21: 0.6}, {"steps": "9"}),
    ]
    ledger = bench(tmp_path).ledger()
    inner: Any = vars(ledger.storage)["inner"]
    left = [deaths]
    for name in ("create_new_trial", "set_trial_state_values", "set_trial_user_attr"):
        real = getattr(inner, name)

        def dying(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        setattr(inner, name, dying)
    try:
        begin(ledger, sources)
    except KeyboardInterrupt:
        pass
    else:
        assert deaths > 8  # three results in two writes each, two points
    again = bench(tmp_path).ledger()
    begin(again, sources)
    assert sorted(results(again)) == sorted(VALUES.items())
    assert sorted(queue(again)) == [20, 21]
    assert [trial.state for trial in again.trials()].count(TrialState.RUNNING) == 0
    assert again.tally() == (0, 0)  # they cost nothing of the budget


def test_an_existing_study_is_told_what_it_does_not_know(tmp_path: Path) -> None:
    ledger = bench(tmp_path).ledger()
    ticket = ledger.ask(None)
    assert ticket is not None
    ledger.complete(ticket, [0.75])
    first = source(tmp_path, "first", {3: 0.5})
    assert begin(ledger, [first]) == ["1 results of earlier runs are known, 0 points are tried first"]
    more = source(tmp_path, "more", VALUES | {3: 0.5})
    assert begin(ledger, [first, more])[-1] == (
        "2 results of earlier runs are known, 0 points are tried first, 2 were in the study already"
    )
    assert sorted(results(ledger)) == sorted([*VALUES.items(), (ticket.params["x"], 0.75)])
    begin(ledger, [f"sqlite:///{tmp_path}/new.db#study"])  # itself
    assert len(results(ledger)) == 4


def test_two_controllers_at_once_tell_and_ask_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sees what the other adds before both have added."""
    sources = [source(tmp_path, "same", VALUES), source(tmp_path, "other", {20: 0.5}, {"steps": "9"})]
    one, other = bench(tmp_path).ledger(), bench(tmp_path, "b").ledger()
    settle = warm.settle
    with monkeypatch.context() as patch:
        patch.setattr(warm, "settle", lambda _: None)
        patch.setattr(other, "trials", list)
        begin(one, sources)
        begin(other, sources)
    settle(one)
    settle(bench(tmp_path, "b").ledger())
    assert sorted(results(one)) == sorted(VALUES.items())
    assert queue(one) == [20, 20]
    first, second, third = one.ask(None), one.ask(None), one.ask(None)
    assert first is not None
    assert first.params == {"x": 20}
    assert second is None  # the double is given back
    assert third is not None
    assert [t.number for t in one.counted() if WARM in t.user_attrs] == [first.number]


def test_a_source_that_is_gone_does_not_stop_a_study_that_was_begun_with_it(tmp_path: Path) -> None:
    known = source(tmp_path, "old", VALUES)
    ledger = bench(tmp_path).ledger()
    begin(ledger, [known])
    (tmp_path / "old.db").unlink()
    said = begin(ledger, [known])
    assert "cannot be read any more" in said[0]
    assert not (tmp_path / "old.db").exists()  # an empty one would be found the next time
    assert sorted(results(ledger)) == sorted(VALUES.items())
    with pytest.raises(ConfigError, match="nowhere"):
        begin(ledger, [known, str(tmp_path / "nowhere")])
    assert all(UNCOUNTED in trial.user_attrs for trial in ledger.trials())


def test_passwords_of_sources_are_not_told() -> None:
    assert warm._shown("postgresql://me:s3cret@host/db#study") == "postgresql://me:***@host/db#study"
    assert warm._shown("/folder:with@signs") == "/folder:with@signs"
