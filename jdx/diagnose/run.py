"""A run's diagnosis: which judges to ask, style by style, the worst style first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.errors import EvaluationError, JudgesError
from jdx.diagnose.checks import check_style
from jdx.diagnose.evidence import read_style, settings_of
from jdx.diagnose.findings import Diagnosis, StyleDiagnosis
from jdx.diagnose.spread import FALSE_ALARMS
from jdx.errors import BackendError
from jdx.report.run_folder import RunFolder
from jdx.stages.judges import NONE

if TYPE_CHECKING:
    from evaluation import Scorer


@dataclass(frozen=True)
class Options:
    """Who is asked. judges: as the run was scored where None; "none" asks nobody."""

    judges: str | None = None
    device: str = "auto"


def diagnose(
    run_dir: Path,
    options: Options | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Diagnosis:
    """Look for likely faults in a run's pictures. `progress(style, styles done, styles in all)`.

    Raises: FileNotFoundError when `run_dir` is no folder or holds no picture; BackendError when a judge gives NaN.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir} is not a folder; give a run's folder (it holds images/)")
    folder = RunFolder(run_dir)
    styles = [style for style in folder.styles() if folder.pictures(style)]
    if not styles:
        raise FileNotFoundError(
            f"{run_dir / 'images'}: no pictures to diagnose; give a folder that a trial made"
        )
    scorer, notes = _scorer(folder, options or Options())
    found = []
    for i, style in enumerate(styles):
        if progress is not None:
            progress(style, i, len(styles))
        found.append(_one(folder, style, scorer))
    name = scorer.judges.name if scorer is not None else NONE
    ordered = sorted(found, key=lambda s: (-s.faulty / max(1, s.pictures), s.id))
    return Diagnosis(run_dir.resolve().name, tuple(ordered), name, FALSE_ALARMS, tuple(notes))


def _one(folder: RunFolder, style: str, scorer: Scorer | None) -> StyleDiagnosis:
    try:
        return check_style(read_style(folder, style, scorer))
    except EvaluationError as error:
        raise BackendError(f"style {style}: {error}") from error


def _scorer(folder: RunFolder, options: Options) -> tuple[Scorer | None, list[str]]:
    """The judges that scored the run, or a sentence that says what is not looked at without them."""
    from evaluation import JudgeSpec, ScoreOptions, Scorer
    from jdx.schema import plain

    settings = settings_of(folder)
    name = options.judges or (settings.judges if settings is not None else None)
    without = "style, objects and copies are not looked at"
    if name is None:
        return None, [
            f"neither trial.json nor metrics.json says who scored this run: {without}; name the judges with --judges"
        ]
    if name == NONE:
        return None, [f"no judges: {without}"]
    variants = ScoreOptions(device=options.device, cache=None)
    # No cache: every reference's set of others would leave LPIPS features there that nobody asks for again.
    try:
        spec = JudgeSpec.named(name)
        if settings is not None and options.judges is None:
            spec = spec.pointed_at(plain(settings.networks))
            variants = ScoreOptions(
                settings.histogram, settings.fid_resize, options.device, settings.batch_size, cache=None
            )
        return Scorer(spec, variants), []
    except JudgesError as error:
        return None, [f"the judges {name!r} cannot be had, so {without}: {error}"]
