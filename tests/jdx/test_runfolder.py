"""A run folder belongs to one trial at a time, and nothing in it is mixed or lost."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdx import runfolder
from jdx.errors import ConfigError
from jdx.runfolder import owned


def test_fresh_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    with owned(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".hydra"]


def test_earlier_trials_are_moved_aside_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in ("first", "second"):
        with owned(tmp_path):
            (tmp_path / "images" / "00").mkdir(parents=True)
            (tmp_path / "images" / "00" / f"{number}.png").touch()
            (tmp_path / "seeds.json").touch()
            (tmp_path / "wandb").mkdir()
    with caplog.at_level(logging.WARNING), owned(tmp_path):
        assert not (tmp_path / "images").exists()
        assert not (
            tmp_path / "wandb"
        ).exists()  # else the new trial would be published under the old one's id
    assert [p.name for p in (tmp_path / "earlier" / "1" / "images" / "00").iterdir()] == ["first.png"]
    assert [p.name for p in (tmp_path / "earlier" / "2" / "images" / "00").iterdir()] == ["second.png"]
    assert "moved to" in caplog.text


def test_folder_with_things_of_others_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "holiday.png").touch()
    with pytest.raises(ConfigError, match=r"hydra\.run\.dir"), owned(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "images" / "holiday.png").exists()


def test_two_at_once_are_told_apart(tmp_path: Path) -> None:
    with owned(tmp_path):
        (tmp_path / "seeds.json").touch()
        with pytest.raises(ConfigError, match="another process"), owned(tmp_path):
            pytest.fail("entered")
        assert (tmp_path / "seeds.json").exists()


def test_pictures_are_resized_only_when_asked(tmp_path: Path) -> None:
    picture = Image.effect_noise((96, 96), 60).convert("RGB")
    (tmp_path / "drawn").mkdir()
    picture.save(tmp_path / "drawn" / "Ice cream.png")
    for name, size in (("as_drawn", None), ("same", 96), ("smaller", 64)):
        placed = runfolder.put_pictures(tmp_path, {"00": tmp_path / "drawn"}, name, size)
        kept = Image.open(placed["00"]["Ice cream"])
        expected = picture if size != 64 else picture.resize((64, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(np.asarray(kept), np.asarray(expected))
        untouched = (tmp_path / "drawn" / "Ice cream.png").read_bytes()
        assert (placed["00"]["Ice cream"].read_bytes() == untouched) == (size != 64)
