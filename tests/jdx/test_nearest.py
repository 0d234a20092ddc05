"""StyleID's `most_similar`: each picture takes the style of the reference that it resembles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from data.challenge import load_picture
from evaluation import load_judges
from evaluation.pictures import as_picture
from jdx.errors import ConfigError
from jdx.stages import stylise
from jdx.stages.nearest import nearest
from tests.jdx.lab import Lab, challenge, lab, made

__all__ = ["challenge", "lab"]

SETTINGS = ("method=styleid", "method.styleid.steps=3", "method.styleid.reference=most_similar")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What StyleID was told: {style: {prompt: index}}, and the pictures that it was told of."""
    notes: dict[str, Any] = {}

    def watched(bench: Any, pictures: Any) -> Any:
        notes["indices"], notes["pictures"], notes["bench"] = nearest(bench, pictures), pictures, bench
        return notes["indices"]

    monkeypatch.setattr(stylise, "nearest", watched)
    return notes


def test_by_dino_of_the_trials_judge(lab: Lab, seen: dict[str, Any], tiny_judges: Path) -> None:
    _, run = lab.run(*SETTINGS)
    eye = load_judges(tiny_judges, device="cpu").dino

    def vectors(paths: list[Path]) -> torch.Tensor:
        pictures = [as_picture(path.stem, load_picture(path)) for path in paths]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as pool:
            (rows,) = [group[1][0] for group in eye.look(pictures, pool)]
        return torch.nn.functional.normalize(rows.float(), dim=1)

    for style, indices in seen["indices"].items():
        references = [reference.path for reference in seen["bench"].style(style).references]
        for prompt, index in indices.items():
            own = vectors([run / "content" / style / f"{prompt}.png"])
            assert index == int((own @ vectors(references).T).argmax())
    assert made(run)["nearest"]["made"] == 2
    _, again = lab.run(*SETTINGS, "method.styleid.gamma=0.5")
    assert made(again)["nearest"] == {"made": 0, "reused": 2}


@pytest.mark.parametrize("judges", [(), ("evaluation=none", "evaluation.judges=none")])
def test_a_picture_that_is_a_reference_takes_that_one(
    lab: Lab, seen: dict[str, Any], tmp_path: Path, judges: tuple[str, ...]
) -> None:
    """With judges, and without them by the VAE's latents."""
    _, run = lab.run(*SETTINGS, *judges)
    bench = seen["bench"]
    references = [reference.path for reference in bench.style("00").references]
    (tmp_path / "own").mkdir()
    for number, path in enumerate(references):
        Image.open(path).convert("RGB").resize((64, 64)).save(tmp_path / "own" / f"{number}.png")
    assert nearest(bench, {"00": tmp_path / "own"}) == {"00": {"0": 0, "1": 1, "2": 2}}
    assert json.loads((run / "trial.json").read_text())["stages"]["nearest"]["made"] == 2
    shutil.rmtree(tmp_path / "own")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("most_similr", "did you mean most_similar"),
        ("first", "rotate, random, random_per_style, most_similar"),
    ],
)
def test_unknown_ways_get_the_valid_ones(lab: Lab, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.run("method=styleid", f"method.styleid.reference={value}")
    (fault,) = caught.value.faults
    assert fault.key == "method.styleid.reference"
    assert words in fault.allowed


@pytest.mark.parametrize("index", [3, -1])
def test_index_out_of_range_names_the_range_of_every_style(lab: Lab, index: int) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.run("method=styleid", f"method.styleid.reference={index}")
    assert [fault.allowed for fault in caught.value.faults] == [
        "style 00 has references 0 to 2",
        "style 05 has references 0 to 2",
    ]
