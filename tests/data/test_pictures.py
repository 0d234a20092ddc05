"""Every mode a drawing may come in ends as upright 8-bit RGB."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.faults import DataError
from data.pictures import load_picture, to_rgb


def _pixels(path: Path) -> list[tuple[int, ...]]:
    picture = load_picture(path)
    assert picture.mode == "RGB"
    return [tuple(int(v) for v in pixel) for pixel in np.asarray(picture).reshape(-1, 3)]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    # a 2×1 picture (red, blue) as EXIF defines the eight orientations: pixels row by row, then the size
    [(1, "RB"), (2, "BR"), (3, "BR"), (4, "RB"), (5, "RB"), (6, "RB"), (7, "BR"), (8, "BR")],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, expected: str) -> None:
    picture = Image.new("RGB", (2, 1), (255, 0, 0))
    picture.putpixel((1, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    picture.save(path, exif=exif)
    names: dict[tuple[int, ...], str] = {(255, 0, 0): "R", (0, 0, 255): "B"}
    assert "".join(names[p] for p in _pixels(path)) == expected
    assert load_picture(path).size == ((2, 1) if orientation <= 4 else (1, 2))


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (3, 1), (0, 0, 0, 0))  # hidden black, as most editors leave it
    picture.putpixel((1, 0), (255, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 0, 51))  # 20 % black over white: 255 · 0.8 = 204
    picture.save(tmp_path / "a.png")
    assert _pixels(tmp_path / "a.png") == [(255, 255, 255), (255, 0, 0), (204, 204, 204)]


def test_transparent_palette_and_grey_alpha(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=0)
    assert _pixels(tmp_path / "p.png") == [(255, 255, 255), (10, 20, 30)]
    grey = Image.new("LA", (2, 1), (0, 0))
    grey.putpixel((1, 0), (7, 255))
    grey.save(tmp_path / "la.png")
    assert _pixels(tmp_path / "la.png") == [(255, 255, 255), (7, 7, 7)]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)  # 0, 1, 128 and 255 times 257
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert [p[0] for p in _pixels(tmp_path / "deep.png")] == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB", "I;16", "RGBa"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_float_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="8 bits"):
        to_rgb(Image.new("F", (2, 2)))


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(tmp_path / "two.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert _pixels(tmp_path / "two.webp")[0] == (255, 0, 0)


@pytest.mark.parametrize(
    ("content", "what"), [(None, "no such picture"), (b"", "0 bytes"), (b"hello", "not a picture")]
)
def test_unreadable_pictures(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=what) as raised:
        load_picture(path)
    assert raised.value.faults[0].path == path
