"""The benchmark of SD 2.1's sizes: its tables, its clocks, and that it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks import sd21_gpu
from benchmarks.effects import settings
from benchmarks.sd21 import model, whole
from benchmarks.sd21.measure import Rows, median_rate
from benchmarks.sd21.table import tables, write
from jdx import validation

ENVIRONMENT = {
    "device": "A card",
    "devices": "2",
    "torch": "2",
    "cuda": "13",
    "diffusers": "0",
    "python": "3",
    "date": "2026-11-21",
}


def row(subject: str, what: str, value: float, unit: str) -> dict[str, object]:
    return {"subject": subject, "what": what, "value": value, "unit": unit, "note": "", "gib": None}


def ratio(text: str, what: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith(f"| {what} "))
    return float(line.split("|")[3])


def test_ratios_take_the_best_of_ours_and_divide_the_right_way_round() -> None:
    rows = [
        row("roof", "bfloat16 matmul 8192", 800.0, "TFLOP/s"),
        row("train", "diffusers' script with PEFT, UNet only", 20.0, "samples/s"),
        row("train", "jdx, 1 styles at once", 60.0, "samples/s"),
        row("train", "jdx, 15 styles at once", 180.0, "samples/s"),
        row("train", "jdx, 15 styles at once", 170.0, "samples/s"),  # another process
        row("draw", "diffusers' pipeline, 1 prompts a call", 1.5, "pictures/s"),
        row("draw", "diffusers' pipeline, 25 prompts a call", 4.0, "pictures/s"),
        row("draw", "jdx", 6.0, "pictures/s"),
        row("styleid", "picture by picture, guidance's doubled batch", 60.0, "s"),
        row("styleid", "picture by picture, guidance's doubled batch", 65.0, "s"),
        row("styleid", "jdx, first style", 20.0, "s"),
        row("styleid", "jdx", 12.0, "s"),
        row("styleid", "jdx", 10.0, "s"),
        row("scaling", "1 cards", 40.0, "s"),
        row("scaling", "2 cards", 21.0, "s"),
    ]
    text = tables([{"environment": ENVIRONMENT, "rows": rows}])
    assert ratio(text, "training against the script's UNet part") == 9
    assert ratio(text, "stacked against one adapter alone") == 3
    assert ratio(text, "training, share of the matmul roof") == pytest.approx(
        100 * 180 * 1.77 / 800, abs=0.05
    )
    assert ratio(text, "drawing against a call per prompt") == 4
    assert ratio(text, "drawing against calls of 25") == 1.5
    assert ratio(text, "StyleID against picture by picture") == 6
    assert ratio(text, "2 cards against 1") == 1.9
    assert "4 cards against 1" not in text
    assert "2 × A card" in text


def test_rate_is_the_median_of_windows_within_a_pack_never_across() -> None:
    first = [(0.0, 0.0), (1.0, 10.0), (3.0, 20.0)]  # 10 and 5 a second
    second = [(100.0, 0.0), (101.0, 8.0)]  # 8 a second
    assert median_rate([first, second]) == 8


def test_table_goes_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- sd21: begin -->\nold\n<!-- sd21: end -->\nafter\n")
    write(page, "new")
    assert page.read_text() == "before\n<!-- sd21: begin -->\nnew\n<!-- sd21: end -->\nafter\n"


def test_processes_that_begin_together_write_one_model(tmp_path: Path) -> None:
    written: list[Path] = []

    def slowly(folder: Path) -> Path:
        written.append(folder)
        folder.mkdir()
        time.sleep(0.1)
        (folder / "model_index.json").touch()
        return folder

    def ask() -> bool:
        return (model.once(tmp_path / "out" / "model", slowly) / "model_index.json").is_file()

    with ThreadPoolExecutor(2) as pool:
        assert all(asked.result() for asked in [pool.submit(ask) for _ in range(2)])
    assert written == [tmp_path / "out" / "model"]


def test_a_trial_is_told_what_is_switched_off(tmp_path: Path) -> None:
    rows, cpu = Rows(tmp_path / "rows.json"), torch.device("cpu")
    plain = sd21_gpu.Bench(rows, tmp_path, sd21_gpu.QUICK, "off", cpu, graphs=False, fused=False)
    words = ["backend.compile=off", "backend.fused=off", "backend.graphs=off"]
    assert sd21_gpu._kernels(plain) == words
    backend = validation.build(settings(*words)).backend
    assert (backend.compile, backend.fused, backend.graphs) == ("off", "off", "off")


def test_scaling_times_all_steps_and_nothing_but_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for each step, 100 for what all trials share and 50 for each card's process to start.

    A step that an earlier trial made is not made again.
    """
    made: dict[str, int] = {}
    cards = {1}

    def run(folder: Path, words: list[str], name: str) -> tuple[float, dict[str, object]]:
        told = dict(word.split("=", 1) for word in words)
        steps, rate = int(told["train.steps"]), told["optim.unet.lr"]
        count = told["backend.devices"].count("cpu")
        taken = steps - made.get(rate, 0) + (0 if made else 100) + (0 if count in cards else 50)
        made[rate] = steps
        cards.add(count)
        return taken, {}

    monkeypatch.setattr(whole, "run", run)
    monkeypatch.setattr(whole, "made_up_set", lambda *_: None)
    bench = sd21_gpu.Bench(
        Rows(tmp_path / "rows.json"), tmp_path, sd21_gpu.QUICK, "off", torch.device("cpu"), cards=(1, 2)
    )
    sd21_gpu.scaling(bench)
    assert [(row.what, row.value) for row in bench.rows.rows] == [("1 cards", 22), ("2 cards", 22)]


def test_it_measures_training_and_drawing_and_tells_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "benchmarks.sd21_gpu", "--out", str(tmp_path / "out")]
    quick = ["--quick", "--compile", "off", "--only", "train", "draw"]
    subprocess.run([sys.executable, *words, *quick], check=True, capture_output=True, timeout=300)
    (record,) = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    values = {row["what"]: row["value"] for row in record["rows"]}
    assert all(value > 0 for value in values.values())
    assert {"jdx", "jdx, 4 styles at once"} <= set(values)
    monkeypatch.setattr(sys, "argv", ["sd21_gpu", "--table", str(tmp_path / "out")])
    sd21_gpu.main()
    assert "| training against the whole script |" in capsys.readouterr().out
