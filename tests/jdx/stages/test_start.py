"""Where drawing starts: one picture for all, one per style, and what is refused before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from jdx.backends.base import InitSpec
from jdx.errors import ConfigError
from jdx.validation import anchored, build
from tests.configs import compose_plain
from tests.data.sets import make_picture
from tests.jdx.stages.test_wiring import Lab, lab

__all__ = ["lab"]


def faults_of(lab: Lab, *overrides: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        lab.run("method=base", *overrides)
    return {f"{fault.key}={fault.value}": fault.allowed for fault in caught.value.faults}


def test_each_style_starts_from_its_own_picture(lab: Lab, tmp_path: Path) -> None:
    starts = {style: make_picture(tmp_path / "starts" / f"{style}.png") for style in ("00", "05")}
    given = f"method.init.picture={tmp_path / 'starts'}/{{style}}.png"
    notes, _ = lab.run("method=base", given, "method.init.strength=0.5", "method.init.posterior=mode")
    assert {one.style: one.init for one in notes.drawn[0].styles} == {
        style: InitSpec(path, 0.5, sampled=False) for style, path in starts.items()
    }
    _, again = lab.run("method=base", given, "method.init.strength=0.5")
    assert again["generate"] == {"made": 2, "reused": 0}  # how the latent is taken is part of the key
    make_picture(starts["05"], size=(9, 9))
    _, again = lab.run("method=base", given, "method.init.strength=0.5")
    assert again["generate"] == {"made": 1, "reused": 1}


def test_every_missing_or_broken_start_is_told(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "starts").mkdir()
    (tmp_path / "starts" / "05.png").write_text("no picture")
    faults = faults_of(lab, f"method.init.picture={tmp_path / 'starts'}/{{style}}.png")
    assert list(faults.values()) == ["style 00: no such picture", "style 05: not a picture that can be read"]
    one = faults_of(lab, f"method.init.picture={tmp_path / 'starts' / '05.png'}")
    assert list(one.values()) == ["not a picture that can be read"]


@pytest.mark.parametrize(
    ("strength", "words"),
    [
        ("0", "every picture would be its start"),
        ("1.1", "less than or equal to 1"),
        ("0.01", "at least 0.05"),
    ],
)
def test_strength_that_draws_nothing_is_refused(lab: Lab, strength: str, words: str) -> None:
    faults = faults_of(
        lab, "method.init.picture=average", f"method.init.strength={strength}", "sampler.steps=20"
    )
    (allowed,) = faults.values()
    assert words in allowed


def test_strength_does_not_matter_without_a_start() -> None:
    assert build(compose_plain("method=base", "method.init.strength=0")).method.init.picture == "none"


def test_template_of_starts_means_the_same_elsewhere(tmp_path: Path) -> None:
    config = compose_plain("method=base", "method.init.picture='starts/{style}.png'")
    assert anchored(config, tmp_path)["method"]["init"]["picture"] == str(tmp_path / "starts" / "{style}.png")
