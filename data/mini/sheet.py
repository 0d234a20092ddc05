"""Contact sheets of the drawn world, to be looked at.

python -m data.mini.sheet --what objects -o objects.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from data.mini.world import HELD_OUT, NAMED_STYLES, OBJECTS, PLAIN, Style, describe, draw, random_style

Row = tuple[str, Style]


def sheet(cells: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Pictures in rows, each with its words below."""
    side, foot = cells[0][1].width, 13
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * (side + 4), rows * (side + foot + 2)), "white")
    pen = ImageDraw.Draw(page)
    for k, (words, picture) in enumerate(cells):
        x, y = k % columns * (side + 4), k // columns * (side + foot + 2)
        page.paste(picture, (x, y))
        pen.text((x + 2, y + side), words[: side // 6], fill="black")
    return page


def _objects(seed: int, size: int) -> Image.Image:
    return sheet(
        [(o, draw(o, PLAIN, np.random.default_rng([seed, k]), size)) for k, o in enumerate(OBJECTS)], 12
    )


def _rows(styles: list[Row], seed: int, size: int, columns: int) -> Image.Image:
    cells = []
    for r, (name, style) in enumerate(styles):
        picks = np.random.default_rng([seed, r]).choice(len(OBJECTS), columns, replace=False)
        for k in picks:
            cells.append(
                (f"{name}: {OBJECTS[k]}", draw(OBJECTS[k], style, np.random.default_rng([seed, r, k]), size))
            )
    return sheet(cells, columns)


def _composed(seed: int, size: int) -> Image.Image:
    cells = []
    for k in range(96):
        rng = np.random.default_rng([seed, k])
        style = random_style(rng)
        obj = OBJECTS[int(rng.integers(len(OBJECTS)))]
        cells.append((describe(style, rng), draw(obj, style, rng, size)))
    return sheet(cells, 12)


def page(what: str, seed: int = 0, size: int = 128) -> Image.Image:
    """The sheet of `what`: objects, styles, held-out or composed."""
    if what == "objects":
        return _objects(seed, size)
    if what == "composed":
        return _composed(seed, size)
    table = NAMED_STYLES if what == "styles" else HELD_OUT
    return _rows(list(table.items()), seed, size, 10)


def main(arguments: list[str] | None = None) -> None:
    """Write one sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=("objects", "styles", "held-out", "composed"), required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    chosen = parser.parse_args(arguments)
    page(chosen.what, chosen.seed, chosen.size).save(chosen.out)


if __name__ == "__main__":
    main()
