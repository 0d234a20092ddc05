"""One trial: the stages in order, and what they leave in the run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.challenge import ChallengeSet, DataError, read_challenge
from jdx import runfolder
from jdx.backends import make_backend
from jdx.backends.base import ModelSpec
from jdx.digests import model_identity
from jdx.disk import told
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import Progress
from jdx.report.page import write_report
from jdx.runfolder import owned
from jdx.schema import TrialConfig, plain
from jdx.stages.adapt import Adapters, adapt, adapter_specs
from jdx.stages.bench import Bench
from jdx.stages.encode import crop_of, encode
from jdx.stages.generate import Seeds, generate, seeds_of
from jdx.stages.prior import class_pictures
from jdx.stages.score import check_judges, score
from jdx.stages.stylise import reference_faults, stylise
from jdx.store import Store
from jdx.tracking import RunInfo, make_tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialResult:
    """What a trial ends with. `final_score` is None when nothing was scored."""

    run_dir: Path
    final_score: float | None
    metrics: Mapping[str, Any]
    failed: Mapping[str, tuple[int, str]]
    report: Path | None


@dataclass
class _Watch:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def run(config: TrialConfig, run_dir: Path, challenge: ChallengeSet | None = None) -> TrialResult:
    """Run one trial into `run_dir` (formats: docs/formats.md); challenge: what `read_set` gave, if it was asked.

    Raises: ConfigError, DataError (before any weight is loaded), BackendError. A style whose loss leaves the finite
    numbers is dropped and named in the result; the others go on. Results of an earlier trial in `run_dir` are moved
    to `earlier/N` there.
    """
    with (
        told({"store": Path(config.store.root).expanduser().absolute(), "run folder": run_dir}),
        Progress(quiet=config.quiet) as progress,
    ):
        run_dir.mkdir(parents=True, exist_ok=True)
        bench, seeds = _open(config, read_set(config) if challenge is None else challenge, progress)
        with owned(run_dir):
            bench.tracker.start(_run_info(config, run_dir))
            try:
                return _stages(bench, run_dir, seeds)
            finally:
                bench.tracker.close()


def read_set(config: TrialConfig) -> ChallengeSet:
    """Read and check the data set; the sample set is drawn at first use."""
    if config.data.name == "sample":
        from data.mini.sample import make_sample

        try:
            make_sample(Path(config.data.root))
        except FileExistsError as error:
            raise ConfigError([Fault("data.root", config.data.root, str(error))]) from None
    data = config.data
    return read_challenge(
        data.root, styles=data.styles, max_references=data.max_references, max_prompts=data.max_prompts
    )


def _open(config: TrialConfig, challenge: ChallengeSet, progress: Progress) -> tuple[Bench, Seeds]:
    """Make the tools and draw the seeds, and look for every fault that can be seen without loading weights."""
    settings = config.backend
    backend = make_backend(
        settings.name, device=settings.device, dtype=settings.dtype, threads=settings.threads
    )
    model = ModelSpec(config.model.path, config.model.revision, config.model.variant)
    store = Store(config.store.root)
    bench = Bench(config, challenge, backend, store, progress, make_tracker(config.tracker), model, {})
    faults = [Fault("model.path", config.model.path, text) for text in backend.check(model)]
    faults += reference_faults(bench)
    faults += check_judges(config.evaluation)
    seeds: Seeds = {}
    try:
        seeds = seeds_of(bench)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    identity = {
        "backend": settings.name,
        "dtype": backend.describe()["dtype"],
        "model": model_identity(model, store.root / "digests.json"),
    }
    for note in challenge.notes:
        log.warning("%s", note)
    return replace(bench, identity=identity), seeds


def _run_info(config: TrialConfig, run_dir: Path) -> RunInfo:
    tags = (config.method.name, config.model.name, f"judges:{config.evaluation.judges}", *config.tags)
    name = f"{config.method.name}-{run_dir.parent.name}-{run_dir.name}"
    return RunInfo(name=name, run_dir=run_dir, config=plain(config), group=config.tracker.group, tags=tags)


def _stages(bench: Bench, run_dir: Path, seeds: Seeds) -> TrialResult:
    watch = _Watch()
    folders: dict[str, Mapping[str, Path]] = {}
    runfolder.write_json(run_dir / "seeds.json", seeds)
    adapters = _adapters(bench, watch, folders)
    runfolder.put_adapters(run_dir, adapters)
    runfolder.put_losses(run_dir, adapters)
    runfolder.put_references(run_dir, bench)
    drawn = _drawn_styles(bench, adapters)
    with watch("generate"):
        folders["generate"] = generate(bench, drawn, seeds)
    pictures = folders["generate"]
    if bench.config.method.styleid.enabled:
        runfolder.put_pictures(run_dir, pictures, "content")
        with watch("stylise"):
            folders["stylise"] = pictures = stylise(bench, pictures)
    placed = runfolder.put_pictures(run_dir, pictures)
    with watch("score"):
        metrics = score(bench, placed)
    return _finish(bench, run_dir, metrics, folders, adapters, watch.seconds)


def _adapters(bench: Bench, watch: _Watch, folders: dict[str, Mapping[str, Path]]) -> Adapters:
    """Stages 0 to 2; nothing to do for a method that trains nothing."""
    if not bench.config.method.train:
        return Adapters()
    with watch("prior"):
        prior = class_pictures(bench)
    crop = crop_of(bench)
    centre = replace(crop, scale=1.0, random=False, variants=1, flip=0.0, seed=0)
    with watch("encode"):
        references = {style.id: [ref.path for ref in style.references] for style in bench.challenge.styles}
        folders["encode"] = moments = encode(bench, references, crop)
        prior_moments = encode(bench, {style: one.paths for style, one in prior.items()}, centre)
    with watch("train"):
        specs = adapter_specs(bench, {style: one.captions for style, one in prior.items()})
        adapters = adapt(bench, specs, moments, prior_moments)
    folders["train"] = {style: steps[max(steps)] for style, steps in adapters.steps.items()}
    for style, (step, reason) in adapters.failed.items():
        log.error("style %s stopped at step %d and is left out: %s", style, step, reason)
    return adapters


def _drawn_styles(bench: Bench, adapters: Adapters) -> dict[str, Path | None]:
    """Whose pictures are drawn, and with what: every style, without those whose training stopped."""
    if not bench.config.method.train:
        return {style.id: None for style in bench.challenge.styles}
    drawn: dict[str, Path | None] = {style: steps[max(steps)] for style, steps in adapters.steps.items()}
    if not drawn:
        reasons = "; ".join(
            f"{style}: {reason} (step {step})" for style, (step, reason) in adapters.failed.items()
        )
        raise BackendError(f"training stopped for every style: {reasons}. Try a lower optim.unet.lr.")
    return drawn


def _finish(
    bench: Bench,
    run_dir: Path,
    metrics: dict[str, Any],
    folders: Mapping[str, Mapping[str, Path]],
    adapters: Adapters,
    seconds: Mapping[str, float],
) -> TrialResult:
    metrics["failed_styles"] = sorted(adapters.failed)
    runfolder.write_json(run_dir / "metrics.json", metrics)
    runfolder.write_json(run_dir / "trial.json", runfolder.record(bench, folders, adapters.failed, seconds))
    report = _guarded("the report", lambda: write_report(run_dir))
    status = "finished" if not adapters.failed else f"{len(adapters.failed)} styles stopped"
    bench.tracker.finish(metrics=metrics, run_dir=run_dir, status=status)
    final = metrics.get("final_score")
    return TrialResult(run_dir, final, metrics, adapters.failed, report)


def _guarded(what: str, make: Callable[[], Path]) -> Path | None:
    """A picture book that cannot be made is said and logged, but never costs a finished trial."""
    try:
        return make()
    except Exception:
        log.exception("%s could not be made; the numbers and pictures are in the run folder", what)
        return None


__all__ = ["DataError", "TrialResult", "run"]
