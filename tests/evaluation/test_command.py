"""The command, end to end, and what the package may import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.__main__ import main
from tests.evaluation.tiny import picture

Folders = tuple[Path, Path]


def _argv(folders: Folders, judges: Path, *more: str) -> list[str]:
    places = ["--generated", str(folders[0]), "--references", str(folders[1])]
    return [*places, "--backbones", str(judges), "--device", "cpu", "--no-cache", *more]


def test_scores_and_writes_a_report(
    tiny_judges: Path, challenge_set: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.json"
    assert main(_argv(challenge_set, tiny_judges, "--json", str(target))) == 0
    report = json.loads(target.read_text())
    shown = capsys.readouterr().out
    assert f"Final score {report['final_score']:.6f}" in shown
    assert set(report) == {
        "final_score", "dino", "hist", "fid", "lpips", "clip_iqa", "clip_r", "style_part", "quality_part",
        "complete", "missing", "n_pictures", "judges", "variants", "versions", "faults", "styles",
    }  # fmt: skip
    assert report["complete"] is True
    assert report["variants"] == {"histogram": "official", "fid_resize": "tf1"}
    assert len(report["judges"]["sha256"]["dino"]) == 64
    picture_score = report["styles"]["00"]["pictures"]["Ice cream"]
    assert set(picture_score) == {
        "dino",
        "hist",
        "lpips",
        "clip_iqa",
        "clip_r_hit",
        "clip_r_probability",
        "clip_r_top5",
    }


def test_incomplete_sets_say_so_and_strict_refuses(
    tiny_judges: Path, challenge_set: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (challenge_set[0] / "00" / "Cat.png").unlink()
    assert main(_argv(challenge_set, tiny_judges)) == 0
    assert "INCOMPLETE: 1 picture" in capsys.readouterr().out
    target = tmp_path / "report.json"
    assert main(_argv(challenge_set, tiny_judges, "--strict", "--json", str(target))) == 1
    assert "Cat.png is missing" in capsys.readouterr().err
    assert not target.exists()


def test_absent_judges_are_an_error_of_their_own(
    challenge_set: Folders, tmp_path: Path, tiny_judges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_argv(challenge_set, tmp_path / "none.json")) == 2
    assert main(_argv(challenge_set, tiny_judges, "--dino", str(tmp_path / "nowhere"))) == 2
    shown = capsys.readouterr().err
    assert "the folder is missing" in shown
    assert "--dino PATH" in shown


def test_other_files_are_not_overwritten(
    challenge_set: Folders, tmp_path: Path, tiny_judges: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "thesis.json"
    target.write_text('{"chapter": 1}')
    assert main(_argv(challenge_set, tiny_judges, "--json", str(target))) == 1
    assert target.read_text() == '{"chapter": 1}'
    assert "no score report lies there" in capsys.readouterr().err
    target.write_text('{"final_score": 0.5}')
    assert main(_argv(challenge_set, tiny_judges, "--json", str(target))) == 0
    assert json.loads(target.read_text())["n_pictures"] == 6


def test_a_report_that_cannot_be_written_is_said(
    challenge_set: Folders,
    tmp_path: Path,
    tiny_judges: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.report.write_atomic", full)
    assert main(_argv(challenge_set, tiny_judges, "--json", str(tmp_path / "report.json"))) == 1
    shown = capsys.readouterr()
    assert "Final score" in shown.out
    assert "No space left on device" in shown.err


def test_wrong_batch_size_is_refused(challenge_set: Folders, tiny_judges: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(_argv(challenge_set, tiny_judges, "--batch-size", "0"))
    assert caught.value.code == 2


_ALONE = """
import sys
for name in ("jdx", "data", "conf", "sweeps", "launcher"):
    sys.modules[name] = None  # an import now raises
from evaluation import final_score
final_score(dino=.1, hist=.5, fid=1., lpips=.4, clip_iqa=.7, clip_r=.9)
assert "torch" not in sys.modules, "the formula needs no torch"
from evaluation.__main__ import main
code = main(sys.argv[1:])
heavy = {"hydra", "omegaconf", "diffusers", "optuna", "wandb", "peft"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def test_needs_nothing_else_of_jdx(tiny_judges: Path, challenge_set: Folders) -> None:
    argv = [sys.executable, "-c", _ALONE, *_argv(challenge_set, tiny_judges)]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Final score" in done.stdout


def test_markup_in_style_names_is_shown(
    tiny_judges: Path, challenge_set: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in challenge_set:
        (root / "00").rename(root / "[red]00")
    assert main(_argv(challenge_set, tiny_judges)) == 0
    assert "│ [red]00 " in capsys.readouterr().out


def test_markup_in_file_names_is_shown(
    tiny_judges: Path, challenge_set: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(1).save(challenge_set[0] / "00" / "[bold]x.png")
    assert main(_argv(challenge_set, tiny_judges)) == 0
    assert "[bold]x.png" in capsys.readouterr().out.replace("\n", "")
