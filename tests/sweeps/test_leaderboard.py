"""The leaderboard: what is compared with what, what is left out and said, and the files it writes."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState, create_trial

from evaluation.formula import final_score
from evaluation.judges import challenge_judges
from sweeps.leaderboard import published
from sweeps.leaderboard.__main__ import main
from sweeps.leaderboard.boards import make_boards
from sweeps.leaderboard.runs import checked
from sweeps.leaderboard.sources import Found, gather, gather_wandb
from sweeps.ledger import PRUNED, REASON, RECORD
from sweeps.statistics import holm
from sweeps.storage import sqlite_url
from tests.sweeps.scored_runs import JUDGES, VARIANTS, make_about, make_metrics, put_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two recipes with two seeds each, one of them clearly better, in nested folders."""
    root = tmp_path / "outputs"
    for seed in (0, 1):
        put_run(root / "day" / f"base{seed}", seed=seed)
        put_run(root / "day" / "sweep" / f"good{seed}", 0.1, seed=seed, rank=32)
    return root


def board(*places: Path, **options: Any) -> Any:
    boards, _ = make_boards(gather(map(str, places)).runs, draws=200, **options)
    assert len(boards) == 1
    return boards[0]


def reasons(*places: Path) -> dict[str, str]:
    found = gather(map(str, places))
    _, copies = make_boards(found.runs, draws=200)
    return {Path(one.name).name: one.reason for one in [*found.left_out, *copies]}


def test_recipes_are_ranked_and_seeds_are_one_recipe(runs: Path) -> None:
    one = board(runs)
    assert [(row.rank, row.label, len(row.recipe.runs)) for row in one.rows] == [
        (1, "dreambooth lora.rank=32", 2),
        (2, "dreambooth lora.rank=4", 2),
    ]
    scores = [run.score for run in one.rows[0].recipe.runs]
    assert one.rows[0].score == pytest.approx(sum(scores) / 2)
    assert one.rows[0].interval.low < one.rows[0].score < one.rows[0].interval.high
    assert one.rows[0].recipe.gpu_seconds == 120.0  # one device, though the setting is "auto" there
    assert one.title == "mini on sample (8 styles, 40 prompts), judges: mini"


def test_a_board_of_one_style_says_what_it_cannot_tell(tmp_path: Path) -> None:
    metrics = make_metrics(styles=1, prompts=1)
    del metrics["styles"]["00"]["fid_without"]  # without its only style the set has no FID
    about = {"data": {"digest": "small", "styles": 1, "prompts": 1}}
    put_run(tmp_path / "one", metrics=metrics, about=about)
    found = board(tmp_path)
    assert found.title == "mini on sample (1 style, 1 prompt), judges: mini"
    assert found.rows[0].interval is None
    assert found.notes == [
        "all recipes have one seed: nothing tells the luck of training; run more seeds",
        "one style: there are no intervals, and what other styles would show cannot be told",
    ]


@pytest.mark.parametrize(
    ("listed", "known", "seconds"), [("auto", 2, 240.0), (["cuda:0", "cuda:1"], None, 240.0), ([], 1, 120.0)]
)
def test_seconds_count_every_device(tmp_path: Path, listed: Any, known: int | None, seconds: float) -> None:
    about = make_about()
    about["config"]["backend"]["devices"] = listed
    put_run(tmp_path / "one", about=about | ({} if known is None else {"devices": known}))
    assert board(tmp_path).rows[0].recipe.gpu_seconds == seconds


