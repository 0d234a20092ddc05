"""Stage 5: the six metrics per style and overall, and the final score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.challenge import load_picture
from evaluation.errors import EvaluationError, JudgesError
from evaluation.formula import quality_part, style_part
from jdx import observer
from jdx.errors import BackendError, Fault
from jdx.schema import Evaluation, plain
from jdx.stages.bench import Bench

if TYPE_CHECKING:  # the scorer brings torch: imported when it is needed, so that a wrong path is told at once
    from evaluation import JudgeSpec, Scorer

NONE = "none"


def judges_of(settings: Evaluation) -> JudgeSpec:
    """The judge set of the config, with local weights where it points to some. Raises JudgesError."""
    from evaluation import JudgeSpec

    return JudgeSpec.named(settings.judges).pointed_at(plain(settings.networks))


def check_judges(settings: Evaluation) -> list[Fault]:
    """What keeps the judges from scoring, seen before a trial spends its hours; hub networks are fetched here."""
    if settings.judges == NONE:
        return []
    from evaluation.weights import locate

    try:
        locate(judges_of(settings))
    except JudgesError as error:
        remedy = "in a trial: evaluation.networks.dino=PATH and so on, or evaluation=none to skip the score"
        return [Fault("evaluation.judges", settings.judges, f"{error}\n      ({remedy})")]
    return []


class Scores:
    """The judges' marks of one trial, style by style as pictures arrive; `final` makes metrics.json of them."""

    def __init__(self, bench: Bench, told: bool = True) -> None:
        """told: whether tracker and observer hear of each style."""
        self._bench, self._told = bench, told
        self._scorer: Scorer | None = None
        self._placed: dict[str, Mapping[str, Path]] = {}

    def add(self, pictures: Mapping[str, Mapping[str, Path]]) -> None:
        """Score some styles' {prompt: picture};"""
        self._placed |= pictures
        if self._bench.config.evaluation.judges == NONE or not pictures:
            return
        progress, tracker = self._bench.progress, self._bench.tracker
        with _told(), progress.task("scoring", sum(map(len, pictures.values()))) as task:
            for style, some in pictures.items():
                # As training saw them: upright, RGB, 8 bits. Plain pictures keep their values exactly.
                references = [
                    load_picture(reference.path) for reference in self._bench.style(style).references
                ]
                numbers = _numbers(self._judges().add_style(style, some, references).to_json())
                if self._told:
                    tracker.log_style(style, numbers)
                    observer.current().style(style, self._bench.places[style], style_score(numbers))
                task.advance(len(some), style=style)

    def final(self) -> dict[str, Any]:
        """The content of metrics.json. Raises: BackendError when a metric is not finite."""
        judges = self._bench.config.evaluation.judges
        if judges == NONE or not self._placed:
            return {"final_score": None, "styles": {}, "complete": False, "judges": {"name": judges}}
        with _told():
            report = self._judges().result().to_json()
        wanted = {f"{s.id}/{p.text}" for s in self._bench.challenge.styles for p in s.prompts}
        there = {f"{style}/{prompt}" for style, some in self._placed.items() for prompt in some}
        missing = sorted({*report["missing"], *(wanted - there)})
        return report | {"missing": missing, "complete": report["complete"] and not missing}

    def _judges(self) -> Scorer:
        """Loaded when the first pictures come: training needs the memory before."""
        from evaluation import ScoreOptions, Scorer

        if self._scorer is None:
            settings = self._bench.config.evaluation
            options = ScoreOptions(
                histogram=settings.histogram,
                fid_resize=settings.fid_resize,
                device=self._bench.config.backend.device,
                batch_size=settings.batch_size,
            )
            self._scorer = Scorer(judges_of(settings), options)
        return self._scorer


def style_score(metrics: Mapping[str, float]) -> float:
    """The final formula for one style. FID cannot be told from a style's few pictures and counts as 0, its best."""
    style = style_part(metrics["dino"], metrics["hist"], metrics["lpips"])
    return style * quality_part(0.0, metrics["clip_iqa"], metrics["clip_r"])


@contextmanager
def _told() -> Iterator[None]:
    """The scorer's own errors as the trial's: said without a traceback, and this attempt failed."""
    try:
        yield
    except EvaluationError as error:
        raise BackendError(f"scoring: {error}") from error


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))}
