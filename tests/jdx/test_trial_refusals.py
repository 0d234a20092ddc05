"""Faults of a trial's settings, model, judges and seeds are told before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jdx.errors import ConfigError
from tests.jdx.lab import Lab, challenge, lab

__all__ = ["challenge", "lab"]


def test_a_word_that_cannot_be_learnt_is_told_before_training(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"method\.tokens\.init = '<\|endoftext\|>'"):
        lab.run("method=textual_inversion", "method.tokens.init='<|endoftext|>'")


def test_faults_of_model_and_judges_are_told_before_any_work(lab: Lab, tmp_path: Path, tiny_sd: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd, broken)
    shutil.rmtree(broken / "unet")
    with pytest.raises(ConfigError) as caught:
        lab.run(f"model.path={broken}", "evaluation.networks.dino=.")
    text = str(caught.value)
    assert "unet" in text
    assert "dino" in text
    assert not (lab.root / "store" / "encode").exists()


def test_modules_that_the_model_lacks_are_told_before_any_work(lab: Lab) -> None:
    names = ("lora.unet.targets=[to_q,to_x]", "lora.text_encoder.rank=1", "lora.text_encoder.targets=[k]")
    with pytest.raises(ConfigError) as caught:
        lab.run("method=styleid_db", "method.prior.weight=1", "method.styleid.layers=['7','99']", *names)
    assert {(fault.key, fault.value) for fault in caught.value.faults} == {
        ("lora.unet.targets", "to_x"),
        ("lora.text_encoder.targets", "k"),
        ("method.styleid.layers", "99"),
    }
    assert {path.name for path in (lab.root / "store").iterdir() if path.is_dir()} <= {".work", ".locks"}
    # what is switched off may be called anything
    lab.run("method=base", "method.styleid.layers=['99']", *names)


def test_blended_layers_that_the_model_lacks_are_told_before_any_work(lab: Lab) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.run("method=blend", "method.blend.c2f.layers=['4','16']", "method.blend.f2c.layers=[up_blocks.0]")
    assert {(fault.key, fault.value) for fault in caught.value.faults} == {
        ("method.blend.c2f.layers", "16"),
        ("method.blend.f2c.layers", "up_blocks.0"),
    }
    assert "up_blocks.1.attentions.0" in str(caught.value)
    assert not (lab.root / "store" / "encode").exists()


def test_faults_of_a_seeds_file_are_told_before_any_work(lab: Lab) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({"00": {"Dog": -7}}))
    with pytest.raises(ConfigError, match=r"whole number(.|\n)*dino|dino(.|\n)*whole number"):
        lab.run(f"sampler.seeds={seeds}", "evaluation.networks.dino=.")
    assert not (lab.root / "store" / "encode").exists()


def test_sample_set_in_a_folder_of_others_is_a_fault_of_the_setting(lab: Lab) -> None:
    (lab.root / "mine").mkdir()
    (lab.root / "mine" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"data\.root"):
        lab.run("data=sample", f"data.root={lab.root / 'mine'}")


def test_one_style_has_no_joint_adapter_and_several_must_be_told_apart(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="only style 05"):
        lab.run("lora=joint", "data.styles=['05']")
    with pytest.raises(ConfigError, match="the same for styles 00, 05") as caught:
        lab.run("lora=joint", "method.prompts.train='a {object}'", "method.prompts.generate='an {object}'")
    assert [fault.key for fault in caught.value.faults] == ["method.prompts.train", "method.prompts.generate"]
    assert not (lab.root / "store" / "encode").exists()
