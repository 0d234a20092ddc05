"""The rows of the effects table are settings that exist, and the table says what the runs say."""

import json
from pathlib import Path

import pytest

from benchmarks import effects
from jdx import validation


@pytest.mark.parametrize("row", list(effects.ROWS))
def test_every_row_is_a_valid_trial(row: str) -> None:
    words = [*effects.COMMON, *effects.ROWS[row], "train.seed=1"]
    assert validation.build(effects.settings(*words)).train.seed == 1


def test_rows_that_are_not_measured_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, style in ((0, 0.25), (1, 0.35)):
        for row, gain in (("base", 0.0), ("DreamBooth", 0.5)):
            folder = tmp_path / f"seed{seed}" / row
            folder.mkdir(parents=True)
            numbers = dict.fromkeys(effects.METRICS, 0.9) | {"style_part": style + gain}
            (folder / "metrics.json").write_text(json.dumps(numbers))
            where = {"device": "cpu", "torch": "2", "dtype": "float32"}
            (folder / "trial.json").write_text(json.dumps({"environment": where}))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{effects.MARK[0]}\nold\n{effects.MARK[1]}\nafter\n")
    monkeypatch.setattr(
        "sys.argv", ["effects", "--table", "--seeds", "0", "1", "--out", str(tmp_path), "--write", str(page)]
    )
    effects.main()
    text = page.read_text()
    assert "| base |" in text
    assert "0.300 ± 0.071" in text
    assert "+ prior" not in text
    assert "old" not in text
    assert "| DreamBooth's style part over the base's | ≥ .30 | +0.500 |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "0.800 ± 0.071" in capsys.readouterr().out
