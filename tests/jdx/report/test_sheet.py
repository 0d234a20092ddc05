from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jdx.report.run_folder import RunFolder
from jdx.report.sheet import GAP, PAPER, Tile, contact_sheet, style_sheet
from tests.jdx.run_folders import make_run

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=-1).sum())


def _rows(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int]:
    rows = np.flatnonzero((np.asarray(sheet) == colour).all(axis=-1).any(axis=1))
    return int(rows[0]), int(rows[-1])


def test_references_above_generated_all_of_one_size() -> None:
    references = [Tile(Image.new("RGB", (300, 300), RED), "ref")] * 2
    generated = [Tile(Image.new("RGB", (16, 16), BLUE), "gen", "0.50")] * 5
    sheet = contact_sheet(references, generated, title="style 00", width=400, columns=4)
    edge = (400 - 5 * GAP) // 4
    assert sheet.mode == "RGB"
    assert sheet.width == 400
    assert _count(sheet, RED) == 2 * edge**2  # shrunk to the tile
    assert _count(sheet, BLUE) == 5 * edge**2  # enlarged to it
    assert _rows(sheet, RED)[1] < _rows(sheet, BLUE)[0]
    assert _rows(sheet, BLUE)[1] - _rows(sheet, BLUE)[0] > edge  # five in four columns: a second row


def test_aspect_is_kept_and_nothing_is_cut_off() -> None:
    sheet = contact_sheet([], [Tile(Image.new("RGB", (100, 50), RED))], width=216, columns=2)
    assert _count(sheet, RED) == pytest.approx(96 * 48)
    assert sheet.getpixel((215, sheet.height - 1)) == tuple(bytes.fromhex(PAPER[1:]))


def test_captions_and_notes_are_written_within_their_tile() -> None:
    picture = Image.new("RGB", (50, 50), PAPER)
    blank = np.asarray(contact_sheet([], [Tile(picture)] * 2, width=300, columns=2))
    long = [Tile(picture, "an unreasonably long caption that cannot fit", "0.99"), Tile(picture)]
    written = np.asarray(contact_sheet([], long, width=300, columns=2))
    columns = np.flatnonzero((blank != written).any(axis=(0, 2)))
    assert len(columns) > 60
    assert columns[-1] < 150  # the neighbour's half stays as it was


def test_unreadable_picture_is_a_grey_square(tmp_path: Path) -> None:
    sheet = contact_sheet([Tile(tmp_path / "gone.png", "gone")], [], width=200, columns=1)
    assert _count(sheet, (0xE5, 0xE7, 0xEB)) > 10_000


@pytest.mark.parametrize(("width", "columns"), [(100, 10), (100, 0)])
def test_sizes_that_leave_no_room(width: int, columns: int) -> None:
    with pytest.raises(ValueError, match="columns"):
        contact_sheet([], [], width=width, columns=columns)


def test_sheet_of_a_style(tmp_path: Path) -> None:
    folder = RunFolder(make_run(tmp_path / "run"))
    with_references = style_sheet(folder, "00", width=600)
    assert with_references.height > style_sheet(folder, "01", width=600).height
