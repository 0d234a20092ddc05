"""Everything that can be wrong with folders is found and named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation import FoldersError
from evaluation.folders import Layout, read_layout
from tests.evaluation.tiny import PROMPTS, picture

Folders = tuple[Path, Path]


def _kinds(layout: Layout) -> dict[str, str]:
    return {fault.kind: fault.severity for fault in layout.faults}


def test_a_complete_set_has_no_faults(challenge_set: Folders) -> None:
    layout = read_layout(*challenge_set)
    assert layout.faults == []
    assert [style.id for style in layout.styles] == ["00", "01"]
    assert tuple(layout.styles[0].generated) == PROMPTS
    assert len(layout.styles[0].references) == 3


def test_every_fault_is_reported_at_once(challenge_set: Folders) -> None:
    generated, _ = challenge_set
    style = generated / "00"
    (style / "Cat.png").unlink()
    picture(1).save(style / "Dog.png")
    (style / "notes.txt").write_text("x")
    (style / ".DS_Store").write_text("x")
    (style / "Tree.png").write_bytes(b"no picture")
    picture(2, 30).save(generated / "01" / "Tree.png")
    picture(3).convert("RGBA").save(generated / "01" / "Cat.png")
    (generated / "07").mkdir()
    picture(4).save(generated / "07" / "Cat.png")
    layout = read_layout(*challenge_set)
    assert _kinds(layout) == {
        "missing": "error",
        "unreadable": "error",
        "extra": "warning",
        "no_picture": "warning",
        "hidden": "note",
        "size": "warning",
        "mode": "warning",
        "extra_style": "warning",
    }
    assert layout.missing == ["00/Cat", "00/Tree"]
    assert list(layout.styles[0].generated) == ["Ice cream"]
    assert list(layout.styles[1].generated) == ["Cat", "Ice cream", "Tree"]


def test_near_misses_of_a_name_are_scored_under_their_own_name(challenge_set: Folders) -> None:
    style = challenge_set[0] / "00"
    (style / "Ice cream.png").rename(style / "Ice_cream.png")
    layout = read_layout(*challenge_set)
    assert list(layout.styles[0].generated) == ["Cat", "Ice_cream", "Tree"]
    assert _kinds(layout) == {"name": "warning"}
    assert layout.missing == []


def test_suffixes(challenge_set: Folders) -> None:
    style = challenge_set[0] / "00"
    (style / "Cat.png").rename(style / "Cat.PNG")
    picture(1).save(style / "Tree.jpg")
    (style / "Ice cream.png").unlink()
    picture(2).save(style / "Ice cream.webp")
    layout = read_layout(*challenge_set)
    names = {prompt: path.name for prompt, path in layout.styles[0].generated.items()}
    assert names == {"Cat": "Cat.PNG", "Ice cream": "Ice cream.webp", "Tree": "Tree.png"}
    assert set(_kinds(layout)) == {"suffix", "uppercase", "duplicate"}


def test_empty_and_missing_styles(challenge_set: Folders) -> None:
    generated, _ = challenge_set
    for path in (generated / "00").iterdir():
        path.unlink()
    for path in (generated / "01").iterdir():
        path.unlink()
    (generated / "01").rmdir()
    layout = read_layout(*challenge_set)
    assert {"empty_style", "missing_style"} <= set(_kinds(layout))
    assert len(layout.missing) == 6


def test_references_may_lie_in_the_style_folder_itself(challenge_set: Folders) -> None:
    _, references = challenge_set
    for path in (references / "00" / "images").iterdir():
        path.rename(references / "00" / path.name)
    (references / "00" / "images").rmdir()
    layout = read_layout(*challenge_set)
    assert layout.faults == []
    assert len(layout.styles[0].references) == 3


def test_without_prompts_every_picture_counts(challenge_set: Folders) -> None:
    (challenge_set[1] / "00" / "prompt.json").unlink()
    picture(1).save(challenge_set[0] / "00" / "Dog.png")
    layout = read_layout(*challenge_set)
    assert set(layout.styles[0].generated) == {*PROMPTS, "Dog"}
    assert _kinds(layout) == {"no_prompts": "note"}


@pytest.mark.parametrize("text", ["{", "[]", '{"0": 5}', "3", pytest.param("[" * 100_000, id="deep")])
def test_prompts_that_are_none(challenge_set: Folders, text: str) -> None:
    (challenge_set[1] / "00" / "prompt.json").write_text(text)
    assert _kinds(read_layout(*challenge_set)) == {"bad_prompts": "error"}


def test_a_byte_order_mark_is_skipped(challenge_set: Folders) -> None:
    path = challenge_set[1] / "00" / "prompt.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert read_layout(*challenge_set).faults == []


def test_repeated_prompts(challenge_set: Folders) -> None:
    (challenge_set[1] / "00" / "prompt.json").write_text(json.dumps([*PROMPTS, "Cat"]))
    assert _kinds(read_layout(*challenge_set)) == {"repeated_prompt": "warning"}


def test_sixteen_bit_pictures_are_refused(challenge_set: Folders) -> None:
    deep = Image.fromarray(np.zeros((8, 8), np.uint16))
    deep.save(challenge_set[0] / "00" / "Cat.png")
    layout = read_layout(*challenge_set)
    assert "8-bit RGB is wanted" in next(f.message for f in layout.faults if f.kind == "unreadable")


def test_folders_that_are_none(tmp_path: Path, challenge_set: Folders) -> None:
    with pytest.raises(FoldersError, match=r"nowhere.*no such folder"):
        read_layout(tmp_path / "nowhere", challenge_set[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FoldersError, match="no style found"):
        read_layout(challenge_set[0], tmp_path / "empty")


def test_a_run_folder_instead_of_its_images_is_recognised(tmp_path: Path, challenge_set: Folders) -> None:
    run = tmp_path / "run"
    run.mkdir()
    challenge_set[0].rename(run / "images")
    layout = read_layout(run, challenge_set[1])
    assert "perhaps" in next(fault.message for fault in layout.faults if fault.kind == "layout")
