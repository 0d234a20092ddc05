"""A model's identity: content, not names; and what remembers it may break."""

import json
from pathlib import Path

import pytest

from jdx.backends.base import ModelSpec
from jdx.digests import model_identity


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(b"weights")
    return folder


def test_identity_is_of_the_content(model: Path) -> None:
    before = model_identity(ModelSpec(str(model)))
    moved = model.rename(model.with_name("moved"))
    assert model_identity(ModelSpec(str(moved))) == before
    (moved / "unet" / "weights.safetensors").write_bytes(b"weightz")
    assert model_identity(ModelSpec(str(moved))) != before


def test_variants_of_one_folder_are_different_models(model: Path) -> None:
    (model / "unet" / "weights.fp16.safetensors").write_bytes(b"half")
    assert model_identity(ModelSpec(str(model))) != model_identity(ModelSpec(str(model), variant="fp16"))


@pytest.mark.parametrize("content", ['{"/a": "b', "[1, 2]", '{"/a": 3}', ""])
def test_broken_memory_of_digests_costs_nothing_but_time(model: Path, tmp_path: Path, content: str) -> None:
    memory = tmp_path / "digests.json"
    memory.write_text(content)
    assert model_identity(ModelSpec(str(model)), memory) == model_identity(ModelSpec(str(model)))
    assert len(json.loads(memory.read_text())) == 2
