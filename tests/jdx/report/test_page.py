"""The page: everything of the run on it, escaped, inlined, in order; what is missing is said."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from jdx.report import thumbs, write_report
from jdx.report.__main__ import main as report_command
from jdx.report.run_folder import RunFolder
from tests.data.sets import noise
from tests.jdx.run_folders import make_run, metrics

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Text, addresses and balance of a page, by Python's own parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.sources += [v for k in ("src", "data", "srcset", "poster") if (v := found.get(k))]
        self.links += [v for k in ("href", "data-full") if (v := found.get(k))]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


def page_of(run: Path) -> Page:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []  # every element is closed
    return page


def test_shows_the_run(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    for text in ("0.5121", "0.5642", "0.9076", "0.7791", "0.4287", "0.1202", "0.9307", "1.67", "0.7577"):
        assert text in page.text  # the numbers of metrics.json, rounded to four (FID: two) places
    for text in ("origami dog", "cow", "Ice cream", "torch", "2.15.0", "ab12"):
        assert text in page.text
    assert "python -m jdx.train lora.rank=32 'note=<i>x</i>'" in page.text
    assert "rank: 32" in page.text
    assert page.tags.count("polyline") == 3  # two styles and their mean
    assert page.tags.count("figure") == 2 * 3 + 2


def test_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = page_of(run)
    assert page.sources
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    raw = (run / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", raw.replace("http://www.w3.org", ""))
    first = Image.open(io.BytesIO(base64.b64decode(page.sources[0].partition(",")[2])))
    assert (first.format, first.size) == ("WEBP", (24, 24))  # small pictures are not enlarged
    full = [link for link in page.links if link.startswith("images/")]
    assert "images/00/Ice%20cream.png" in full
    assert "images/00/%3Cb%3EDog.png" in full


def test_texts_of_the_run_are_escaped(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<script>alert(1)<")
    raw = write_report(run).read_text(encoding="utf-8")
    for text in ("<b>Dog", "<i>x</i>", "<script>alert", "<x>.png"):
        assert text not in raw
    page = Page(raw)
    assert "<b>Dog" in page.text
    assert "<i>x</i>" in page.text
    assert page.tags.count("script") == 1


def test_command_writes_the_pages_that_it_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    assert report_command([str(run), str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr()
    assert said.out.strip() == str(run / "report.html")
    assert "nowhere" in said.err
    assert (run / "report.html").is_file()


def test_command_leaves_folders_alone_that_no_trial_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html").write_text("mine")
    assert report_command([str(tmp_path)]) == 2
    assert "no trial made this folder" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"


def test_faults_of_the_scorer_are_told_in_its_words(tmp_path: Path) -> None:
    text = write_report(make_run(tmp_path)).read_text()
    assert "<li>00/images/&lt;x&gt;.png was ignored</li>" in text


def test_weakest_style_comes_first(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    assert [link for link in page.links if link.startswith("#")] == ["#style-01", "#style-00"]
    # 0.2 · 0.1 + 0.4 · hist + 0.4 · (1 − 0.4), the contest's formula by hand
    assert page.text.index("0.420") < page.text.index("0.580")


def test_other_judges_are_no_challenge_scores(tmp_path: Path) -> None:
    assert "Not a challenge score" in page_of(make_run(tmp_path / "mini")).text
    assert "Not a challenge score" not in page_of(make_run(tmp_path / "full", judges="challenge")).text


def test_chosen_pictures_are_said_to_be(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert "Best of" not in page_of(run).text
    metrics = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(metrics | {"selection": {"candidates": 4}}))
    assert "Best of 4." in page_of(run).text


def test_incomplete_scores_are_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.json").write_text(json.dumps(metrics() | {"complete": False, "missing": ["00/Moon.png"]}))
    text = page_of(run).text
    assert "Incomplete." in text
    assert "00/Moon.png" in text


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("metrics.json", "no score yet"),
        ("losses.csv", "no loss curves"),
        ("references.json", "reference pictures are not shown"),
        (".hydra", "settings are not known"),
        ("images", "images/ is missing"),
    ],
)
def test_missing_pieces_are_said(tmp_path: Path, missing: str, said: str) -> None:
    run = make_run(tmp_path / "run")
    gone = run / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    if missing == "images":
        (run / "metrics.json").unlink()
        (run / "references.json").unlink()
    page = page_of(run)
    assert said in page.text
    assert "nan" not in page.text.lower().split()


def test_an_empty_folder_is_still_a_page(tmp_path: Path) -> None:
    text = page_of(tmp_path).text
    assert text.count("there is no") == 5  # metrics, references, losses, config, command
    assert "–" in text


@pytest.mark.parametrize("name", ["metrics.json", "references.json", ".hydra/overrides.yaml", "losses.csv"])
@pytest.mark.parametrize("content", [b"{'torn", b"[1, 2]", b"\xff\xfe", b"", b'{"styles": 3}', b"a,b\n1\n"])
def test_broken_files_do_not_stop_the_page(tmp_path: Path, name: str, content: bytes) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(content)
    page_of(run)


def test_numbers_that_are_none_are_dashes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.json").write_text(
        '{"final_score": NaN, "hist": null, "dino": true, "styles": {"00": {"hist": NaN}}}'
    )
    page = page_of(run)
    assert "nan" not in page.text.lower()
    assert page.text.count("–") >= 8


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "images/00/Cat.png").write_bytes(b"torn")
    (run / "refs/cow_.png").unlink()
    assert page_of(run).text.count("cannot be read") == 2


def test_torn_losses_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "losses.csv").open("a") as file:
        file.write("9,00\n10,00,nan,1\n11,0")
    folder = RunFolder(run)
    assert "2 lines" in " ".join(folder.problems)
    assert [step for step, _ in folder.losses["00"]] == list(range(1, 9))


def test_a_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json"):
        write_report(tmp_path / "nope")


def test_page_is_made_in_one_move(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = sorted(p.name for p in run.iterdir())
    write_report(run)
    assert sorted(p.name for p in run.iterdir()) == sorted([*before, "report.html"])


def test_thumbnails_keep_to_their_budget(tmp_path: Path) -> None:
    """15 styles of 25 pictures and 10 references stay below 15 MB, with the worst pictures there are."""
    budget = thumbs.picture_budget(15 * 35)
    path = tmp_path / "noise.png"
    noise(512, 1).save(path)
    address = thumbs.inline_webp(path, budget)
    assert address is not None
    assert 15 * 35 * len(address) < 14_500_000
    flat = tmp_path / "flat.png"
    Image.new("RGB", (700, 512), "red").save(flat)
    best = Image.open(
        io.BytesIO(base64.b64decode((thumbs.inline_webp(flat, budget) or "").partition(",")[2]))
    )
    assert max(best.size) == 512  # what compresses well is not shrunk further
