"""Tiny judges and a small set of pictures."""

import json
from pathlib import Path

import pytest

from evaluation.trunks import save_trunk
from tests.evaluation.tiny import PROMPTS, picture, random_trunk, save_clip, save_dino


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's caches, and none goes to the network."""
    monkeypatch.setenv("JDX_CACHE", str(tmp_path / "jdx-cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a judges.json in the format of the `mini` set."""
    folder: Path = tmp_path_factory.mktemp("judges")
    save_clip(folder / "clip")
    save_dino(folder / "dino")
    save_trunk(random_trunk(), folder / "trunk")
    (folder / "nouns.txt").write_text(
        "\n".join(["Dog", "Cat", "Boat", "House", "Moon", "Rose", "Fish", "Key"])
    )
    spec = {
        "name": "tiny",
        "dino": {"kind": "hf_vision", "path": "dino"},
        "clip_r": {"kind": "clip", "path": "clip", "nouns": "nouns.txt"},
        "clip_iqa": {"kind": "clip", "path": "clip"},
        "lpips": {"kind": "trunk", "path": "trunk", "heads": "uniform"},
        "fid": {"kind": "trunk", "path": "trunk", "stage": 0},
    }
    (folder / "judges.json").write_text(json.dumps(spec))
    return folder / "judges.json"


@pytest.fixture
def challenge_set(tmp_path: Path) -> tuple[Path, Path]:
    """Two styles: (generated, references), three prompts and three references each, complete."""
    generated, references = tmp_path / "generated", tmp_path / "references"
    for style in ("00", "01"):
        (generated / style).mkdir(parents=True)
        (references / style / "images").mkdir(parents=True)
        prompts = {str(i): prompt for i, prompt in enumerate(PROMPTS)}
        (references / style / "prompt.json").write_text(json.dumps(prompts))
        for i, prompt in enumerate(PROMPTS):
            picture(10 * int(style) + i).save(generated / style / f"{prompt}.png")
            picture(100 + 10 * int(style) + i, 48).save(references / style / "images" / f"ref{i}.png")
    return generated, references