@pytest.mark.parametrize("name", ["dreambooth lora.rank=4", "day/base1", None])
def test_a_baseline_is_found_by_label_folder_and_hash(
    runs: Path, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    name = name or board(runs).rows[1].recipe.digest[:8]
    one = board(runs, baseline=name)
    assert one.baseline.label == "dreambooth lora.rank=4"
    comparison = one.rows[0].comparison
    assert comparison.difference.value == pytest.approx(one.rows[0].score - one.rows[1].score)
    assert comparison.words == "better than the baseline, on new styles too"
    assert one.rows[1].comparison is None


def test_a_baseline_that_one_board_has_several_of_is_compared_on_the_others(tmp_path: Path) -> None:
    """After a sweep on one set, and ordinary runs on another, `--baseline dreambooth` still means something there."""
    for number in range(7):
        put_run(tmp_path / f"swept{number}", 0.01 * number, rank=number + 1)
    for rank, method in ((4, "dreambooth"), (8, "average")):
        other = make_about(method, rank) | {"data": {"digest": "other", "styles": 8, "prompts": 40}}
        put_run(tmp_path / method, 0.01 * rank, about=other)
    boards, _ = make_boards(gather([str(tmp_path)]).runs, draws=200, baseline="dreambooth")
    swept, ordinary = boards
    assert swept.baseline is None
    assert "--baseline dreambooth means 7 recipes" in swept.notes[-1]
    assert swept.notes[-1].endswith(" or 2 more")
    assert ordinary.baseline is not None
    assert ordinary.baseline.recipe.method == "dreambooth"


def test_labels_have_three_digits_of_a_rate_and_stay_apart(tmp_path: Path) -> None:
    for number, rate in enumerate((0.00105560403, 0.00105560404, 7.003770014e-05)):
        about = make_about()
        about["config"]["optim"] = {"unet": {"lr": rate}}
        put_run(tmp_path / str(number), 0.01 * number, about=about)
    first, *twins = [row.label for row in board(tmp_path).rows]
    assert first == "dreambooth unet.lr=7e-5"
    assert [twin.split(" #")[0] for twin in twins] == ["dreambooth unet.lr=0.00106"] * 2
    assert len(set(twins)) == 2


def test_no_setting_is_cut_in_two_in_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for number, rate in enumerate((7.003770014e-05, 2.5915927e-06)):
        about = make_about(environment={"device": "cpu (4 cores)"})
        about["config"]["optim"] = {"unet": {"lr": 10 * rate}, "text_encoder": {"lr": rate, "betas": [rate]}}
        put_run(tmp_path / str(number), 0.01 * number, about=about)
    assert main([str(tmp_path), "--draws", "200"]) == 0
    shown = capsys.readouterr().out
    for words in ("text_encoder.lr=2.59e-6", "120 (CPU)", "CLIP-R"):
        assert words in shown


def test_p_values_are_corrected_for_all_comparisons_of_the_board(runs: Path) -> None:
    for rank in (7, 8):
        put_run(runs / f"rank{rank}", 0.001 * rank, rank=rank, seed=rank)
    compared = [
        row.comparison for row in board(runs, baseline="dreambooth lora.rank=4").rows if row.comparison
    ]
    assert len(compared) == 3
    assert [one.p_styles for one in compared] == holm([one.difference.p_styles for one in compared])
    assert [one.p_cells for one in compared] == holm([one.difference.p_cells for one in compared])
    assert compared[0].p_styles == pytest.approx(3 * compared[0].difference.p_styles)


def test_what_cannot_change_a_score_is_no_recipe() -> None:
    def recipe(**changes: Any) -> str:
        about = make_about()
        for key, value in changes.items():
            group, _, name = key.partition("__")
            about["config"][group] = value if not name else {**about["config"][group], name: value}
        return checked("x", make_metrics(), about, about["data"]).recipe

    same = recipe()
    assert recipe(train__seed=9, sampler__seed=3, quiet=False, tags=["a"], train__log_every=1) == same
    assert recipe(backend__device="cpu", tracker__name="wandb", data__root="elsewhere") == same
    assert recipe(train__steps=800) != same
    assert recipe(lora__rank=8) != same
    half = make_about()
    half["identity"]["dtype"] = "float32"
    assert checked("x", make_metrics(), half, half["data"]).recipe != same


def choosing(candidates: int) -> dict[str, Any]:
    """trial.json of a run whose judges chose each picture among candidates."""
    about = make_about()
    about["config"]["method"]["select"] = {"candidates": candidates}
    return about


def test_chosen_pictures_are_not_ranked_among_those_as_they_come(runs: Path, tmp_path: Path) -> None:
    put_run(runs / "four", 0.3, about=choosing(4))
    put_run(runs / "eight", 0.35, about=choosing(8))
    boards, _ = make_boards(gather([str(runs)]).runs, draws=200, baseline="dreambooth lora.rank=4")
    plain, chosen = boards
    assert [row.label for row in chosen.rows] == [f"dreambooth select.candidates={n}" for n in (8, 4)]
    assert chosen.title == "mini on sample (8 styles, 40 prompts), judges: mini, best of 4/8 by these judges"
    assert chosen.baseline is None
    assert "above those of pictures as they come" in chosen.notes[0]
    assert "best of" not in plain.title
    assert all("four" not in run.name for row in plain.rows for run in row.recipe.runs)
    out = tmp_path / "board.json"
    assert main([str(runs), "--draws", "200", "--json", str(out), "--markdown", str(tmp_path / "b.md")]) == 0
    written = json.loads(out.read_text())["boards"]
    assert [[row["candidates"] for row in one["rows"]] for one in written] == [[1, 1], [8, 4]]
    assert "on one of them the judges chose the pictures" in (tmp_path / "b.md").read_text()


def test_seeds_from_a_file_are_mentioned(runs: Path) -> None:
    about = make_about(rank=64)
    about["config"]["sampler"]["seeds"] = "chosen/seeds.json"
    put_run(runs / "seeded", 0.3, about=about)
    (note,) = (note for note in board(runs).notes if "sampler.seeds" in note)
    assert note.startswith("1 recipe draws from a file of seeds")


@pytest.mark.parametrize(
    ("metrics", "about"),
    [
        ({"judges": {**JUDGES, "sha256": {**JUDGES["sha256"], "dino": "f" * 64}}}, {}),  # type: ignore[dict-item]
        ({"judges": {**JUDGES, "settings": {"fid_scale": 2.0}}}, {}),
        ({"variants": {**VARIANTS, "histogram": "corrected"}}, {}),
        ({}, {"data": {"digest": "set-two", "styles": 8, "prompts": 40}}),
        ({}, {"identity": {"backend": "torch", "dtype": "bfloat16", "model": "folder:other"}}),
    ],
)
def test_other_judges_sets_and_models_are_boards_of_their_own(
    runs: Path, metrics: dict[str, Any], about: dict[str, Any]
) -> None:
    """Judges swapped under the same name too: digests count, not names."""
    put_run(runs / "other", 0.3, metrics=metrics, about=about)
    boards, _ = make_boards(gather([str(runs)]).runs, draws=200, baseline="dreambooth lora.rank=4")
    assert [len(one.rows) for one in boards] == [2, 1]
    assert boards[1].rows[0].comparison is None


def test_every_unfit_run_is_named_and_the_rest_is_ranked(runs: Path) -> None:
    put_run(runs / "partial", metrics={"complete": False, "missing": ["00/Cat", "01/Cat"]})
    put_run(runs / "failed", metrics={"failed_styles": ["03"]})
    put_run(runs / "stopped", metrics={"final_score": None, "partial_score": 0.4, "stopped": True})
    put_run(runs / "unscored", metrics={"final_score": None, "styles": {}, "judges": {"name": "none"}})
    undefined = {"severity": "error", "message": "FID needs two pictures on each side"}
    put_run(runs / "single", metrics={"final_score": None, "faults": [undefined]})
    put_run(runs / "edited", metrics={"final_score": 0.99})
    put_run(runs / "nameless", metrics={"judges": {"name": "mini"}})
    put_run(runs / "setless", about={"data": None})
    put_run(runs / "foreign", metrics={"styles": {"00": {"hist": "high"}}})
    put_run(runs / "corrupt")
    (runs / "corrupt" / "metrics.json").write_text('{"final_score": 0.4,')
    put_run(runs / "list")
    (runs / "list" / "metrics.json").write_text("[]")
    put_run(runs / "unfinished")
    (runs / "unfinished" / "metrics.json").unlink()
    put_run(runs / "crashed")
    (runs / "crashed" / "trial.json").unlink()
    (runs / "empty").mkdir()
    (runs / "notes.txt").write_text("x")
    found = reasons(runs, runs / "empty", runs / "nowhere", runs / "notes.txt")
    expected = {
        "partial": "2 pictures are missing",
        "failed": "styles failed: 03",
        "stopped": "stopped early by its sweep, 0.4000",
        "single": "FID needs two pictures",
        "unscored": "not scored",
        "edited": "is not what its own styles give",
        "nameless": "digests are not recorded",
        "setless": "which set",
        "foreign": "damaged or of another program",
        "corrupt": "metrics.json cannot be read",
        "list": "holds a list",
        "unfinished": "no metrics.json",
        "crashed": "no trial.json",
        "empty": "holds no run folder",
        "nowhere": "does not exist",
        "notes.txt": "is a file",
    }
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name]
    assert len(board(runs).rows) == 2


