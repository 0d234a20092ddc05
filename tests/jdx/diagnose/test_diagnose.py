"""Faults that were put in are found and named; sound pictures are left alone."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from data.mini.world import OBJECTS
from evaluation import ScoreOptions, Scorer
from jdx.diagnose import Diagnosis, diagnose
from jdx.diagnose import layout as marks_of
from jdx.diagnose.__main__ import main, show
from jdx.diagnose.checks import check_style
from jdx.diagnose.colours import Palette, mean_lab
from jdx.diagnose.evidence import Evidence, judge
from jdx.diagnose.findings import Finding, StyleDiagnosis
from jdx.diagnose.run import Options
from jdx.diagnose.spread import Spread, cosine_spread, fisher
from tests.jdx.diagnose import drawn as world


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Style 00: sound pictures and one of each fault; style 01: straight edges, one of them tilted."""
    references = world.references()
    pictures = {obj: world.drawn(obj) for obj in world.SOUND} | world.faulty()
    straight = world.references(world.STRAIGHT, "papercut")
    upright = {"Bus": world.drawn("Bus", "papercut"), "Camera": world.tilted()}
    styles = {"00": (references, pictures), "01": (straight, upright)}
    return world.write_run(tmp_path_factory.mktemp("diagnose") / "run", styles)


@pytest.fixture(scope="module")
def diagnosis(run: Path) -> Diagnosis:
    return diagnose(run, Options(device="cpu"))


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer("mini", ScoreOptions(cache=None, device="cpu"))


def _kinds(diagnosis: Diagnosis, style: str) -> dict[str, list[str]]:
    one = next(s for s in diagnosis.styles if s.id == style)
    prompts = {finding.prompt for finding in one.findings if finding.prompt}
    return {prompt: [finding.kind for finding in one.of(prompt)] for prompt in prompts}


@pytest.mark.parametrize(("prompt", "kind"), world.FAULTS.items())
def test_each_fault_is_found(diagnosis: Diagnosis, prompt: str, kind: str) -> None:
    assert kind in _kinds(diagnosis, "00")[prompt]


def test_sound_pictures_of_the_same_style_are_left_alone(diagnosis: Diagnosis) -> None:
    assert not set(_kinds(diagnosis, "00")) & set(world.SOUND)


def test_the_words_say_what_is_there(diagnosis: Diagnosis) -> None:
    one = next(s for s in diagnosis.styles if s.id == "00")
    said = {(f.prompt, f.kind): f for f in one.findings}
    assert "looks like bicycle" in said["Cat", "wrong object"].text
    assert said["Cat", "wrong object"].numbers["looks_like"] == "bicycle"
    assert "lighter" in said["Key", "colour drift"].text
    assert float(said["Key", "colour drift"].numbers["d_L"]) > 15
    assert "“bear”" in said["Boat", "copy"].text
    assert "“swan”" in said["Lamp", "copy"].text  # mirrored
    assert float(said["Cactus", "leak"].numbers["degrees"]) % 70 == pytest.approx(20, abs=3)
    assert {"top", "left", "bottom", "right"} <= set(said["Camera", "leak"].numbers)


def test_tilt_is_told_where_references_have_an_upright(diagnosis: Diagnosis) -> None:
    found = next(s for s in diagnosis.styles if s.id == "01")
    (tilt,) = [f for f in found.of("Camera") if f.kind == "leak"]
    assert float(tilt.numbers["degrees"]) == pytest.approx(25, abs=8)
    assert not [f for f in found.of("Bus") if f.kind == "leak"]
    assert any("upright" in line for line in next(s for s in diagnosis.styles if s.id == "00").skipped)


def test_thresholds_and_worst_style_first(diagnosis: Diagnosis) -> None:
    shares = [style.faulty / style.pictures for style in diagnosis.styles]
    assert shares == sorted(shares, reverse=True)
    lines = " ".join(diagnosis.styles[0].thresholds)
    for word in ("style part", "object", "colours", "copy"):
        assert word in lines
    counted = diagnosis.counts()
    assert counted["copy"] == 2
    assert counted["leak"] == 3


@pytest.mark.parametrize("style", ["neon", "ink wash", "stained glass", "woodcut"])
def test_false_alarms_are_few(style: str, scorer: Scorer) -> None:
    """24 sound pictures of a style of their own objects: at most one is suspected of anything."""
    order = np.random.default_rng([5, sum(map(ord, style))]).permutation(len(OBJECTS))
    references = world.references([OBJECTS[i] for i in order[:10]], style)
    pictures = {OBJECTS[i]: world.drawn(OBJECTS[i], style, seed=2) for i in order[10:34]}
    found = check_style(Evidence(style, pictures, references, judge(scorer, style, pictures, references), []))
    assert found.faulty <= 1, [f.text for f in found.findings]
    assert not [f for f in found.findings if f.prompt is None]


