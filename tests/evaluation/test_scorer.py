"""The scorer: invariances, incomplete sets, NaN, and how often each network looks."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import FoldersError, Judges, ScoreError, ScoreOptions, Scorer, load_judges, score_folders
from evaluation.eyes import Eye
from evaluation.pictures import PictureError
from evaluation.preprocess import Chw, Preprocess
from evaluation.report import PictureScore, ScoreReport, StyleScore
from tests.evaluation.tiny import PROMPTS, picture

Folders = tuple[Path, Path]
PLAIN = ScoreOptions(cache=None, device="cpu")


@pytest.fixture
def judges(tiny_judges: Path) -> Judges:
    """The tiny set."""
    return load_judges(tiny_judges, device="cpu")


def _pictures(seed: int = 0) -> dict[str, Image.Image]:
    return {prompt: picture(seed + i) for i, prompt in enumerate(PROMPTS)}


def test_overall_numbers_are_what_the_contest_says(judges: Judges, challenge_set: Folders) -> None:
    (challenge_set[0] / "00" / "Cat.png").unlink()
    report = score_folders(*challenge_set, judges, PLAIN)
    styles = list(report.styles.values())
    assert [style.n_pictures for style in styles] == [2, 3]
    for name in ("dino", "hist", "lpips", "clip_iqa"):
        per_style = [np.mean([getattr(p, name) for p in style.pictures.values()]) for style in styles]
        assert report.metrics[name] == pytest.approx(np.mean(per_style))
    hits = [p.clip_r_hit for style in styles for p in style.pictures.values()]
    assert report.metrics["clip_r"] == sum(hits) / 5
    assert report.final_score == pytest.approx(report.style_part * (report.quality_part or 0))


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batch_size_does_not_change_the_score(
    judges: Judges, challenge_set: Folders, batch_size: int
) -> None:
    one = score_folders(*challenge_set, judges, PLAIN)
    other = score_folders(*challenge_set, judges, ScoreOptions(cache=None, batch_size=batch_size))
    assert other.metrics == pytest.approx(one.metrics, abs=1e-5)


def test_the_next_batch_is_prepared_while_the_networks_look(judges: Judges) -> None:
    eye, prepared = judges.clip_r, threading.Semaphore(0)
    looked: list[int] = []
    prepare, forward = eye.prepare, eye.forward

    def noted(image: Image.Image) -> Chw:
        prepared.release()
        return prepare(image)

    def once_prepared(x: torch.Tensor) -> list[torch.Tensor]:
        ahead = 2 if not looked else 1  # the first batch and the second, then one more each time
        looked.append(len(x))
        if len(looked) < len(PROMPTS):
            assert all(prepared.acquire(timeout=60.0) for _ in range(ahead))
        return forward(x)

    judges.clip_r = judges.clip_iqa = replace(eye, prepare=cast(Preprocess, noted), forward=once_prepared)
    Scorer(judges, replace(PLAIN, batch_size=1)).add_style("00", _pictures(), [picture(50)])
    assert looked == [1] * len(PROMPTS)


@pytest.mark.parametrize("large", [0, 70 * 70, 10**9])
def test_pictures_too_large_to_be_prepared_ahead_score_the_same(
    judges: Judges, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 70² the larger picture of a batch is only decoded and the others are prepared."""
    pictures = {**_pictures(), PROMPTS[1]: picture(3, 80)}
    scores = []
    for limit in (large, 1024 * 1024):
        monkeypatch.setattr("evaluation.eyes.LARGE", limit)
        scores.append(Scorer(judges, PLAIN).add_style("00", pictures, [picture(50)]).to_json())
    assert scores[0] == scores[1]


def test_order_of_references_and_styles_does_not_matter(judges: Judges) -> None:
    references = [picture(50 + i) for i in range(4)]
    one, other = Scorer(judges, PLAIN), Scorer(judges, PLAIN)
    one.add_style("a", _pictures(), references)
    one.add_style("b", _pictures(20), references)
    other.add_style("b", _pictures(20), references[::-1])
    other.add_style("a", _pictures(), references[::-1])
    assert other.result().metrics == pytest.approx(one.result().metrics, abs=1e-9)


