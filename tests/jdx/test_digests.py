"""A model's identity: content, not names; and what remembers it may break."""

import json
import shutil
from pathlib import Path

import pytest

from data.challenge import read_challenge
from jdx.backends.base import ModelSpec
from jdx.digests import data_identity, model_identity, set_digest
from tests.data.sets import make_set, noise


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


def test_a_set_is_its_pictures_and_prompts_wherever_they_are(tmp_path: Path) -> None:
    make_set(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = data_identity(read_challenge(tmp_path / "one"))
    assert data_identity(read_challenge(tmp_path / "two")) == first
    fewer = data_identity(read_challenge(tmp_path / "two", max_prompts=1))
    assert (fewer["styles"], fewer["prompts"]) == (first["styles"], first["styles"])
    assert fewer["digest"] != first["digest"]
    picture = next((tmp_path / "two").rglob("*.png"))
    noise(24, 99).save(picture)
    assert data_identity(read_challenge(tmp_path / "two"))["digest"] != first["digest"]


def test_the_order_of_a_set_is_nothing() -> None:
    digest = set_digest({"a": (["1", "2"], ["Cat", "Dog"]), "b": (["3"], ["Sea"])})
    assert set_digest({"b": (["3"], ["Sea"]), "a": (["2", "1"], ["Dog", "Cat"])}) == digest
    assert set_digest({"a": (["1", "3"], ["Cat", "Dog"]), "b": (["2"], ["Sea"])}) != digest
