"""The contest's archive: right names, right pictures, nothing else; refused with all faults otherwise."""

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from jdx.submit import APART, main, remark, set_faults

PROMPTS = {"00": ["Dog", "Ice cream"], "01": ["Cat"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    for style, words in PROMPTS.items():
        (folder / "images" / style).mkdir(parents=True)
        for word in words:
            Image.new("RGB", (512, 512), "red").save(folder / "images" / style / f"{word}.png")
    (folder / "seeds.json").write_text(
        json.dumps({s: dict.fromkeys(words, 1) for s, words in PROMPTS.items()})
    )
    return folder


def test_archive_holds_every_picture_under_its_prompt(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == 0
    with zipfile.ZipFile(run / "result.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["result/00/Dog.png", "result/00/Ice cream.png", "result/01/Cat.png"]
        assert archive.read("result/01/Cat.png") == (run / "images" / "01" / "Cat.png").read_bytes()
    assert "3 pictures (2 styles: neither set A" in capsys.readouterr().out


def test_equal_pictures_give_equal_archives(run: Path, tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        assert main([str(run), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_all_faults_are_told_and_nothing_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = run / "images"
    (images / "00" / "Dog.png").unlink()
    Image.new("RGBA", (256, 512)).save(images / "00" / "Ice cream.png")
    (images / "01" / "Cat.png").write_bytes(b"not a picture")
    (images / "01" / "Cat_old.png").write_bytes(b"")
    (images / "02").mkdir()
    assert main([str(run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("6 faults in the submission")
    for words in (
        "Dog.png",
        "missing",
        "256x512",
        "PNG RGBA",
        "cannot be read",
        "Cat_old.png",
        "not a style",
    ):
        assert words in told
    assert not (run / "result.zip").exists()


def test_what_is_wrong_with_every_picture_is_told_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"Thing {n}" for n in range(APART + 1)]
    for word in words:
        Image.new("RGB", (128, 128)).save(run / "images" / "00" / f"{word}.png")
    (run / "images" / "01" / "Cat.png").unlink()
    (run / "seeds.json").write_text(json.dumps({"00": dict.fromkeys(words, 1), "01": {"Cat": 1}}))
    for word in PROMPTS["00"]:
        (run / "images" / "00" / f"{word}.png").unlink()
    assert main([str(run)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("2 faults in the submission")
    assert f"Thing 0.png and {APART} more = 128x128\n      must be 512x512" in told
    assert "sampler.output_resolution=512" in told
    assert "Cat.png\n      missing" in told


def test_an_archive_is_not_replaced_unasked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "result.zip").write_text("mine")
    assert main([str(run)]) == 2
    assert "--force" in capsys.readouterr().err
    assert (run / "result.zip").read_text() == "mine"
    assert main([str(run), "--force"]) == 0
    assert zipfile.is_zipfile(run / "result.zip")


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "seeds.json" in capsys.readouterr().err


@pytest.mark.parametrize(("styles", "name"), [(15, "set A, complete"), (28, "set B, complete")])
def test_the_contest_s_sets_are_known_by_their_counts(styles: int, name: str) -> None:
    assert remark({f"{n:02d}": [str(k) for k in range(25)] for n in range(styles)}) == name


def test_a_part_of_a_set_is_refused_where_the_whole_is_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--set", "A"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("15 faults in the submission")  # 13 styles are not there, two have too few prompts
    assert "14\n      not drawn; set A has styles 00 to 14" in told
    assert "01 = 1 prompts" in told
    assert not (run / "result.zip").exists()
    whole = {f"{n:02d}": [str(k) for k in range(25)] for n in range(15)}
    assert set_faults(whole, "A") == []
    (fault,) = set_faults(whole | {"15": ["x"]}, "A")
    assert fault.key == "15"


def test_one_style_is_called_so() -> None:
    assert remark({"00": ["Dog"]}).startswith("1 style: neither")