def test_what_an_earlier_trial_left_is_not_looked_at(runs: Path) -> None:
    put_run(runs / "day" / "base0" / "earlier" / "1", 0.4)
    put_run(runs / "day" / "base0" / "snapshots" / "step_10", 0.4)
    put_run(runs / "died at once" / "earlier" / "1", 0.4)
    assert board(runs).rows[0].label == "dreambooth lora.rank=32"
    assert reasons(runs) == {}


def test_the_same_seed_twice_is_one_witness(runs: Path) -> None:
    shutil.copytree(runs / "day" / "base0", runs / "day" / "copy")
    assert "no further witness" in next(iter(reasons(runs).values()))
    assert [len(row.recipe.runs) for row in board(runs).rows] == [2, 2]


def make_study(folder: Path, runs: Path) -> None:
    """A sweep's folder with one trial of every fate."""
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps({"study": "s", "storage": "study.db"}))
    study = optuna.create_study(
        study_name="s", storage=sqlite_url(folder / "study.db", create=True), direction="maximize"
    )
    record = {"run_dirs": [str(runs / "day" / "base0")]}
    study.add_trial(create_trial(value=0.4, user_attrs={RECORD: record}))
    stopped = put_run(folder / "1", 0.3)
    study.add_trial(create_trial(value=0.45, user_attrs={PRUNED: True, RECORD: {"run_dirs": [str(stopped)]}}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={REASON: "oom: out of memory"}))
    study.ask()
    study.add_trial(create_trial(value=0.4, user_attrs={RECORD: {"run_dirs": [str(folder / "gone")]}}))
    study.add_trial(create_trial(value=0.4))