def test_style_by_style_from_memory_equals_the_folders(judges: Judges, challenge_set: Folders) -> None:
    whole = score_folders(*challenge_set, judges, PLAIN)
    scorer = Scorer(judges, PLAIN)
    for style in ("00", "01"):
        files = {prompt: challenge_set[0] / style / f"{prompt}.png" for prompt in PROMPTS}
        pictures = {prompt: Image.open(path) for prompt, path in files.items()}
        score = scorer.add_style(style, pictures, sorted((challenge_set[1] / style / "images").iterdir()))
        assert score.dino == whole.styles[style].dino
    assert scorer.result().metrics == pytest.approx(whole.metrics, abs=1e-9)


def test_each_network_sees_each_picture_once(judges: Judges, challenge_set: Folders) -> None:
    assert judges.clip_r is judges.clip_iqa
    assert judges.lpips is judges.fid
    score_folders(*challenge_set, judges, PLAIN)
    assert judges.passes == {"dino": 12, "clip_r": 6, "clip_iqa": 6, "lpips": 12, "fid": 12}


def test_alpha_is_dropped_and_grey_becomes_rgb(judges: Judges) -> None:
    plain, clear = picture(1), picture(1)
    clear.putalpha(10)
    references = [picture(50), picture(51)]
    one = Scorer(judges, PLAIN).add_style("a", {"Cat": plain, "Dog": plain.convert("L")}, references)
    other = Scorer(judges, PLAIN).add_style("a", {"Cat": clear, "Dog": plain.convert("L")}, references)
    assert one == other


def test_incomplete_sets_are_scored_and_marked(judges: Judges, challenge_set: Folders) -> None:
    (challenge_set[0] / "00" / "Cat.png").unlink()
    report = score_folders(*challenge_set, judges, PLAIN)
    assert not report.complete
    assert report.missing == ["00/Cat"]
    assert report.final_score is not None
    data = report.to_json()
    assert (data["complete"], data["missing"], data["n_pictures"]) == (False, ["00/Cat"], 5)


def test_files_that_do_not_decode_are_faults(judges: Judges, challenge_set: Folders) -> None:
    """A JPEG cut short passes the check of its header."""
    generated, references = challenge_set
    for cut in (generated / "00" / "Cat.jpg", references / "01" / "images" / "ref9.jpg"):
        picture(1, 200).save(cut)
        cut.write_bytes(cut.read_bytes()[:2000])
    (generated / "00" / "Cat.png").unlink()
    report = score_folders(generated, references, judges, PLAIN)
    assert [f.kind for f in report.faults if f.severity == "error"] == ["unreadable", "unreadable"]
    assert "00/Cat" in report.missing
    assert not report.complete


def test_strict_refuses_and_lists_everything(judges: Judges, challenge_set: Folders) -> None:
    (challenge_set[0] / "00" / "Cat.png").unlink()
    picture(1).save(challenge_set[0] / "01" / "Dog.png")
    with pytest.raises(FoldersError) as caught:
        score_folders(*challenge_set, judges, ScoreOptions(cache=None, strict=True))
    assert "Cat.png is missing" in str(caught.value)
    assert "Dog.png: not scored" in str(caught.value)
    assert judges.passes["dino"] == 0


def test_nothing_to_score_is_an_error(judges: Judges, challenge_set: Folders) -> None:
    for path in challenge_set[0].rglob("*.png"):
        path.unlink()
    with pytest.raises(FoldersError, match="nothing to score"):
        score_folders(*challenge_set, judges, PLAIN)


@pytest.mark.parametrize("role", ["dino", "clip_r", "clip_iqa", "lpips", "fid"])
def test_nan_of_any_network_stops_the_score(judges: Judges, role: str) -> None:
    eye: Eye = getattr(judges, role)

    def broken(x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.full_like(seen, math.nan) for seen in eye.forward(x)]

    # An eye of its own, so that no other role sees the NaN first.
    setattr(judges, role, replace(eye, digest="broken", forward=broken))
    scorer = Scorer(judges, PLAIN)
    with pytest.raises(ScoreError, match=rf"(picture 'Cat'|reference pictures).*{role} (is nan|gives NaN)"):
        scorer.add_style("a", _pictures(), [picture(50), picture(51)])
    assert scorer.styles == {}


