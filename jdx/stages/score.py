"""Stage 5: the six metrics per style and overall, and the final score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.challenge import load_picture
from evaluation.errors import EvaluationError, JudgesError
from evaluation.formula import quality_part, style_part
from jdx import observer
from jdx.beside import threads
from jdx.digests import file_digest
from jdx.errors import BackendError, Fault
from jdx.schema import Evaluation
from jdx.stages.bench import Bench, Publish, make
from jdx.stages.judges import NONE, awake, judges_of, seated

if TYPE_CHECKING:  # the scorer brings torch: imported when it is needed, so that a wrong path is told at once
    from evaluation import Scorer, StyleMarks

STAGE = "score"
VERSION = 1
READERS = 8
"""Threads that decode references."""


def check_judges(settings: Evaluation, *, fetch: bool = True) -> list[Fault]:
    """What keeps the judges from scoring, seen before a trial spends its hours.

    fetch: whether networks that are not here are fetched and all are read once, or what the hub has counts as there.
    """
    if settings.judges == NONE:
        return []
    from evaluation.weights import check, locate

    try:
        (locate if fetch else check)(judges_of(settings))
    except JudgesError as error:
        remedy = "in a trial: evaluation.networks.dino=PATH and so on, or evaluation=none to skip the score"
        return [Fault("evaluation.judges", settings.judges, f"{error}\n      ({remedy})")]
    return []


@dataclass(frozen=True)
class Panel:
    """The judges of one trial: who they are is known at once, loaded they are when the first picture comes."""

    bench: Bench
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, bench: Bench) -> Panel:
        """The trial's panel, made once. Raises: BackendError when a judge is gone since the trial began."""
        from evaluation.weights import identity

        if "panel" not in bench.kept:
            with told():
                bench.kept["panel"] = cls(bench, identity(judges_of(bench.config.evaluation)))
        panel: Panel = bench.kept["panel"]
        return panel

    @cached_property
    def key(self) -> dict[str, Any]:
        """Everything of the panel that can change a number."""
        from evaluation.report import versions

        settings = self.bench.config.evaluation
        variants = {"histogram": settings.histogram, "fid_resize": settings.fid_resize}
        return {"judges": self.identity, **variants, "versions": versions()}

    @property
    def scorer(self) -> Scorer:
        """Made when first asked for: training needs the memory before, and what is in the store needs no judge."""
        from evaluation import ScoreOptions, Scorer

        if "scorer" not in self.bench.kept:
            settings = self.bench.config.evaluation
            options = ScoreOptions(
                histogram=settings.histogram,
                fid_resize=settings.fid_resize,
                batch_size=settings.batch_size,
            )
            self.bench.kept["scorer"] = Scorer(seated(self.bench.config), options)
        awake()  # they rest while the coarse branch of further styles is trained
        scorer: Scorer = self.bench.kept["scorer"]
        return scorer


def marks(bench: Bench, style: str, pictures: Mapping[str, Path]) -> StyleMarks:
    """A style's marks for {prompt: picture}, from the store or from the judges.

    Kept by the content of the pictures, in whatever order and folder, the references, the judges and their options.
    """
    from evaluation import StyleMarks

    panel = Panel.of(bench)
    references = [reference.path for reference in bench.style(style).references]
    content = {
        "pictures": sorted([prompt, file_digest(path)] for prompt, path in pictures.items()),
        "references": sorted(map(file_digest, references)),
        **panel.key,
    }

    def build(styles: list[str], work: Path, publish: Publish) -> None:
        # As training saw them: upright, RGB, 8 bits. Plain pictures keep their values exactly.
        with ThreadPoolExecutor(threads(READERS)) as pool:
            loaded = list(pool.map(load_picture, references))
        found = panel.scorer.marks(style, pictures, loaded)
        found.write(work / "marks")
        publish(style, work / "marks")

    with told():
        return StyleMarks.read(make(bench, STAGE, VERSION, {style: content}, build, model=False)[style])


class Scores:
    """The judges' marks of one trial, style by style as pictures arrive; `final` makes metrics.json of them."""

    def __init__(self, bench: Bench, told: bool = True) -> None:
        """told: whether tracker and observer hear of each style."""
        self._bench, self._heard = bench, told
        self._marks: dict[str, StyleMarks] = {}
        self._placed: dict[str, Mapping[str, Path]] = {}

    def add(self, pictures: Mapping[str, Mapping[str, Path]]) -> None:
        """Score some styles' {prompt: picture};"""
        self._placed |= pictures
        if self._bench.config.evaluation.judges == NONE or not pictures:
            return
        progress, tracker = self._bench.progress, self._bench.tracker
        with progress.task("scoring", sum(map(len, pictures.values()))) as task:
            for style, some in pictures.items():
                self._marks[style] = marks(self._bench, style, some)
                numbers = _numbers(self._marks[style].score.to_json())
                if self._heard:
                    tracker.log_style(style, numbers)
                    observer.current().style(style, self._bench.places[style], style_score(numbers))
                task.advance(len(some), style=style)

    def final(self) -> dict[str, Any]:
        """The content of metrics.json. Raises: BackendError when a metric is not finite."""
        judges = self._bench.config.evaluation.judges
        if judges == NONE or not self._placed:
            return {"final_score": None, "styles": {}, "complete": False, "judges": {"name": judges}}
        from evaluation import report_of

        with told():
            report = report_of(self._marks).to_json()
        wanted = {f"{s.id}/{p.text}" for s in self._bench.challenge.styles for p in s.prompts}
        there = {f"{style}/{prompt}" for style, some in self._placed.items() for prompt in some}
        missing = sorted({*report["missing"], *(wanted - there)})
        return report | {"missing": missing, "complete": report["complete"] and not missing}


def style_score(metrics: Mapping[str, float]) -> float:
    """The final formula for one style. FID cannot be told from a style's few pictures and counts as 0, its best."""
    style = style_part(metrics["dino"], metrics["hist"], metrics["lpips"])
    return style * quality_part(0.0, metrics["clip_iqa"], metrics["clip_r"])


@contextmanager
def told() -> Iterator[None]:
    """The scorer's own errors as the trial's: said without a traceback, and this attempt failed."""
    try:
        yield
    except EvaluationError as error:
        raise BackendError(f"scoring: {error}") from error


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))}
