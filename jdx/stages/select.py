"""Stage 4b (optional): the best of several candidates per prompt, chosen by the judges that score the trial.

Every candidate is an ordinary drawing with a seed of its own, scored like a result, so the store keeps both by what
they are: another weight draws nothing, and more candidates draw only the further ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.report import PictureScore
from jdx.digests import file_digest
from jdx.schema import Select, plain
from jdx.stages.bench import Bench, Publish, make
from jdx.stages.generate import Adapted, Seeds, candidate_seeds, generate
from jdx.stages.score import Panel, marks
from jdx.stages.stylise import stylise

VERSION = 2
STAGE = "select"
CONTENT = "content"
RECORD = "selection.json"

Watch = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Pictures:
    """What is drawn for some styles: folders of PNGs by style, their seeds, and how they were chosen.

    content: the pictures before StyleID, empty without it. chosen: {style: {prompt: record}}, empty without choice.
    stages: every folder used, by stage, for the record of the run.
    """

    final: Mapping[str, Path]
    content: Mapping[str, Path]
    seeds: Seeds
    chosen: Mapping[str, Any]
    stages: Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class _Candidate:
    """One drawing of one style's prompts (later ones lack those with a fixed seed)."""

    seeds: Mapping[str, int]
    content: Path
    judged: Path


def draw_pictures(bench: Bench, drawn: Mapping[str, Adapted], seeds: Seeds, watch: Watch) -> Pictures:
    """Draw, choose among and redraw the pictures of some styles: {style: the adapters it is drawn with}.

    watch(stage): a block whose time is noted.
    """
    select, restyled = bench.config.method.select, bench.config.method.styleid.enabled
    if select.candidates == 1:
        content = _draw(bench, drawn, seeds, watch)
        final = _redraw(bench, content, watch) if restyled else content
        stages = {"generate": content} | ({"stylise": final} if restyled else {})
        return Pictures(final, content if restyled else {}, seeds, {}, stages)
    candidates = _candidates(bench, drawn, seeds, watch)
    with watch(STAGE):
        folders = choose(bench, candidates)
    records = {
        style: json.loads((folder / RECORD).read_text(encoding="utf-8")) for style, folder in folders.items()
    }
    chosen = {style: {prompt: one["seed"] for prompt, one in some.items()} for style, some in records.items()}
    if not restyled:
        return Pictures(folders, {}, chosen, records, {STAGE: folders})
    if select.on == "final":
        before = {style: folder / CONTENT for style, folder in folders.items()}
        return Pictures(folders, before, chosen, records, {STAGE: folders})
    final = _redraw(bench, folders, watch)
    return Pictures(final, folders, chosen, records, {STAGE: folders, "stylise": final})


def _draw(bench: Bench, drawn: Mapping[str, Adapted], seeds: Seeds, watch: Watch) -> dict[str, Path]:
    with watch("generate"):
        return generate(bench, drawn, seeds)


def _redraw(bench: Bench, content: Mapping[str, Path], watch: Watch) -> dict[str, Path]:
    with watch("stylise"):
        return stylise(bench, content)


def _candidates(
    bench: Bench, drawn: Mapping[str, Adapted], seeds: Seeds, watch: Watch
) -> dict[str, list[_Candidate]]:
    """{style: its candidates}; the first are the pictures of a trial without choice."""
    method = bench.config.method
    found: dict[str, list[_Candidate]] = {style: [] for style in drawn}
    for number in range(method.select.candidates):
        some = candidate_seeds(bench, number) if number else seeds
        content = _draw(bench, drawn, some, watch)
        restyled = method.styleid.enabled and method.select.on == "final"
        judged = _redraw(bench, content, watch) if restyled else content
        for style in content:
            found[style].append(_Candidate(some[style], content[style], judged[style]))
    return found


def choose(bench: Bench, candidates: Mapping[str, Sequence[_Candidate]]) -> dict[str, Path]:
    """{style: folder with the best picture of each prompt, selection.json and perhaps content/}."""
    weights = bench.config.method.select
    contents = {style: _content(bench, style, some) for style, some in candidates.items()}

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        with bench.progress.task("choosing", sum(len(candidates[style]) for style in styles)) as task:
            for number, style in enumerate(styles):
                scores = []
                for one in candidates[style]:
                    scores.append(marks(bench, style, _files(one, one.judged)).score.pictures)
                    task.advance(1, style=style)
                _write(work / str(number), weights, candidates[style], scores)
                publish(style, work / str(number))

    return make(bench, STAGE, VERSION, contents, build, model=False)


def worth(score: PictureScore, weights: Select) -> float:
    """What a candidate is chosen by: style_weight · its style part + text_weight · ½ (CLIP-R's hit + probability)."""
    return weights.style_weight * score.style_part + weights.text_weight * text_part(score)


def text_part(score: PictureScore) -> float:
    """½ (hit + probability): the hit is what the contest counts, the probability orders pictures beyond it."""
    return 0.5 * (float(score.clip_r_hit) + score.clip_r_probability)


def _content(bench: Bench, style: str, candidates: Sequence[_Candidate]) -> dict[str, Any]:
    """What a choice depends on: the candidates' pictures, the references, who judges, and how it is weighed."""
    weights = bench.config.method.select
    references = sorted(file_digest(reference.path) for reference in bench.style(style).references)
    pictures = [
        [
            [prompt, seed, *(file_digest(folder / f"{prompt}.png") for folder in (one.judged, one.content))]
            for prompt, seed in one.seeds.items()
        ]
        for one in candidates
    ]
    scale = [weights.style_weight, weights.text_weight]
    return {"pictures": pictures, "references": references, "weights": scale, **Panel.of(bench).key}


def _files(one: _Candidate, folder: Path) -> dict[str, Path]:
    return {prompt: folder / f"{prompt}.png" for prompt in one.seeds}


def _write(
    folder: Path,
    weights: Select,
    candidates: Sequence[_Candidate],
    scores: Sequence[Mapping[str, PictureScore]],
) -> None:
    """The chosen pictures, and every candidate's numbers; of equals the first is taken."""
    folder.mkdir()
    records: dict[str, Any] = {}
    for prompt in candidates[0].seeds:
        rows = [
            (number, one, score[prompt])
            for number, (one, score) in enumerate(zip(candidates, scores, strict=True))
            if prompt in score
        ]
        best, one, _ = max(rows, key=lambda row: worth(row[2], weights))  # max keeps the first of equals
        shutil.copyfile(one.judged / f"{prompt}.png", folder / f"{prompt}.png")
        if one.content != one.judged:
            (folder / CONTENT).mkdir(exist_ok=True)
            shutil.copyfile(one.content / f"{prompt}.png", folder / CONTENT / f"{prompt}.png")
        numbers = [_row(other.seeds[prompt], score, weights) for _, other, score in rows]
        records[prompt] = {"candidate": best, "seed": one.seeds[prompt], "candidates": numbers}
    text = json.dumps(records, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _row(seed: int, score: PictureScore, weights: Select) -> dict[str, Any]:
    numbers = {name: value for name, value in score.to_json().items() if name != "clip_r_top5"}
    own = {"worth": worth(score, weights), "style_part": score.style_part, "text_part": text_part(score)}
    return {"seed": seed, **own, **numbers}


def summary(bench: Bench) -> dict[str, Any]:
    """How pictures were chosen, for metrics.json and selection.json."""
    return plain(bench.config.method.select) | {"judges": bench.config.evaluation.judges}
