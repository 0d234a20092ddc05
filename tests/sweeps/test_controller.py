"""The controller on the real pool with cheap jobs."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from launcher.base import Handle, JobSpec, UnreachableError
from launcher.folder import read_result
from launcher.gpu_pool import GpuPool
from launcher.settings import PoolSettings
from sweeps.controller import Controller, Rules, TooManyFailuresError
from sweeps.ledger import PRUNED, REASON, RECORD
from tests.sweeps.bench import Bench, Notes, states


def test_grid_runs_every_point_once_and_finds_the_best(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    controller, done = bench.run()
    assert done
    assert bench.starts() == Counter({f"{n}.0": 1 for n in range(6)})
    best = controller.ledger.best()
    assert best is not None
    assert (best.params, best.values) == ({"x": 3}, [0.0])
    again, done = bench.run()  # nothing is left to do
    assert done
    assert sum(bench.starts().values()) == 6
    assert len(again.ledger.trials()) == 6


def test_slots_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Trial 0 ends only when the last one has begun: with batches it never would."""
    bench = Bench(tmp_path, words=["x=range(0,9)"], payload={"deeds": {"0": "wait for 8.0"}})
    controller, _ = bench.run()
    assert set(states(controller).values()) == {"COMPLETE"}


def test_later_trials_extend_the_same_study(tmp_path: Path) -> None:
    bench = Bench(tmp_path, words=["x=interval(0.0,6.0)"], n_trials=5, sampler="tpe")
    bench.run()
    bench.n_trials = 8
    controller, _ = bench.run()
    assert sorted(states(controller)) == list(range(8))
    assert sum(bench.starts().values()) == 8


KINDS = {
    "raise": (3, "raised"), "nan": (1, "nan"), "none": (1, "nan"), "oom": (2, "oom"), "kill": (3, "killed"),
    "settings": (1, "settings"),
}  # fmt: skip
"""What a job does, how often it is tried, and what is written down."""


def test_failed_trials_are_retried_by_kind_and_harm_nobody(tmp_path: Path) -> None:
    deeds = {str(number): deed for number, deed in enumerate(KINDS)} | {"7.0": "kill", "8.0": "raise"}
    bench = Bench(tmp_path, words=["x=range(0,10)"], payload={"deeds": deeds})
    controller, done = bench.run()
    assert done
    assert states(controller) == {n: "FAIL" if n < len(KINDS) else "COMPLETE" for n in range(10)}
    trials, starts = controller.ledger.trials(), bench.starts()
    for number, (attempts, kind) in enumerate(KINDS.values()):
        assert [starts[f"{number}.{attempt}"] for attempt in range(4)] == [1] * attempts + [0] * (
            4 - attempts
        )
        assert trials[number].user_attrs[REASON].startswith(kind)
        failures = (tmp_path / "jobs" / f"{number:04d}" / "failures.jsonl").read_text()
        assert failures.count(f'"kind": "{kind}"') == attempts
    assert [trials[number].user_attrs[RECORD]["attempts"] for number in (6, 7, 8, 9)] == [1, 2, 2, 1]


def test_a_job_over_its_time_is_ended_and_retried(tmp_path: Path) -> None:
    bench = Bench(tmp_path, words=["x=0,3"], payload={"deeds": {"0.0": "hang"}}, timeout=15.0)
    controller, _ = bench.run()
    assert states(controller) == {0: "COMPLETE", 1: "COMPLETE"}
    assert '"timeout"' in (tmp_path / "jobs" / "0000" / "failures.jsonl").read_text()


def test_all_failed_is_a_report_and_not_a_crash(tmp_path: Path) -> None:
    controller, done = Bench(tmp_path, payload={"deeds": {"all": "nan"}}).run()
    assert done
    assert set(states(controller).values()) == {"FAIL"}
    assert controller.ledger.best() is None


def test_too_many_failures_end_the_sweep(tmp_path: Path) -> None:
    bench = Bench(tmp_path, payload={"deeds": {"all": "nan"}}, rules={"max_failure_rate": 0.5, "n_jobs": 2})
    with pytest.raises(TooManyFailuresError, match="max_failure_rate"):
        bench.run()
    assert sum(bench.starts().values()) < 6


def test_a_lost_gpu_is_not_the_points_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path, words=["x=0,3"], payload={"deeds": {f"0.{n}": "cuda" for n in range(4)}})
    controller, _ = bench.run()  # four failures, and only two retries are allowed
    assert states(controller) == {0: "COMPLETE", 1: "COMPLETE"}
    assert '"gpu_lost"' in (tmp_path / "jobs" / "0000" / "failures.jsonl").read_text()


