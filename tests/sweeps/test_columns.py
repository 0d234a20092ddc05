"""Tables in a terminal of 80 columns: every ready space, finished and running."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from launcher.base import Slot
from sweeps.columns import fitting, heading, short_names, short_value
from sweeps.results import Report, Row, best_first, show
from sweeps.space import parse_space
from sweeps.view import Progress, Running, table
from tests.sweeps.test_conf import SWEEPS, sweeper


def points(name: str, count: int = 6) -> list[dict[str, Any]]:
    space = parse_space(sweeper(f"sweep={name}").params or {}, [])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask(), {}) for _ in range(count)]


def lines(shown: Any) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(shown)
    return stream.getvalue().splitlines()


def row(number: int, params: Mapping[str, Any], *, pruned: bool = False, warm: str | None = None) -> Row:
    seconds = None if warm else 1733.0
    return Row(number, "complete", params, [0.41234567], pruned, None, seconds, seconds, 1, [], warm, None)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_finished_sweep_has_one_line_per_trial(name: str) -> None:
    rows = [
        row(100 + i, point, pruned=i == 2, warm="old" if i == 3 else None)
        for i, point in enumerate(points(name))
    ]
    report = Report("study", 6, 0, 1, [rows[0]], "command", {}, rows)
    shown, below = best_first(report, 80)
    printed = lines(shown)
    assert max(map(len, printed)) <= 80
    body = [line for line in printed if line.startswith("│")]
    assert len(body) == len(rows)
    assert sum("~0.41235" in line for line in body) == sum("*0.41235" in line for line in body) == 1
    assert below[:2] == ["~ estimate of a trial that was stopped early", "* known before"]


@pytest.mark.parametrize("seeds", ["", " (seed 1)"])
@pytest.mark.parametrize("name", SWEEPS)
def test_a_running_sweep_breaks_points_between_settings(name: str, seeds: str) -> None:
    card = "GPU-8a1b2c3d-1111-2222-3333-444455556666"
    running = [
        Running(f"{n}{seeds}", p, 200.0, (card,), n % 2, n, pending=False)
        for n, p in enumerate(points(name, 4))
    ]
    progress = Progress(
        40,
        5,
        1,
        running,
        900.0,
        400.0,
        7200.0,
        lambda: [Slot("NVIDIA H200 0", 1.0, 1.0)],
        None,
        draining=False,
    )
    printed = lines(table("study", progress))
    assert max(map(len, printed)) <= 80
    text = "\n".join(printed)
    names = short_names(list(running[0].params))
    for job in running:
        for key, value in job.params.items():
            assert f"{names[key]}={short_value(value)}" in text  # in one piece
    assert ("GPU-8a1b2c3d " in text) == ("place" in text)  # whole or not at all


def test_names_are_as_short_as_they_can_be() -> None:
    keys = [
        "lora.rank",
        "lora.text_encoder.rank",
        "optim.unet.lr",
        "optim.text_encoder.lr",
        "train.steps",
        "rank",
    ]
    assert list(short_names(keys).values()) == [
        "lora.rank", "text_encoder.rank", "unet.lr", "text_encoder.lr", "steps", "rank",
    ]  # fmt: skip
    assert heading("text_encoder.rank") == "text_encoder.\nrank"
    assert heading("unet.lr") == "unet.lr"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.4567e-06, "1.46e-6"),
        (0.00057022, "0.00057"),
        (2.0, "2"),
        (True, "true"),
        (None, "None"),
        ("['7','8']", "7,8"),
    ],
)
def test_values_are_short(value: Any, text: str) -> None:
    assert short_value(value) == text


def test_what_there_is_no_room_for_is_named() -> None:
    heads, cells = ["trial", "a", "b.\nc", "time"], [["1", "x" * 30, "y" * 30, "z" * 30]]
    assert fitting(heads, cells, 80, ["time", "b.\nc", "a"]) == ([0, 1, 2], ["time"])
    assert fitting(heads, cells, 50, ["time", "b.\nc", "a"]) == ([0, 1], ["time", "b.c"])


def test_a_sweep_without_a_finished_trial_shows_no_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show(Report("study", 0, 0, 0, [], None, {}, []), tmp_path)
    out = capsys.readouterr().out
    assert "study study: 0 finished" in out
    assert "value" not in out
