"""The scorer of the 4th Jittor challenge, track 2: pictures in, numbers out. Needs nothing else of jdx."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.errors import EvaluationError as EvaluationError
    from evaluation.errors import FoldersError as FoldersError
    from evaluation.errors import JudgesError as JudgesError
    from evaluation.errors import ScoreError as ScoreError
    from evaluation.formula import final_score as final_score
    from evaluation.histogram import histogram_score as histogram_score
    from evaluation.judges import JudgeSpec as JudgeSpec
    from evaluation.jury import Judges as Judges
    from evaluation.jury import load_judges as load_judges
    from evaluation.marks import StyleMarks as StyleMarks
    from evaluation.marks import report_of as report_of
    from evaluation.report import ScoreReport as ScoreReport
    from evaluation.report import StyleScore as StyleScore
    from evaluation.scorer import ScoreOptions as ScoreOptions
    from evaluation.scorer import Scorer as Scorer
    from evaluation.scorer import score_folders as score_folders

# Where each public name lives: imported when asked for, so that the formula costs no torch.
_HOMES = {
    "EvaluationError": "errors",
    "FoldersError": "errors",
    "JudgesError": "errors",
    "ScoreError": "errors",
    "Judges": "jury",
    "load_judges": "jury",
    "final_score": "formula",
    "histogram_score": "histogram",
    "JudgeSpec": "judges",
    "StyleMarks": "marks",
    "report_of": "marks",
    "ScoreReport": "report",
    "StyleScore": "report",
    "ScoreOptions": "scorer",
    "Scorer": "scorer",
    "score_folders": "scorer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'evaluation' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"evaluation.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
