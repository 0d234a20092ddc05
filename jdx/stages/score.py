"""Stage 5: the six metrics per style and overall, and the final score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.challenge import load_picture
from evaluation.errors import EvaluationError, JudgesError
from jdx.errors import BackendError, Fault
from jdx.schema import Evaluation, plain
from jdx.stages.bench import Bench

if TYPE_CHECKING:  # the scorer brings torch: imported when it is needed, so that a wrong path is told at once
    from evaluation import JudgeSpec

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


def score(bench: Bench, pictures: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """The content of metrics.json for {style: {prompt: picture}}; each style is told to the tracker when it is done."""
    from evaluation import ScoreOptions, Scorer

    settings = bench.config.evaluation
    if settings.judges == NONE:
        return {"final_score": None, "styles": {}, "complete": False, "judges": {"name": NONE}}
    options = ScoreOptions(
        histogram=settings.histogram,
        fid_resize=settings.fid_resize,
        device=bench.config.backend.device,
        batch_size=settings.batch_size,
    )
    with _told(), bench.progress.task("scoring", sum(map(len, pictures.values()))) as task:
        scorer = Scorer(judges_of(settings), options)
        for style, some in pictures.items():
            # As training saw them: upright, RGB, 8 bits. Plain pictures keep their values exactly.
            references = [load_picture(reference.path) for reference in bench.style(style).references]
            result = scorer.add_style(style, some, references)
            bench.tracker.log_style(style, _numbers(result.to_json()))
            task.advance(len(some), style=style)
        report = scorer.result().to_json()
    wanted = {f"{s.id}/{p.text}" for s in bench.challenge.styles for p in s.prompts}
    missing = sorted(wanted - {f"{style}/{prompt}" for style, some in pictures.items() for prompt in some})
    return report | {
        "missing": sorted({*report["missing"], *missing}),
        "complete": report["complete"] and not missing,
    }


@contextmanager
def _told() -> Iterator[None]:
    """The scorer's own errors as the trial's: said without a traceback, and this attempt failed."""
    try:
        yield
    except EvaluationError as error:
        raise BackendError(f"scoring: {error}") from error


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in scores.items() if isinstance(value, (int, float))}