def test_a_study_says_why_its_trials_are_left_out(runs: Path, tmp_path: Path) -> None:
    make_study(tmp_path / "sweep", runs)
    for place in (tmp_path / "sweep", tmp_path / "sweep" / "study.db"):
        found = gather([str(place)])
        assert [Path(run.name).name for run in found.runs] == ["base0"]
        words = ["pruned, estimated at 0.4500", "oom: out of memory", "not finished (running)", "is not here"]
        assert len(found.left_out) == 5
        for one, expected in zip(found.left_out, [*words, "no run folder is recorded"], strict=True):
            assert expected in one.reason


def test_studies_without_trials_or_that_are_none_are_named(tmp_path: Path) -> None:
    optuna.create_study(study_name="s", storage=sqlite_url(tmp_path / "empty.db", create=True))
    (tmp_path / "broken.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    found = gather([str(tmp_path / "empty.db"), str(tmp_path / "broken.db")])
    assert found.left_out[0].reason == "has no trials"
    assert "cannot be read" in found.left_out[1].reason


def mirrored(name: str, record: object, state: str = "finished") -> Any:
    """A run as `wandb.Api` shows it."""
    summary = {} if record is None else {"jdx_record": record}
    return SimpleNamespace(path=["me", "jdx", name], state=state, summary=summary)


def test_wandb_runs_are_ranked_with_the_folders_and_not_twice(runs: Path) -> None:
    found = gather([str(runs)])
    there = json.loads((runs / "day" / "base0" / "trial.json").read_text())
    same = json.dumps({"metrics": make_metrics(0.0, 0), "about": there})
    new = json.dumps({"metrics": make_metrics(0.2, 5), "about": make_about("styleid", rank=7, seed=5)})
    api = SimpleNamespace(
        runs=lambda project: [
            mirrored("same", same),
            mirrored("new", new),
            mirrored("torn", "{"),
            mirrored("other", None),
            mirrored("going", None, "running"),
        ]
    )
    gather_wandb("me/jdx", found, api)
    boards, copies = make_boards(found.runs, draws=200)
    assert boards[0].rows[0].label == "styleid"
    assert [one.name for one in copies] == ["W&B me/jdx/same"]
    assert [one.name for one in found.left_out] == [
        f"W&B me/jdx/{name}" for name in ("torn", "other", "going")
    ]


def test_an_unreachable_wandb_leaves_the_folders_ranked(runs: Path) -> None:
    def fail(project: str) -> None:
        raise ConnectionError("no route")

    found = gather([str(runs)])
    gather_wandb("me/jdx", found, SimpleNamespace(runs=fail))
    assert len(found.runs) == 4
    assert found.left_out[0].reason == "cannot be read (ConnectionError: no route)"


def test_a_run_that_does_not_name_its_set_is_known_by_its_references(runs: Path, tmp_path: Path) -> None:
    for rank, name in enumerate(("one", "two")):
        folder = put_run(tmp_path / name, rank=rank, about={"data": None})
        (tmp_path / "ref.png").write_bytes(b"picture")
        styles = json.loads((folder / "metrics.json").read_text())["styles"]
        paths = {style: [str(tmp_path / "ref.png")] for style in styles}
        (folder / "references.json").write_text(json.dumps(paths))
    assert len(board(tmp_path / "one", tmp_path / "two").rows) == 2


# --- published scores ----------------------------------------------------------------------------------------------


def test_published_scores_follow_the_formula_where_all_is_known() -> None:
    rows = published.published()
    assert {row.set for row in rows} == {"A", "B"}
    assert max(row.score for row in rows if row.set == "B") == 0.4823
    assert all(row.source and row.scored_by in {"contest server", "own scorer", "not stated"} for row in rows)
    for row in rows:
        if row.metrics:
            assert final_score(**dict(row.metrics)) == pytest.approx(row.score, abs=6e-5)


@pytest.mark.parametrize(("styles", "prompts", "count"), [(15, 25, 10), (28, 25, 9), (15, 24, 0), (8, 25, 0)])
def test_published_scores_stand_beside_the_contests_judges_and_sets_only(
    styles: int, prompts: int, count: int
) -> None:
    official = {role: spec.sha256 or "0" * 64 for role, spec in challenge_judges().items()}
    judges = {"name": "challenge", "sha256": official}

    def rows(**changes: Any) -> int:
        metrics = {**make_metrics(styles=styles, prompts=prompts), "judges": judges, **changes}
        about = make_about()
        return len(published.reported_for(checked("x", metrics, about, about["data"])))

    assert rows() == count
    assert rows(judges={"name": "challenge", "sha256": {**official, "fid": "1" * 64}}) == 0
    assert rows(judges={"name": "mine", "sha256": official}) == 0
    assert rows(variants={**VARIANTS, "fid_resize": "antialias"}) == 0


@pytest.mark.parametrize("baseline", [[], ["--baseline", "dreambooth"]])
def test_reported_rows_stand_in_every_output_marked_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], baseline: list[str]
) -> None:
    official = {role: spec.sha256 or "0" * 64 for role, spec in challenge_judges().items()}
    metrics = {**make_metrics(styles=28, prompts=25), "judges": {"name": "challenge", "sha256": official}}
    put_run(tmp_path / "run", metrics=metrics)
    files = {kind: tmp_path / f"board.{kind}" for kind in ("csv", "json", "markdown", "html")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    assert main([str(tmp_path / "run"), *baseline, "--draws", "100", *flags]) == 0
    assert "0.4823" in capsys.readouterr().out
    table = [line for line in files["markdown"].read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert sum("reported (contest server)" in line for line in table) == 6
    assert files["html"].read_text().count('class="reported"') == 9
    with files["csv"].open(newline="") as file:
        assert [line["reported"] for line in csv.DictReader(file)] == ["False", *["True"] * 9]
    rows = json.loads(files["json"].read_text())["boards"][0]["reported"]
    assert rows[0]["final_score"] == 0.4823
    assert all(row["source"] for row in rows)


# --- the command ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Texts and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_the_command_writes_the_same_numbers_everywhere(
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    put_run(runs / "evil", 0.2, rank=7, method="<b>|x|</b>")
    files = {kind: tmp_path / f"board.{kind}" for kind in ("csv", "json", "markdown", "html")}
    flags = [word for kind, path in files.items() for word in (f"--{kind}", str(path))]
    command = [str(runs), "--baseline", "dreambooth lora.rank=4", "--draws", "200", *flags]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "dreambooth lora.rank=32: +" in shown
    assert "on new styles too" in shown
    content = json.loads(files["json"].read_text())
    rows = content["boards"][0]["rows"]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    with files["csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["final_score"]) for line in lines] == [row["final_score"] for row in rows]
    assert lines[0]["method"] == "<b>|x|</b>"
    page = Page()
    page.feed(files["html"].read_text())
    assert page.links == []
    assert "<b>|x|</b>" in page.words
    score = f"{rows[1]['final_score']:.4f}"
    assert score in page.words
    assert score in shown
    text = files["markdown"].read_text()
    assert score in text
    assert "<b>" not in text.replace("\\<", "")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert main(command) == 0  # our own files are replaced


def test_files_of_others_are_left_alone(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n")
    command = [str(runs), "--csv", str(tmp_path / "mine.csv"), "--json", str(tmp_path / "no" / "x.json")]
    assert main([*command, "--html", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "3 faults" in errors
    assert "no leaderboard lies there" in errors
    assert (tmp_path / "mine.csv").read_text() == "a,b\n"


def test_wrong_arguments_and_nothing_to_rank(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs), "--baseline", "nobody"]) == 2
    assert "dreambooth lora.rank=32" in capsys.readouterr().err
    assert main([str(runs), "--baseline", "dreambooth"]) == 2
    assert "means 2 recipes" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 1
    assert "holds no run folder" in capsys.readouterr().out


def test_without_arguments_outputs_and_multirun_are_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 1
    assert "outputs: does not exist" in capsys.readouterr().out
    put_run(tmp_path / "multirun" / "s" / "0")
    assert main(["--draws", "100"]) == 0
    put_run(tmp_path / "outputs" / "day" / "time", rank=8)
    assert main(["--draws", "100", "--json", "x.json"]) == 0
    rows = json.loads((tmp_path / "x.json").read_text())["boards"][0]["rows"]
    assert sorted(row["runs"][0] for row in rows) == ["multirun/s/0", "outputs/day/time"]


def test_published_file_is_plain_yaml() -> None:
    assert len(yaml.safe_load(published.FILE.read_text())) == len(published.published())


def test_found_takes_a_folder_once(runs: Path) -> None:
    found = Found()
    for _ in range(2):
        found.take(runs / "day" / "base0")
    assert len(found.runs) == 1