class Unreachable(GpuPool):
    """A pool that cannot be reached each second time."""

    asked = 0

    def submit(self, spec: JobSpec) -> Handle:
        self.asked += 1
        if self.asked % 2:
            raise UnreachableError("nobody answers")
        return super().submit(spec)


def test_a_cluster_that_is_away_is_tried_again_and_costs_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.controller.REST", 0.0)
    bench = Bench(tmp_path)
    executor = Unreachable(PoolSettings(leases=str(tmp_path / "leases"), cpu_slots=2, threads_per_job=1))
    controller, done = bench.run(executor=executor)
    assert done
    assert set(states(controller).values()) == {"COMPLETE"}
    assert bench.starts() == Counter({f"{n}.0": 1 for n in range(6)})
    assert executor.asked == 12


def test_only_the_third_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    notes = Notes()
    controller = Controller(bench.ledger(), bench.executor(), bench.spec, tmp_path, Rules(), notes)
    with controller._signals():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert controller.interrupts == 2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(notes.said) == 2


def test_repetitions_are_averaged(tmp_path: Path) -> None:
    bench = Bench(tmp_path, words=["x=2,3"], rules={"seeds": [10, 20, 30]})
    controller, _ = bench.run()
    trials = controller.ledger.trials()
    assert [trial.values for trial in trials] == [[pytest.approx(-0.8)], [pytest.approx(0.2)]]
    assert set(trials[0].user_attrs[RECORD]["repetitions"]) == {"10", "20", "30"}
    assert len(list((tmp_path / "jobs").iterdir())) == 6


def test_a_repetition_that_fails_ends_the_others_of_its_trial_only(tmp_path: Path) -> None:
    deeds = {"0.seed10": "nan"}
    bench = Bench(
        tmp_path, words=["x=2,3"], rules={"seeds": [10, 20]}, payload={"deeds": deeds, "slow_seeds": []}
    )
    controller, done = bench.run()
    assert done
    assert states(controller) == {0: "FAIL", 1: "COMPLETE"}

    slow = Bench(
        tmp_path / "slow",
        words=["x=2"],
        rules={"seeds": [10, 20]},
        payload={"deeds": deeds, "slow_seeds": [20]},
    )
    controller, done = slow.run()  # the second repetition would run for two minutes: it is ended
    assert done
    assert states(controller) == {0: "FAIL"}


def test_an_estimate_is_never_better_than_the_best(tmp_path: Path) -> None:
    ledger = Bench(tmp_path, pruner="median").ledger()
    first, second = ledger.ask(None), ledger.ask(None)
    assert first is not None
    assert second is not None
    ledger.complete(first, [0.5])  # without steps, as one that is known from elsewhere
    ledger.report(second, 0, 0.7)
    assert ledger.estimate(ledger.steps(second), {}) == 0.5


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path, directions=["maximize", "minimize"], rules={"objectives": ["value", "metrics.size"]}
    )
    controller, _ = bench.run()
    front = sorted(trial.params["x"] for trial in controller.ledger.front())
    assert front == [0, 1, 2, 3]  # beyond the best score a larger size buys nothing


def test_wrong_number_of_values_is_told(tmp_path: Path) -> None:
    controller, _ = Bench(tmp_path, words=["x=1"], directions=["maximize", "minimize"]).run()
    assert "2 directions" in controller.ledger.trials()[0].user_attrs[REASON]


def test_hopeless_trials_stop_between_styles_and_are_told_by_pairs(tmp_path: Path) -> None:
    payload = {"styles": list(range(12)), "lingers": [1, 2]}
    bench = Bench(tmp_path, words=["x=3,0,1"], pruner="wilcoxon", rules={"n_jobs": 1}, payload=payload)
    controller, _ = bench.run()
    good, bad, worse = controller.ledger.trials()
    assert [bool(trial.user_attrs.get(PRUNED)) for trial in (good, bad, worse)] == [False, True, True]
    assert bad.state.name == "COMPLETE"
    # best 0.0 and a mean difference of -9; the styles alone have a mean that is higher
    assert bad.values == [pytest.approx(-9.0)]
    assert worse.values == [pytest.approx(-4.0)]
    best = controller.ledger.best()
    assert best is not None
    assert best.number == 0


