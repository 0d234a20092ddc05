"""The best of several candidates: chosen by the judges' numbers, drawn again from its seeds, nothing drawn twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evaluation
from evaluation.formula import style_part
from jdx import summary, validation
from jdx.errors import ConfigError
from jdx.stages import judges
from tests.configs import compose_plain
from tests.jdx.lab import STYLES, Lab, challenge, lab, made, pixels

__all__ = ["challenge", "lab"]

BASE = ("method=base",)
FOUR = (*BASE, "method.select.candidates=4")
RESTYLED = ("method=styleid", "method.styleid.steps=3", "method.select.candidates=2")


def read(run: Path, name: str) -> Any:
    return json.loads((run / name).read_text())


def test_the_best_candidate_is_taken_and_all_numbers_are_kept(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    result, run = lab.run(*FOUR, "method.select.style_weight=2.0", "method.select.text_weight=0.5")
    record, metrics = read(run, "selection.json"), read(run, "metrics.json")
    assert (record["candidates"], record["style_weight"], record["text_weight"]) == (4, 2.0, 0.5)
    assert metrics["selection"]["candidates"] == 4
    assert "Best of 4." in (run / "report.html").read_text()
    summary.show(result, validation.build(compose_plain(*FOUR)))
    assert "best of 4 candidates, chosen by the judges that score them" in " ".join(
        capsys.readouterr().out.split()
    )
    choices = set()
    for style in STYLES:
        for prompt, one in record["styles"][style].items():
            rows = one["candidates"]
            assert len(rows) == len({row["seed"] for row in rows}) == 4
            for row in rows:
                part = style_part(row["dino"], row["hist"], row["lpips"])
                text = (row["clip_r_hit"] + row["clip_r_probability"]) / 2
                assert row["worth"] == pytest.approx(2 * part + 0.5 * text, abs=1e-12)
            best = max(range(4), key=lambda number: rows[number]["worth"])
            assert (one["candidate"], one["seed"]) == (best, rows[best]["seed"])
            choices.add(best)
            # the numbers are those of the picture that was scored in the end
            scored = metrics["styles"][style]["pictures"][prompt]
            assert scored["dino"] == pytest.approx(rows[best]["dino"], abs=1e-6)
    assert len(choices) > 1, "with random pictures the same candidate is not always the best"
    assert sorted(pixels(run / "images")) == [f"{s}/{p}.png" for s in STYLES for p in ("Dog", "Ice cream")]


def test_seeds_of_the_chosen_draw_the_same_pictures(lab: Lab) -> None:
    _, run = lab.run(*FOUR)
    seeds = read(run, "seeds.json")
    assert seeds == {
        style: {prompt: one["seed"] for prompt, one in some.items()}
        for style, some in read(run, "selection.json")["styles"].items()
    }
    settings = (f"sampler.seeds={run / 'seeds.json'}", f"store.root={lab.root / 'other'}")
    for again in (BASE, FOUR):  # with all seeds fixed there is nothing to choose
        _, other = lab.run(*again, *settings)
        ours, theirs = pixels(run / "images"), pixels(other / "images")
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
        assert read(other, "seeds.json") == seeds
    assert made(other)["generate"] == {"made": 0, "reused": 2}


def test_other_weights_and_more_candidates_draw_only_what_is_new(lab: Lab) -> None:
    _, plain = lab.run(*BASE)
    _, two = lab.run(*BASE, "method.select.candidates=2")
    assert made(two)["generate"] == {
        "made": 2,
        "reused": 2,
    }  # the first candidate is the picture without choice
    _, four = lab.run(*FOUR)
    assert made(four)["generate"] == {"made": 4, "reused": 4}
    _, again = lab.run(*FOUR, "method.select.text_weight=3.0", "method.select.style_weight=0")
    assert made(again)["generate"] == {"made": 0, "reused": 8}
    assert made(again)["select"]["made"] == 2
    seeds = read(plain, "seeds.json")
    assert all(
        one["candidates"][0]["seed"] == seeds[style][prompt]
        for style, some in read(four, "selection.json")["styles"].items()
        for prompt, one in some.items()
    )


def test_fixed_seeds_are_not_chosen_among(lab: Lab) -> None:
    (lab.root / "seeds.json").write_text(json.dumps({"00": {"Dog": 7}}))
    _, run = lab.run(*FOUR, f"sampler.seeds={lab.root / 'seeds.json'}")
    record = read(run, "selection.json")["styles"]
    assert [row["seed"] for row in record["00"]["Dog"]["candidates"]] == [7]
    assert len(record["00"]["Ice cream"]["candidates"]) == len(record["05"]["Dog"]["candidates"]) == 4


@pytest.mark.parametrize("devices", [(), ("backend.device=auto", "backend.devices=[cpu,cpu]")])
def test_seeds_file_of_the_same_folder_leaves_the_others_open(lab: Lab, devices: tuple[str, ...]) -> None:
    """The trial sets the file aside and writes a whole one in its place; what was fixed is what it said before."""
    folder = lab.root / "run1"
    folder.mkdir()
    (folder / "seeds.json").write_text(json.dumps({"00": {"Dog": 7}}))
    _, run = lab.run(*FOUR, f"sampler.seeds={folder / 'seeds.json'}", *devices)
    assert run == folder
    record = read(run, "selection.json")["styles"]
    counts = {f"{s}/{p}": len(one["candidates"]) for s, some in record.items() for p, one in some.items()}
    assert counts == {"00/Dog": 1, "00/Ice cream": 4, "05/Dog": 4, "05/Ice cream": 4}
    assert read(run, "seeds.json")["00"]["Dog"] == 7


@pytest.mark.parametrize("on", ["final", "content"])
def test_with_styleid_the_chosen_content_is_the_one_redrawn(lab: Lab, on: str) -> None:
    _, run = lab.run(*RESTYLED, f"method.select.on={on}")
    tally = made(run)["stylise"]
    assert tally["made"] == (4 if on == "final" else 2)
    settings = (f"sampler.seeds={run / 'seeds.json'}", f"store.root={lab.root / 'other'}")
    _, again = lab.run("method=styleid", "method.styleid.steps=3", *settings)
    for folder in ("content", "images"):
        ours, theirs = pixels(run / folder), pixels(again / folder)
        assert len(ours) == 4
        assert all(np.abs(ours[name].astype(int) - theirs[name]).max() <= 1 for name in ours)
    judged = read(run, "selection.json")["styles"]["00"]["Dog"]
    final = read(run, "metrics.json")["styles"]["00"]["pictures"]["Dog"]["hist"]
    same = judged["candidates"][judged["candidate"]]["hist"] == pytest.approx(final, abs=1e-6)
    assert same == (on == "final")


def test_groups_of_styles_choose_the_same(lab: Lab) -> None:
    _, whole = lab.run(*FOUR)
    _, parts = lab.run(*FOUR, "group_size=1")
    assert read(whole, "selection.json") == read(parts, "selection.json")
    assert read(whole, "seeds.json") == read(parts, "seeds.json")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (("evaluation=none", "evaluation.judges=none"), "method.select.candidates"),
        (("method.select.style_weight=0", "method.select.text_weight=0"), "method.select.style_weight"),
        (("method.select.style_weight=-1",), "method.select.style_weight"),
        (("method.select.on=both",), "method.select.on"),
    ],
)
def test_choice_that_cannot_be_made_is_refused(lab: Lab, settings: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.run(*FOUR, *settings)
    assert key in {fault.key for fault in caught.value.faults}


def test_repeated_trial_loads_no_judge(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, one = lab.run(*FOUR)

    judges.release()

    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a judge was loaded")

    monkeypatch.setattr(evaluation, "load_judges", loaded)
    second, two = lab.run(*FOUR, "tags=[again]", "evaluation.batch_size=1")
    assert read(one, "metrics.json") == read(two, "metrics.json")
    assert first.final_score == second.final_score
    assert all(tally["made"] == 0 for tally in made(two).values())
    with pytest.raises(AssertionError, match="a judge was loaded"):  # some are needed
        lab.run(*FOUR, "evaluation.histogram=corrected")