@pytest.mark.parametrize("role", ["dino", "fid"])
def test_nan_of_a_reference_is_said_and_not_kept(judges: Judges, role: str, tmp_path: Path) -> None:
    eye: Eye = getattr(judges, role)

    def broken(x: torch.Tensor) -> list[torch.Tensor]:
        return [seen * math.nan for seen in eye.forward(x)]

    setattr(judges, role, replace(eye, digest="broken", forward=broken))
    options = ScoreOptions(cache=tmp_path / "cache", device="cpu")
    for _ in range(2):
        with pytest.raises(ScoreError, match=rf"reference pictures: {role} gives NaN for number \d"):
            Scorer(judges, options).add_style("a", _pictures(), [picture(50), picture(51)])
    setattr(judges, role, replace(eye, digest="broken"))
    Scorer(judges, options).add_style("a", _pictures(), [picture(50), picture(51)])


def test_clip_r_counts_pictures_not_styles() -> None:
    def style(*hits: bool) -> StyleScore:
        pictures = {str(i): PictureScore(0.1, 0.5, 0.4, 0.7, hit, 0.5, ()) for i, hit in enumerate(hits)}
        return StyleScore(0.1, 0.5, 0.4, 0.7, sum(hits) / len(hits), None, pictures)

    styles = {"a": style(True), "b": style(True, False, False)}
    report = ScoreReport(styles=styles, fid=1.0, judges={}, variants={})
    assert report.metrics["clip_r"] == 0.5


def test_fid_of_one_picture_gives_no_final_score(judges: Judges) -> None:
    scorer = Scorer(judges, PLAIN)
    scorer.add_style("a", {"Cat": picture(0)}, [picture(50), picture(51)])
    report = scorer.result()
    assert report.fid is None
    assert report.final_score is None
    assert [fault.kind for fault in report.faults] == ["fid_undefined"]
    assert json.loads(json.dumps(report.to_json()))["final_score"] is None


def test_fid_of_a_style_needs_more_pictures_than_dimensions(judges: Judges) -> None:
    scorer = Scorer(judges, PLAIN)
    many = scorer.add_style("a", {str(i): picture(i) for i in range(9)}, [picture(50 + i) for i in range(9)])
    few = scorer.add_style("b", {str(i): picture(i) for i in range(9)}, [picture(50 + i) for i in range(8)])
    assert many.fid is not None
    assert few.fid is None
    assert "fid" not in few.to_json()
    assert scorer.result().faults == []


def test_misuse_is_refused(judges: Judges, tmp_path: Path) -> None:
    scorer = Scorer(judges, PLAIN)
    with pytest.raises(ScoreError, match="no style was added"):
        scorer.result()
    with pytest.raises(ValueError, match="0 generated pictures and 1 references"):
        scorer.add_style("a", {}, [picture(1)])
    with pytest.raises(PictureError, match="no such file"):
        scorer.add_style("a", {"Cat": tmp_path / "none.png"}, [picture(1)])
    scorer.add_style("a", _pictures(), [picture(1)])
    with pytest.raises(ValueError, match="added before"):
        scorer.add_style("a", _pictures(), [picture(1)])
    with pytest.raises(ValueError, match="batch_size is 0"):
        ScoreOptions(batch_size=0)


def test_progress_counts_pictures(judges: Judges, challenge_set: Folders) -> None:
    calls: list[tuple[str, int, int]] = []
    options = ScoreOptions(cache=None, batch_size=2)
    score_folders(*challenge_set, judges, options, lambda *call: calls.append(call))
    assert calls == [("00", 2, 6), ("00", 3, 6), ("01", 5, 6), ("01", 6, 6)]


def test_caller_settings_of_precision_survive_and_do_not_matter(judges: Judges) -> None:
    one = Scorer(judges, PLAIN).add_style("a", _pictures(), [picture(50), picture(51)])
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other = Scorer(judges, PLAIN).add_style("a", _pictures(), [picture(50), picture(51)])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert other == one
