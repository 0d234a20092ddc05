"""Sets that can be used are read; each thing that can be wrong is named, all in one report."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.challenge import DataError, Prompt, Reference, object_word, read_challenge
from tests.data.sets import PROMPTS, make_picture, make_set, make_style, noise


def faults_of(root: Path, **options: object) -> list[str]:
    with pytest.raises(DataError) as raised:
        read_challenge(root, **options)  # type: ignore[arg-type]
    for fault in raised.value.faults:
        assert str(fault.path) in str(raised.value)
        assert fault.remedy
    return [str(fault) for fault in raised.value.faults]


def test_reads_styles_in_order(tmp_path: Path) -> None:
    make_set(tmp_path, ["10", "02"])
    make_style(
        tmp_path / "my style", ["z_.JPG", "b c.webp", "a.jpeg"], {"10": "Ten", "2": "Two", "x": "Other"}
    )
    found = read_challenge(tmp_path)
    assert found.ids == ("02", "10", "my style")
    own = found.styles[2]
    images = tmp_path / "my style" / "images"
    assert own.references == (
        Reference(images / "a.jpeg", "a"),
        Reference(images / "b c.webp", "b c"),
        Reference(images / "z_.JPG", "z"),
    )
    assert own.prompts == (Prompt("2", "Two"), Prompt("10", "Ten"), Prompt("x", "Other"))
    assert found.n_prompts == 7
    assert found.notes == ()


def test_limits_keep_the_first(tmp_path: Path) -> None:
    style = read_challenge(make_set(tmp_path), max_references=1, max_prompts=1).styles[0]
    assert [r.object for r in style.references] == ["cat"]
    assert style.prompts == (Prompt("0", "Cat"),)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ([0, 5], ["00", "05"]),
        (["05"], ["05"]),
        (["5", 5, "05"], ["05"]),
        ([11, 0], ["00", "11"]),
        (None, None),
    ],
)
def test_styles_as_yaml_and_shells_write_them(
    tmp_path: Path, wanted: list[str | int] | None, ids: list[str] | None
) -> None:
    every = ["00", "05", "11", "ink"]
    make_set(tmp_path, every)
    assert list(read_challenge(tmp_path, styles=wanted).ids) == (ids or every)


def test_ambiguous_and_unknown_styles(tmp_path: Path) -> None:
    make_set(tmp_path, ["1", "01", "ink"])
    assert read_challenge(tmp_path, styles=["01"]).ids == ("01",)
    assert "quote one of: 01, 1" in faults_of(tmp_path, styles=[1])[0]
    faults = faults_of(tmp_path, styles=["wood", 7, True])
    assert len(faults) == 3
    assert all("01, 1, ink" in fault or "ambiguous" in fault for fault in faults)
    assert len(faults_of(tmp_path, styles=[])) == 1
    assert len(faults_of(tmp_path, styles="ink")) == 1


def test_only_the_chosen_styles_are_checked(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "01" / "prompt.json").unlink()
    assert read_challenge(tmp_path, styles=[0]).ids == ("00",)


def test_own_pictures_without_prompts(tmp_path: Path) -> None:
    make_picture(tmp_path / "mine" / "images" / "cat.png")
    assert "prompt.json: is missing" in faults_of(tmp_path)[0]
    assert read_challenge(tmp_path, require_prompts=False).styles[0].prompts == ()
    (tmp_path / "mine" / "prompts.json").write_text(json.dumps(PROMPTS))
    assert "rename prompts.json" in faults_of(tmp_path, require_prompts=False)[0]


def test_ignored_files_are_noted(tmp_path: Path) -> None:
    make_set(tmp_path, ["00"])
    images = tmp_path / "00" / "images"
    ignored = [
        *(images / name for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._cat.png")),
        *(tmp_path / name for name in ("README.md", "__MACOSX", ".cache")),
        tmp_path / "00" / "tag.json",
    ]
    for path in ignored:
        path.mkdir() if path.name in ("__MACOSX", ".cache") else path.write_bytes(b"x")
    found = read_challenge(tmp_path)
    assert [r.object for r in found.styles[0].references] == ["cat", "dog"]
    assert sorted(note.partition(": ")[0] for note in found.notes) == sorted(map(str, ignored))


def test_links_are_followed(tmp_path: Path) -> None:
    make_set(tmp_path / "real")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "00").symlink_to(tmp_path / "real" / "00")
    make_style(tmp_path / "set" / "01", [])
    (tmp_path / "set" / "01" / "images" / "owl.png").symlink_to(tmp_path / "real/01/images/cat.png")
    assert [[r.object for r in s.references] for s in read_challenge(tmp_path / "set").styles] == [
        ["cat", "dog"],
        ["owl"],
    ]


def test_roots_that_miss_the_set(tmp_path: Path) -> None:
    make_set(tmp_path / "A")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    make_picture(tmp_path / "ten" / "cat.png")
    assert "does not exist" in faults_of(tmp_path / "nope")[0]
    assert "is not a folder" in faults_of(tmp_path / "file")[0]
    assert f"point to {tmp_path / 'A'}" in faults_of(tmp_path)[0]
    assert f"folder above it, {tmp_path / 'A'}" in faults_of(tmp_path / "A" / "00")[0]
    assert f"two folders up, {tmp_path / 'A'}" in faults_of(tmp_path / "A" / "00" / "images")[0]
    assert "give each style a folder" in faults_of(tmp_path / "empty")[0]
    assert str(tmp_path / "ten" / "00" / "images") in faults_of(tmp_path / "ten")[0]


def _truncate(style: Path) -> None:
    path = style / "images" / "cat.png"
    noise(64, 0).save(path)
    path.write_bytes(path.read_bytes()[:4000])


def _no_images(style: Path) -> None:
    (style / "images").rename(style / "Images")


def _no_pictures(style: Path) -> None:
    for path in (style / "images").iterdir():
        path.unlink()


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda style: (style / old).rename(style / new)


def _write(name: str, content: str | bytes) -> Callable[[Path], object]:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda style: (style / name).write_bytes(raw)


def _prompts(text: str) -> Callable[[Path], object]:
    return _write("prompt.json", text)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated picture": (_truncate, "cannot be decoded"),
    "empty picture": (_write("images/cat.png", b""), "0 bytes"),
    "text as picture": (_write("images/cat.png", "hello"), "not a picture"),
    "other suffix": (_write("images/notes.txt", "x"), "suffix '.txt'"),
    "no suffix": (_write("images/notes", "x"), "no suffix"),
    "folder among pictures": (lambda s: (s / "images" / "more").mkdir(), "a folder among pictures"),
    "dead link": (lambda s: (s / "images" / "owl.png").symlink_to("gone"), "does not exist"),
    "same stem": (lambda s: make_picture(s / "images" / "Cat.jpg"), "same name as"),
    "no object": (lambda s: make_picture(s / "images" / "__.png"), "names no object"),
    "no images folder": (_no_images, "rename Images to images"),
    "no pictures": (_no_pictures, "has no pictures"),
    "no prompts": (lambda s: (s / "prompt.json").unlink(), "is missing"),
    "misnamed prompts": (_rename("prompt.json", "Prompts.json"), "rename Prompts.json to prompt.json"),
    "not JSON": (_prompts("{'0': 'Cat'}"), "is not JSON (line 1"),
    "cut JSON": (_prompts('{"0": "Cat"'), "is not JSON"),
    "a list": (_prompts('["Cat"]'), "holds a list"),
    "a text": (_prompts('"Cat"'), "holds a str"),
    "nothing": (_prompts("{}"), "an empty object"),
    "too deep": (_prompts("[" * 100_000), "nested too deeply"),
    "number": (_prompts('{"0": 3}'), "prompt '0' is 3, not a text"),
    "null": (_prompts('{"0": null}'), "prompt '0' is null"),
    "object": (_prompts('{"0": {"a": "b"}}'), "is an object"),
    "blank": (_prompts('{"0": " "}'), "is empty"),
    "slash": (_prompts('{"0": "a/b"}'), "has a slash"),
    "control": (_prompts('{"0": "a\\tb"}'), "control character"),
    "half a pair": (_prompts('{"0": "\\ud83d"}'), "control character"),
    "hidden": (_prompts('{"0": ".cat"}'), "begins with a dot"),
    "trailing space": (_prompts('{"0": "Cat "}'), "ends with a space"),
    "too long": (_prompts(json.dumps({"0": "a" * 101})), "101 characters"),
    "same key": (_prompts('{"0": "Cat", "0": "Dog"}'), "key '0' occurs 2 times"),
    "same prompt": (_prompts('{"0": "Cat", "1": "cat"}'), "prompts '0' and '1' are both 'cat'"),
    "UTF-16": (_write("prompt.json", '{"0": "Cat"}'.encode("utf-16")), "not UTF-8"),
    "Latin-1": (_write("prompt.json", '{"0": "Käse"}'.encode("latin-1")), "not UTF-8 (byte 8)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named(tmp_path: Path, name: str) -> None:
    spoil, expected = FAULTS[name]
    make_set(tmp_path)
    spoil(tmp_path / "01")
    faults = faults_of(tmp_path)
    assert len(faults) == 1
    assert expected in faults[0]
    assert str(tmp_path / "01") in faults[0]


def test_all_faults_come_together(tmp_path: Path) -> None:
    make_set(tmp_path, [f"{i:02d}" for i in range(len(FAULTS))])
    for i, (spoil, _) in enumerate(FAULTS.values()):
        spoil(tmp_path / f"{i:02d}")
    assert len(faults_of(tmp_path, max_prompts=0)) == len(FAULTS) + 1


def test_pictures_left_out_are_not_decoded(tmp_path: Path) -> None:
    make_set(tmp_path, ["00"])
    (tmp_path / "00" / "images" / "dog.png").write_bytes(b"broken")
    assert len(read_challenge(tmp_path, max_references=1).styles[0].references) == 1
    assert len(faults_of(tmp_path)) == 1


def test_float_pictures_are_found_before_they_are_used(tmp_path: Path) -> None:
    make_set(tmp_path, ["00"])
    Image.new("F", (4, 4)).save(tmp_path / "00" / "images" / "dog.png", format="TIFF")
    assert "32-bit float" in faults_of(tmp_path)[0]


def test_things_worth_a_note(tmp_path: Path) -> None:
    make_set(tmp_path, ["00"])
    raw = json.dumps({"0": "St. Bernard"}).encode()
    (tmp_path / "00" / "prompt.json").write_bytes(b"\xef\xbb\xbf" + raw)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "00/images/owl.webp", save_all=True, append_images=frames[1:])
    found = read_challenge(tmp_path)
    assert found.styles[0].prompts == (Prompt("0", "St. Bernard"),)
    assert [text in " ".join(found.notes) for text in ("byte order mark", "first dot", "2 frames")] == [
        True
    ] * 3


def test_pictures_of_odd_shape_are_used_with_a_note(tmp_path: Path) -> None:
    images = make_style(tmp_path / "00") / "images"
    for name, size in (("dot", (31, 40)), ("small", (32, 32)), ("strip", (40, 121)), ("tall", (120, 40))):
        make_picture(images / f"{name}.png", size=size)
    found = read_challenge(tmp_path)
    assert len(found.styles[0].references) == 6
    assert [note.rpartition("/")[2] for note in found.notes] == [
        "dot.png: has 31 x 40 pixels: it is enlarged for training, which blurs it",
        "strip.png: has 40 x 121 pixels: training sees squares cut from it, less than a third of it",
    ]


@pytest.mark.parametrize("name", ["a\tb", " a"])
def test_style_names_that_are_no_portable_folder_names(tmp_path: Path, name: str) -> None:
    make_style(tmp_path / name)
    assert "the style's name" in faults_of(tmp_path)[0]


def test_the_real_set() -> None:
    """Twelve styles of the contest's set A: ten references and 25 prompts each (facts of the contest)."""
    root = Path(
        os.environ.get("JDX_CHALLENGE_A", Path(__file__).parents[2].parent / "shared" / "challenge_a")
    )
    if not root.is_dir():
        pytest.skip(f"the contest's pictures are not here ({root}); set JDX_CHALLENGE_A")
    found = read_challenge(root)
    assert len(found.styles) == 12
    assert {len(style.references) for style in found.styles} == {10}
    assert {len(style.prompts) for style in found.styles} == {25}
    texts = {prompt.text for style in found.styles for prompt in style.prompts}
    assert [text for text in texts if " " in text] == ["Ice cream"]
    wallet = next(r for s in found.styles for r in s.references if r.path.stem == "wallet_")
    assert wallet.object == object_word("wallet_") == "wallet"
