"""Trials of every method and of every file of conf/ that can be chosen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jdx import submit
from tests.jdx.lab import STYLES, Lab, challenge, lab, made, pixels
from tests.jdx.test_configs import CHOICES

__all__ = ["challenge", "lab"]

FEW_STEPS = ("method.prior.per_word=1", "method.prior.sampler.steps=2", "method.styleid.steps=3")


@pytest.mark.parametrize(
    "method", ["base", "prior", "average", "blend", "styleid", "styleid_db", "dreambooth_ti", "vae_enhancer"]
)
def test_every_method_runs(lab: Lab, method: str) -> None:
    result, run = lab.run(f"method={method}", *FEW_STEPS, "sampler.steps=4")
    assert result.final_score is not None
    assert len(pixels(run / "images")) == 4
    assert (run / "content").is_dir() == method.startswith("styleid")
    assert (run / "adapters").is_dir() == (method not in {"base", "styleid"})


@pytest.mark.parametrize(
    "choice", [choice for choice in CHOICES if not choice.startswith(("method=", "data=", "backend=j"))]
)
def test_every_config_runs(lab: Lab, choice: str) -> None:
    """Methods and the Jittor backends have tests of their own, and `data=challenge` is what all of these read."""
    styles = list(STYLES) if "joint" in choice else ["00"]  # a joint adapter needs two
    settings = (*FEW_STEPS, "sampler.steps=3", "train.steps=2", "data.max_prompts=1")
    result, run = lab.run(choice, *settings, f"data.styles={[int(style) for style in styles]}")
    assert list(pixels(run / "images")) == [f"{style}/Dog.png" for style in styles]
    # one picture has no covariance, so there is no FID and no final score, but all the rest
    assert (result.final_score is None) == (len(styles) == 1)
    assert result.metrics["styles"]["00"]["n_pictures"] == 1


def test_a_joint_adapter_draws_every_style(lab: Lab) -> None:
    """One entry in the store, one folder, one loss; every style's pictures are drawn with it."""
    _, run = lab.run("lora=joint", "lora.rank=3", "train.batch_size=2")
    assert [path.name for path in (run / "adapters").iterdir()] == ["joint"]
    assert made(run)["train"] == {"made": 1, "reused": 0}
    assert made(run)["encode"] == {"made": 2, "reused": 0}
    with (run / "losses.csv").open() as file:
        assert {row["style"] for row in csv.DictReader(file)} == {"joint"}
    _, own = lab.run("train.batch_size=2")
    assert made(own)["encode"] == {"made": 0, "reused": 2}
    a, b = (pixels(folder / "images") for folder in (run, own))
    assert a.keys() == b.keys()
    assert not any(np.array_equal(a[name], b[name]) for name in a)
    assert submit.main([str(run), "--size", "64"]) == 0
    # the run's own file draws its pictures again, seeds read back
    _, again = lab.run(
        "lora=joint", "lora.rank=3", "train.batch_size=2", f"sampler.seeds={run / 'seeds.json'}"
    )
    assert made(again)["train"] == {"made": 0, "reused": 1}
    assert all(np.array_equal(one, a[name]) for name, one in pixels(again / "images").items())


def test_groups_of_styles_share_the_joint_adapter(lab: Lab) -> None:
    _, whole = lab.run("lora=joint")
    _, parts = lab.run("lora=joint", "group_size=1", f"store.root={lab.root / 'other'}")
    assert made(parts)["train"] == {"made": 1, "reused": 0}
    a, b = (pixels(folder / "images") for folder in (whole, parts))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_styleblend_from_end_to_end(lab: Lab, tiny_sd: Path) -> None:
    """Learnt word, UNet adapter, coarse branch on chosen candidates; each branch's part changes the pictures."""
    recipe = (
        "experiment=styleblend",
        "sampler.steps=5",
        "train.steps=2",
        "data.styles=[5]",
        "method.blend.coarse.lr=0.05",
    )
    _, run = lab.run(*recipe)
    files = sorted(p.relative_to(run / "adapters").as_posix() for p in (run / "adapters" / "05").rglob("*.*"))
    lora, word = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
    assert files == sorted([f"05/{lora}", f"05/{word}", f"05/coarse/{lora}"])
    assert {key.split(".")[0] for key in load_file(run / "adapters" / "05" / lora)} == {"unet"}
    assert {key.split(".")[0] for key in load_file(run / "adapters" / "05" / "coarse" / lora)} == {
        "text_encoder"
    }
    assert made(run)["kept"] == {"made": 1, "reused": 0}
    base = pixels(run / "images")
    for change in (
        "method.blend.coarse.train=false",
        "method.blend.enabled=false",
        "method.blend.c2f.share=0.2",
    ):
        _, other = lab.run(*recipe, change)
        assert made(other)["train"]["made"] == 0
        drawn = pixels(other / "images")
        assert drawn.keys() == base.keys()
        assert not any(np.array_equal(drawn[name], base[name]) for name in base), change
