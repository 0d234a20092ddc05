"""Contact sheets: references on top, generated pictures below, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from data.faults import DataError
from data.names import object_word
from data.pictures import load_picture
from jdx.beside import threads
from jdx.report.run_folder import RunFolder

PAPER, INK, FAINT, EMPTY = "#ffffff", "#1c1e21", "#6b7280", "#e5e7eb"
GAP = 8
"""Pixels between tiles."""
READERS = 16
"""Threads that decode and shrink pictures; Pillow works without the interpreter lock."""


@dataclass(frozen=True)
class Tile:
    """A picture with the words under it; `note` (a score) is set fainter, beside the caption."""

    picture: Path | Image.Image
    caption: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Grid:
    columns: int
    edge: int
    line: int

    def height(self, count: int) -> int:
        rows = -(-count // self.columns)
        return rows * (self.edge + self.line + GAP)


def contact_sheet(
    references: Sequence[Tile],
    generated: Sequence[Tile],
    *,
    title: str = "",
    width: int = 1600,
    columns: int = 10,
) -> Image.Image:
    """One RGB picture, `width` pixels wide: a row of references and, below, rows of generated pictures.

    A picture that cannot be read is drawn as a grey square that says so.
    """
    if columns < 1 or width < 40 * columns:
        raise ValueError(
            f"width {width} and columns {columns}: give 1 column or more, 40 pixels or more each"
        )
    edge = (width - GAP * (columns + 1)) // columns
    grid = _Grid(columns, edge, line=max(14, edge // 7))
    sections = [("references", references), ("generated", generated)]
    shown = [(name, tiles) for name, tiles in sections if tiles]
    height = GAP + (2 * grid.line if title else 0)
    height += sum(grid.line + GAP + grid.height(len(tiles)) for _, tiles in shown)
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP
    if title:
        _write(sheet, (GAP, top), title, size=int(grid.line * 1.2), colour=INK, width=width - 2 * GAP)
        top += 2 * grid.line
    for name, tiles in shown:
        _write(sheet, (GAP, top), name, size=int(grid.line * 0.8), colour=FAINT, width=width - 2 * GAP)
        top += grid.line + GAP
        _paste_grid(sheet, tiles, top, grid)
        top += grid.height(len(tiles))
    return sheet


def style_sheet(folder: RunFolder, style: str, *, width: int = 1600) -> Image.Image:
    """Contact sheet of one style of a run, with each picture's histogram score where there is one."""
    references = [Tile(path, object_word(path.stem)) for path in folder.references.get(style, [])]
    scores = folder.picture_scores(style)
    generated = [
        Tile(path, prompt, _note(scores.get(prompt, {}))) for prompt, path in folder.pictures(style).items()
    ]
    return contact_sheet(references, generated, title=f"style {style}", width=width)


def thumbnail(source: Path | Image.Image, edge: int) -> Image.Image:
    """The picture shrunk to fit a square of `edge` pixels, never enlarged. Raises `DataError`."""
    picture = source.copy() if isinstance(source, Image.Image) else load_picture(source)
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    return picture


def _note(scores: dict[str, Any]) -> str:
    hist = scores.get("hist")
    return f"{hist:.2f}" if isinstance(hist, int | float) else ""


def _paste_grid(sheet: Image.Image, tiles: Sequence[Tile], top: int, grid: _Grid) -> None:
    with ThreadPoolExecutor(threads(READERS)) as pool:
        squares = list(pool.map(lambda tile: _square(tile.picture, grid.edge), tiles))
    for index, (tile, square) in enumerate(zip(tiles, squares, strict=True)):
        row, column = divmod(index, grid.columns)
        x = GAP + column * (grid.edge + GAP)
        y = top + row * (grid.edge + grid.line + GAP)
        sheet.paste(square, (x, y))
        _write_caption(sheet, tile, (x, y + grid.edge), grid)


def _square(source: Path | Image.Image, edge: int) -> Image.Image:
    square = Image.new("RGB", (edge, edge), EMPTY)
    try:
        picture = thumbnail(source, edge)
    except DataError:
        _write(square, (4, edge // 2 - 8), "cannot be read", size=12, colour=FAINT, width=edge - 8)
        return square
    if max(picture.size) < edge:  # small pictures are enlarged here: a sheet has one tile size
        scale = edge / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    square.paste(picture, ((edge - picture.width) // 2, (edge - picture.height) // 2))
    return square


def _write_caption(sheet: Image.Image, tile: Tile, corner: tuple[int, int], grid: _Grid) -> None:
    size = int(grid.line * 0.75)
    x, y = corner[0], corner[1] + 1
    note_width = round(_font(size).getlength(tile.note)) if tile.note else 0
    room = grid.edge - (note_width + 4 if note_width else 0)
    _write(sheet, (x, y), tile.caption, size=size, colour=INK, width=room)
    if tile.note:
        note_x = x + grid.edge - note_width
        _write(sheet, (note_x, y), tile.note, size=size, colour=FAINT, width=note_width)


def _write(
    sheet: Image.Image, corner: tuple[int, int], text: str, *, size: int, colour: str, width: int
) -> None:
    font = _font(size)
    while text and font.getlength(text) > width:
        text = text[:-2] + "…" if text.endswith("…") else text[:-1] + "…"
        if text == "…":
            break
    ImageDraw.Draw(sheet).text(corner, text, font=font, fill=colour)


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)  # Pillow's own Aileron: no system font is needed
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType; install the wheel from PyPI")
    return font
