"""The drawn world repeats itself exactly, keeps its objects apart and its held-out styles out."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.challenge import read_challenge
from data.folders import RECORD
from data.mini import sample
from data.mini.sample import SAMPLE_STYLES, make_sample, sample_objects, true_drawings
from data.mini.sheet import main as sheet_main
from data.mini.world import (
    HELD_OUT,
    MARGIN,
    NAMED_STYLES,
    OBJECTS,
    PLAIN,
    STYLE_NAMES,
    Style,
    caption,
    describe,
    distance,
    draw,
    paint,
    random_style,
    render_many,
)
from data.mini.world.canvas import Pose, rasterise
from data.mini.world.captions import colour_word
from data.mini.world.objects import DRAWINGS
from data.mini.world.pen import Pen
from data.mini.world.style import lab, luminance

SIZE = 48


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.fixture(scope="session")
def styles() -> list[Style]:
    return [random_style(rng(k)) for k in range(400)]


def test_same_key_same_pixels() -> None:
    one, same, other = (paint("Cat", HELD_OUT["ink wash"], rng(k)) for k in (1, 1, 2))
    assert one.shape == (128, 128, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(np.asarray(draw("Cat", HELD_OUT["ink wash"], rng(1))), one)


def test_workers_and_start_change_nothing() -> None:
    alone = render_many(300, seed=5, workers=1, size=24)
    shared = render_many(300, seed=5, workers=2, size=24)
    assert np.array_equal(alone.images, shared.images)
    assert alone.captions == shared.captions
    assert np.array_equal(alone.styles, shared.styles)
    later = render_many(20, seed=5, workers=1, size=24, start=140)
    assert np.array_equal(later.images, alone.images[140:160])
    assert later.captions == alone.captions[140:160]
    assert not np.array_equal(render_many(20, seed=6, workers=1, size=24).images, alone.images[:20])


def test_labels_say_what_is_drawn() -> None:
    batch = render_many(2 * len(OBJECTS), seed=0, workers=1, size=16)
    assert np.array_equal(np.bincount(batch.objects), np.full(len(OBJECTS), 2))
    for text, obj, style in zip(batch.captions, batch.objects, batch.styles, strict=True):
        assert text.startswith(f"an image of {OBJECTS[obj].lower()}")
        assert (text == f"an image of {OBJECTS[obj].lower()}") == (STYLE_NAMES[style] == "plain")
        if STYLE_NAMES[style] in NAMED_STYLES:
            assert text == caption(OBJECTS[obj], STYLE_NAMES[style])
    assert set(batch.styles) == set(range(len(STYLE_NAMES)))


def test_enough_objects_with_the_contest_s_capitals() -> None:
    assert len(OBJECTS) >= 80
    assert len({name.lower() for name in OBJECTS}) == len(OBJECTS)
    assert all(name == name.capitalize() for name in OBJECTS)
    lookalikes = {
        "Cup",
        "Bowl",
        "Apple",
        "Cherry",
        "Tomato",
        "Orange",
        "Bus",
        "Car",
        "Train",
        "Moon",
        "Ring",
        "Ball",
    }
    assert lookalikes | {"Tree", "Cactus", "Flower", "Knife", "Pen", "Pencil"} <= set(OBJECTS)


@pytest.mark.parametrize(
    "style", [PLAIN, NAMED_STYLES["sketch"], HELD_OUT["neon"]], ids=["plain", "sketch", "neon"]
)
def test_every_object_leaves_a_mark(style: Style) -> None:
    for k, obj in enumerate(OBJECTS):
        picture = paint(obj, style, rng(7, k), 64).astype(int)
        ground = np.array(style.ground_colour)
        marked = (np.abs(picture - ground).max(-1) > 40).mean()
        assert 0.02 < marked < 0.85, f"{obj}: {marked:.3f} of the picture differs from its ground"


def shape(obj: str, key: int) -> NDArray[np.float64]:
    """Areas and lines without colours, in the middle of the picture, as one unit vector."""
    pen = Pen(rng(key))
    DRAWINGS[obj](pen)
    layers = rasterise(pen.parts, Style(line_width=1.5), rng(0), SIZE)
    both = [part.ravel() - part.mean() for part in (layers.body, layers.line[..., 3])]
    vector: NDArray[np.float64] = np.concatenate(both)
    return vector / float(np.linalg.norm(vector))


def test_objects_differ_more_than_their_variations(monkeypatch: pytest.MonkeyPatch) -> None:
    """By plain correlation of shapes, with no learning, another drawing of the same object is the nearest."""
    monkeypatch.setattr(Pose, "random", lambda _: Pose(0.5, 0.5, 0.4, 0.0, mirror=False))
    one = np.stack([shape(o, 1) + shape(o, 2) for o in OBJECTS])
    other = np.stack([shape(o, 11) + shape(o, 12) for o in OBJECTS])
    likeness = one @ other.T / 4
    nearest = likeness.argmax(1)
    assert [(OBJECTS[i], OBJECTS[j]) for i, j in enumerate(nearest) if i != j] == []
    between = likeness - np.eye(len(OBJECTS))
    i, j = np.unravel_index(between.argmax(), between.shape)
    assert between.max() < 0.96, f"{OBJECTS[i]} and {OBJECTS[j]} are alike: {between.max():.3f}"


def test_drawings_stay_in_the_frame() -> None:
    for k, (name, drawing) in enumerate(DRAWINGS.items()):
        pen = Pen(rng(k))
        drawing(pen)
        reach = max(float(np.abs(part.points).max()) for part in pen.parts)
        assert 0.7 < reach < 1.2, f"{name} reaches {reach:.2f} of the unit square"


def test_held_out_styles_are_apart_by_distance(styles: list[Style]) -> None:
    assert len(HELD_OUT) >= 6
    assert not set(HELD_OUT) & set(NAMED_STYLES)
    assert not {*HELD_OUT, *NAMED_STYLES} & {obj.lower() for obj in OBJECTS}
    for style in [PLAIN, *NAMED_STYLES.values(), *styles]:
        for name, held in HELD_OUT.items():
            assert distance(style, held) >= MARGIN, name
    held_styles = list(HELD_OUT.values())
    assert min(distance(a, b) for i, a in enumerate(held_styles) for b in held_styles[:i]) >= MARGIN


def test_key_features_of_held_out_styles_never_meet(styles: list[Style]) -> None:
    for style in [PLAIN, *NAMED_STYLES.values(), *styles]:
        ground, line = luminance(style.ground_colour), luminance(style.line)
        if ground < 0.5:
            assert not style.glow
            assert style.fill not in ("none", "hatch", "scribble")
            assert style.ground not in ("board", "grid", "panes")
            assert line <= ground or not style.line_width
        assert not style.seal
        assert not (style.fill == "watercolour" and style.line_kind == "brush")
        assert not (style.fill == "stitch" and (style.texture == "weave" or style.line_kind == "dashed"))
        assert not (style.fill == "carved" and style.wash < 0.4)
        assert not (style.ground == "panes" and style.line_width > 1)
        assert not (line > ground and style.shadow == "drop" and style.line_width)


def test_training_styles_use_every_texture(styles: list[Style]) -> None:
    """Held-out styles combine words that the autoencoder has met, apart from the seal."""
    seen = {
        getattr(s, f)
        for s in [*styles, *NAMED_STYLES.values()]
        for f in ("fill", "ground", "texture", "line_kind")
    }
    for held in HELD_OUT.values():
        assert {held.fill, held.ground, held.texture, held.line_kind} <= seen


def test_held_out_pictures_differ_in_colour() -> None:
    """Styles are told apart by their colour histograms alone, whatever they show."""
    objects = ("Cat", "Bus", "Tree", "Ring")
    shown = {name: true_drawings(name, objects, 1, 0, SIZE)[:, 0] for name in HELD_OUT}
    bins = {
        name: [
            np.histogramdd(p.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0].ravel() / SIZE**2
            for p in pictures
        ]
        for name, pictures in shown.items()
    }
    for name, own in bins.items():
        inside = min(float(np.minimum(a, b).sum()) for a in own for b in own)
        outside = max(
            float(np.minimum(own[0], b).sum())
            for other, all_b in bins.items()
            if other != name
            for b in all_b
        )
        assert inside > outside, name


@pytest.mark.parametrize("field", [{"fill": "zigzag"}, {"period": 0.5}, {"mapping": "ramp"}])
def test_style_names_what_is_wrong(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        Style(**field)  # type: ignore[arg-type]


def test_style_reports_all_faults_together() -> None:
    with pytest.raises(ValueError, match=r"(?s)ground=.*texture=.*glow="):
        Style(ground="sea", texture="mud", glow=9)


def test_unknown_object_gets_the_list() -> None:
    with pytest.raises(ValueError, match="'Unicorn' cannot be drawn; allowed: Cat, "):
        draw("Unicorn", PLAIN, rng(0))


def test_captions() -> None:
    assert caption("Ice cream") == "an image of ice cream"
    assert caption("Cat", "comic") == "an image of cat in comic style"
    assert colour_word((250, 60, 60)) == "red"
    style = Style(fill="none", line=(60, 150, 70), line_width=1.0)
    said = {describe(style, rng(k)) for k in range(20)}
    assert {"green line drawing", "line drawing on white", "green line drawing on white"} <= said


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((255, 255, 255), (100, 0, 0)),
    ],
)
def test_lab_agrees_with_cie(colour: tuple[int, int, int], expected: tuple[float, float, float]) -> None:
    """Primaries of sRGB under D65, as tabulated by B. Lindbloom."""
    assert lab(colour) == pytest.approx(expected, abs=0.5)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sample(tmp_path_factory.mktemp("sample") / "set")


def test_sample_is_a_challenge_set(made: Path) -> None:
    found = read_challenge(made)
    assert found.ids == ("00", "01", "02", "03")
    assert [p.name for p in made.parent.iterdir()] == ["set"]
    for style in found.styles:
        references, prompts = sample_objects(style.id)
        assert {r.object for r in style.references} == {o.lower() for o in references}
        assert len(references) == 10
        assert len(set(prompts)) == 12
        assert len(set(prompts) & set(references)) == 2
        text = json.loads((made / style.id / "prompt.json").read_text())
        assert text == {str(k): obj for k, obj in enumerate(prompts)}
        for reference in style.references:
            with Image.open(reference.path) as picture:
                assert (picture.size, picture.mode) == ((128, 128), "RGB")
    assert len({o for s in SAMPLE_STYLES for o in sample_objects(s)[0]}) == 40
    assert list(SAMPLE_STYLES.values()) == list(HELD_OUT)[:4]


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_sample_is_made_once_and_alike(made: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in made.rglob("*")}
    make_sample(made)
    assert {p: p.stat().st_mtime_ns for p in made.rglob("*")} == before
    empty = tmp_path / "empty"
    empty.mkdir()
    assert contents(make_sample(empty)) == contents(made)


def test_sample_keeps_what_a_user_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_sample(tmp_path / "set")
    prompts = root / "02" / "prompt.json"
    monkeypatch.setattr(sample, "VERSION", sample.VERSION + 1)
    make_sample(root)
    assert f'"version": {sample.VERSION}' in (root / RECORD).read_text()
    prompts.write_text('{"0": "Dragon"}')
    monkeypatch.setattr(sample, "VERSION", sample.VERSION + 1)
    make_sample(root)
    assert prompts.read_text() == '{"0": "Dragon"}'
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_sample_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="something other than the sample set"):
        make_sample(tmp_path)
    with pytest.raises(FileExistsError, match="something other"):
        make_sample(tmp_path / "thesis.tex")
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_true_drawings() -> None:
    shown = true_drawings("chalk", ("Cat", "Cup"), 3, seed=1, size=24)
    assert shown.shape == (2, 3, 24, 24, 3)
    assert np.array_equal(shown[1:], true_drawings(HELD_OUT["chalk"], ("Cup",), 3, seed=1, size=24))
    assert not np.array_equal(shown[0, 0], shown[0, 1])
    with pytest.raises(ValueError, match="'tar' is unknown; allowed: chalk, neon"):
        true_drawings("tar", ("Cat",), 1, 0)


def test_contact_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    sheet_main(["--what", "held-out", "--size", "24", "-o", str(out)])
    with Image.open(out) as page:
        assert page.size == (10 * 28, len(HELD_OUT) * 39)


def test_the_sample_reads_without_a_remark(tmp_path: Path) -> None:
    read = read_challenge(sample.make_sample(tmp_path / "sample"))
    assert read.ids == ("00", "01", "02", "03")
    assert read.notes == ()
