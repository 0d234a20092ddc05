"""Which reference is nearest to each content picture, for StyleID's `reference: most_similar` (qwqw's team chose so).

Nearness is the cosine of the trial's DINO judge; without judges, of the VAE's latents, which see layout and colour
but no content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.challenge import load_picture
from jdx.backends.base import CropSpec
from jdx.digests import file_digest
from jdx.stages.bench import Bench, Publish, make
from jdx.stages.encode import encode
from jdx.stages.judges import NONE
from jdx.stages.score import Panel, told

VERSION = 1
STAGE = "nearest"
FILE = "nearest.json"

Table = dict[str, list[float]]  # file stem -> similarity with each reference


def nearest(bench: Bench, pictures: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """{style: {prompt: index of the nearest reference, the first of equals}} for {style: folder of PNGs}."""
    tables = _tables(bench, pictures)
    return {
        style: {prompt: row.index(max(row)) for prompt, row in _read(folder).items()}
        for style, folder in tables.items()
    }


def _tables(bench: Bench, pictures: Mapping[str, Path]) -> dict[str, Path]:
    """{style: folder with nearest.json}, from the store or looked up now."""
    files = {style: sorted(folder.glob("*.png")) for style, folder in pictures.items()}
    references = {style: [ref.path for ref in bench.style(style).references] for style in pictures}
    judged = bench.config.evaluation.judges != NONE
    by = {"dino": Panel.of(bench).identity["dino"]} if judged else {"vae": bench.config.sampler.resolution}
    contents: dict[str, dict[str, Any]] = {
        style: {
            "by": by,
            "pictures": [[path.stem, file_digest(path)] for path in paths],
            "references": [file_digest(path) for path in references[style]],
        }
        for style, paths in files.items()
    }

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        for style in styles:
            table = (_by_dino if judged else _by_vae)(bench, files[style], references[style])
            folder = work / f"nearest-{styles.index(style)}"
            folder.mkdir()
            (folder / FILE).write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")
            publish(style, folder)

    return make(bench, STAGE, VERSION, contents, build, model=not judged)


def _read(folder: Path) -> Table:
    table: Table = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return table


def _by_dino(bench: Bench, pictures: list[Path], references: list[Path]) -> Table:
    scorer = Panel.of(bench).scorer
    with told():
        return scorer.similarities(
            {path.stem: path for path in pictures}, [load_picture(p) for p in references]
        )


def _by_vae(bench: Bench, pictures: list[Path], references: list[Path]) -> Table:
    """Cosines of the posteriors' means at the size at which StyleID will see them, less the mean of the references."""
    import torch
    from safetensors.torch import load_file

    crop = CropSpec(bench.config.sampler.resolution, scale=1.0, random=False, variants=1)
    folders = encode(bench, {"content": pictures, "references": references}, crop)
    means = [
        load_file(folder / "moments.safetensors")["mean"][:, 0].flatten(1) for folder in folders.values()
    ]
    centre = means[1].mean(0)
    own, theirs = (torch.nn.functional.normalize((some - centre).double(), dim=1) for some in means)
    rows: list[list[float]] = (own @ theirs.T).tolist()
    return dict(zip((path.stem for path in pictures), rows, strict=True))