def test_command_writes_json_and_report(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main([str(copy), "--json", "--judges", "none"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((copy / "diagnosis.json").read_text())
    assert printed["counts"]["leak"] == 3
    assert printed["judges"] == "none"
    assert "copies are not looked at" in printed["notes"][0]
    text = (copy / "report.html").read_text()
    assert "flat border" in text
    assert main([str(copy), "--judges", "none", "--dry"]) == 0
    assert "colour drift" in capsys.readouterr().out


def test_bad_input(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "no pictures" in capsys.readouterr().err
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "images/00/Key.png").write_bytes(b"torn")
    (copy / "references.json").write_text("{}")
    found = diagnose(copy, Options(judges="no-such-set"))
    assert "no-such-set" in found.notes[0]
    skipped = " ".join(next(s for s in found.styles if s.id == "00").skipped)
    assert "Key.png" in skipped
    assert "two or more" in skipped
    assert {"Camera", "Cactus"} <= set(_kinds(found, "00"))  # borders need no reference


def test_known_marks_are_not_asked_for_again(scorer: Scorer) -> None:
    references, pictures = world.references(), {"Rose": world.drawn("Rose")}
    fresh = judge(scorer, "00", pictures, references)
    seen = scorer.judges.clip_r.seen
    known = judge(scorer, "00", pictures, references, fresh.pictures)
    assert known == fresh
    assert scorer.judges.clip_r.seen - seen == len(references)  # of the references alone


def test_spread_is_a_prediction_interval() -> None:
    """Of normal groups of four, a fifth value is above `high` as often as was asked for."""
    rng = np.random.default_rng(0)
    groups = rng.normal(3, 2, (40_000, 5))
    mean, std = groups[:, :4].mean(1), groups[:, :4].std(1, ddof=1)
    one = Spread(0.0, 1.0, 4)
    share = float((groups[:, 4] > mean + std * one.reach(0.01)).mean())
    assert share == pytest.approx(0.01, abs=0.002)
    assert Spread.of([1.0, 3.0]).reach(0.05) == pytest.approx(stats.t.ppf(0.95, 1) * math.sqrt(2 * 1.5))
    assert Spread.of([1.0, 1.0], floor=0.5).std == 0.5
    with pytest.raises(ValueError, match="two or more"):
        Spread.of([1.0])
    assert fisher(1.0) == fisher(2.0)
    assert cosine_spread([0.5, 0.5]).mean == pytest.approx(math.atanh(0.5))


@pytest.mark.parametrize(
    ("change", "word"),
    [((90, 0, 0), "red"), ((0, 70, 0), "green"), ((0, 0, 110), "blue"), ((-60, -60, -60), "darker")],
)
def test_drift_names_its_way(change: tuple[int, int, int], word: str) -> None:
    references = world.references()
    palette = Palette.of([mean_lab(picture) for picture in references.values()], None)
    shifted = np.clip(np.asarray(world.drawn("Rose")).astype(int) + change, 0, 255).astype(np.uint8)
    found = palette.drift("Rose", mean_lab(Image.fromarray(shifted)), None)
    assert found is not None
    assert word in found.text


def test_lab_is_the_colour_scientists() -> None:
    """White, black and sRGB's red (CIE 1976, D65): L* 53.2, a* 80.1, b* 67.2."""
    white, black, red = (mean_lab(Image.new("RGB", (4, 4), c)) for c in ("white", "black", "red"))
    assert white == pytest.approx((100, 0, 0), abs=0.1)
    assert black == pytest.approx((0, 0, 0), abs=0.1)
    assert red == pytest.approx((53.2, 80.1, 67.2), abs=0.3)


@pytest.mark.parametrize("degrees", [-20.0, -8.0, 0.0, 8.0, 20.0])
def test_edges_turn_with_the_picture(degrees: float) -> None:
    bars = Image.new("RGB", (200, 200), "white")
    bars.paste("black", (60, 60, 140, 140))
    turn, straightness = marks_of.edge_turn(marks_of.small(bars.rotate(degrees, fillcolor="white")))
    assert turn == pytest.approx(degrees, abs=2)
    assert straightness > 0.5


@pytest.mark.parametrize("degrees", [12, 20, -20, 40])
def test_corners_of_a_turned_frame(degrees: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    turned = Image.fromarray(noise).rotate(degrees, Image.Resampling.BILINEAR, fillcolor="black")
    found = marks_of.marks(turned).corners
    assert found is not None
    assert min(abs(found - abs(degrees)), abs(found - (90 - abs(degrees)))) < 4
    assert marks_of.marks(Image.fromarray(noise)).corners is None


def test_cut_off_corners_are_no_turned_frame() -> None:
    """A motif with bevelled corners: triangles, but of another size than any turn leaves."""
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    y, x = np.mgrid[:128, :128]
    for cut in (20, 56):
        bevelled = noise.copy()
        edge_distance = np.minimum(x, 127 - x) + np.minimum(y, 127 - y)
        bevelled[edge_distance < cut] = 240
        assert marks_of.marks(Image.fromarray(bevelled)).corners is None


def test_brackets_in_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding("wrong object", "looks like [red]", {}, "[bold]x")
    show(Diagnosis("run[b]", (StyleDiagnosis("s[i]", 1, (finding,)),), "mini", 0.005), Console(width=120))
    out = capsys.readouterr().out
    assert all(text in out for text in ("run[b]", "style s[i]", "[bold]x", "looks like [red]"))