def test_snapshots_stop_a_trial_too(tmp_path: Path) -> None:
    pruner = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1}
    payload = {"snapshots": [2, 4, 6, 8], "lingers": [1, 2]}
    bench = Bench(tmp_path, words=["x=3,2,0"], pruner=pruner, rules={"n_jobs": 1}, payload=payload)
    controller, _ = bench.run()
    trials = controller.ledger.trials()
    assert [bool(trial.user_attrs.get(PRUNED)) for trial in trials] == [False, True, True]
    assert set(trials[0].intermediate_values) == {2, 4, 6, 8}
    assert trials[2].values is not None
    assert trials[2].values[0] <= 0.0


def test_a_trial_that_is_stopped_by_hand_is_told_like_one_that_was_pruned(tmp_path: Path) -> None:
    """Without a pruner the study knows no styles; the jobs' folders do."""
    payload = {"styles": list(range(4)), "stops": {"1": 3, "2": 0}}
    bench = Bench(tmp_path, words=["x=1,3,2,0"], rules={"n_jobs": 1}, payload=payload)
    controller, done = bench.run()
    assert done
    first, stopped, unseen, last = controller.ledger.trials()
    assert [trial.state.name for trial in (first, stopped, unseen, last)] == [
        "COMPLETE",
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]
    assert [bool(trial.user_attrs.get(PRUNED)) for trial in (first, stopped, unseen, last)] == [
        False,
        True,
        True,
        False,
    ]
    assert stopped.values == [pytest.approx(-4.0)]  # four above the best, trial 0, and never better than that
    assert "stopped before anything was scored" in unseen.user_attrs[REASON]
    best = controller.ledger.best()
    assert best is not None
    assert best.number == 0
    assert controller.ledger.tally() == (4, 0)
    assert sum(bench.starts().values()) == 4  # and none is tried again
    assert bench.run()[0].ledger.left() == 0


def test_an_estimate_by_hand_is_the_best_and_the_mean_difference(tmp_path: Path) -> None:
    payload = {"styles": list(range(4)), "stops": {"1": 2}}
    controller, _ = Bench(tmp_path, words=["x=3,1"], rules={"n_jobs": 1}, payload=payload).run()
    assert controller.ledger.trials()[1].values == [
        pytest.approx(-4.0)
    ]  # the mean of the styles alone is -3.95


def test_one_repetition_stopped_by_hand_stops_its_trial(tmp_path: Path) -> None:
    payload = {"styles": [0, 1], "stops": {"0.seed10": 1}, "lingers": [0]}
    bench = Bench(tmp_path, words=["x=2,3"], rules={"seeds": [10, 20]}, payload=payload)
    controller, done = bench.run()
    assert done
    assert [bool(trial.user_attrs.get(PRUNED)) for trial in controller.ledger.trials()] == [True, False]
    result = read_result(tmp_path / "jobs" / "0000-s20")
    assert result is not None
    assert result["state"] == "stopped"  # it waits for that


def test_stopping_by_hand_with_several_objectives_gives_no_estimate(tmp_path: Path) -> None:
    bench = Bench(
        tmp_path,
        directions=["maximize", "minimize"],
        rules={"objectives": ["value", "metrics.size"]},
        payload={"styles": [0, 1], "stops": {"3": 1}},
    )
    controller, _ = bench.run()
    assert controller.ledger.trials()[3].state.name == "PRUNED"
    assert 3 not in {trial.number for trial in controller.ledger.front()}


@pytest.mark.parametrize(
    ("sampler", "shared", "ahead"),
    [(None, False, True), ("random", False, True), ("tpe", False, False), (None, True, False)],
)
def test_the_next_point_is_ready_where_results_cannot_change_it(
    tmp_path: Path, sampler: str | None, shared: bool, ahead: bool
) -> None:
    notes = Notes()
    bench = Bench(
        tmp_path, words=["x=range(0,4)"], n_trials=4, sampler=sampler, shared=shared, rules={"n_jobs": 1}
    )
    controller, done = bench.run(notes)
    assert done
    assert bench.starts() == Counter({f"{n}.0": 1 for n in range(4)})
    order = [(what, number) for what, number, _ in notes.events if what in {"asked", "started", "finished"}]
    for number in range(1, 4):
        before = order.index(("asked", number)) < order.index(("finished", number - 1))
        assert before == ahead
        assert order.index(("asked", number)) > order.index(("started", number - 1))  # one ahead, not more
    assert len(controller.ledger.trials()) == 4
