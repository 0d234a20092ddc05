"""One trial: the stages in order, and what they leave in the run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.challenge import ChallengeSet, DataError, read_challenge
from jdx import observer, runfolder
from jdx.backends import make_backend, settings_of
from jdx.backends.base import ModelSpec
from jdx.device_list import device_faults, device_of, devices_of
from jdx.digests import data_identity, model_identity
from jdx.disk import FULL, told
from jdx.errors import BackendError, ConfigError, Fault
from jdx.progress import Progress
from jdx.report.page import write_report
from jdx.runfolder import owned
from jdx.schema import TrialConfig, changed, plain
from jdx.shards import Crew, Failed
from jdx.stages.adapt import Adapters, adapt, adapter_specs
from jdx.stages.bench import Bench
from jdx.stages.coarse import train_coarse
from jdx.stages.encode import crop_of, encode
from jdx.stages.generate import Adapted, Seeds, fixed_seeds, seeds_of, start_faults
from jdx.stages.joint import JOINT, joined, joint_faults
from jdx.stages.judges import resting, say_device, say_unscorable
from jdx.stages.prior import class_pictures
from jdx.stages.score import Scores, check_judges
from jdx.stages.select import RECORD, draw_pictures, summary
from jdx.stages.stylise import reference_faults
from jdx.store import Store
from jdx.tracking import RunInfo, make_tracker
from jdx.tracking.record import tags_of
from jdx.words import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialResult:
    """What a trial ends with. `final_score` is None when nothing was scored."""

    run_dir: Path
    final_score: float | None
    metrics: Mapping[str, Any]
    failed: Mapping[str, tuple[int, str]]
    report: Path | None
    stopped: bool = False  # whether its observer ended it early; then there is no final score
    stages: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # stage -> made, reused


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
        resting(),
    ):
        run_dir.mkdir(parents=True, exist_ok=True)
        bench, seeds = open_bench(config, read_set(config) if challenge is None else challenge, progress)
        with owned(run_dir), Crew(devices_of(config)) as crew:
            bench.tracker.start(_run_info(bench, run_dir))
            try:
                return _stages(bench, run_dir, seeds, crew)
            finally:
                bench.tracker.close()
                bench.backend.close()


def read_set(config: TrialConfig) -> ChallengeSet:
    """Read and check the data set; the sample set is drawn at first use."""
    if config.data.name == "sample":
        from data.mini.sample import make_sample

        try:
            make_sample(Path(config.data.root))
        except OSError as error:
            if error.errno in FULL:
                raise
            remedy = f"{error}; give a folder that can be made and written" if error.errno else str(error)
            raise ConfigError([Fault("data.root", config.data.root, remedy)]) from None
    data = config.data
    return read_challenge(
        data.root, styles=data.styles, max_references=data.max_references, max_prompts=data.max_prompts
    )


def open_bench(config: TrialConfig, challenge: ChallengeSet, progress: Progress) -> tuple[Bench, Seeds]:
    """Make the tools and draw the seeds, and look for every fault that can be seen without loading weights."""
    faults = device_faults(config)
    bench = _tools(config, challenge, progress, "auto" if faults else device_of(config))
    faults += bench.backend.setup_faults()
    faults += [Fault("model.path", config.model.path, text) for text in bench.backend.check(bench.model)]
    faults += reference_faults(bench)
    faults += start_faults(bench)
    faults += joint_faults(bench)
    faults += check_judges(config.evaluation)
    faults += bench.wording.faults()
    try:
        bench.fixed_seeds = fixed_seeds(bench)
    except ConfigError as error:
        faults += error.faults
    if faults:
        raise ConfigError(faults)
    say_device(config)
    say_unscorable(config, challenge)
    for note in challenge.notes:
        log.warning("%s", note)
    return _identified(bench), seeds_of(bench)


def make_bench(config: TrialConfig, challenge: ChallengeSet, progress: Progress) -> Bench:
    """The tools of a trial that another process has opened: its faults are looked for and its notes said."""
    return _identified(replace(_tools(config, challenge, progress, device_of(config)), looked=[True]))


def _tools(config: TrialConfig, challenge: ChallengeSet, progress: Progress, device: str) -> Bench:
    backend = make_backend(config.backend.name, **settings_of(config, device))
    model = ModelSpec(config.model.path, config.model.revision, config.model.variant)
    tracker = make_tracker(config.tracker)
    return Bench(config, challenge, backend, Store(config.store.root), progress, tracker, model, {})


def _identified(bench: Bench) -> Bench:
    digest = model_identity(bench.model, bench.store.root / "digests.json")
    identity = {**bench.backend.identity(), "model": digest}
    return replace(bench, identity=identity)


def _run_info(bench: Bench, run_dir: Path) -> RunInfo:
    config = bench.config
    name = f"{config.method.name}-{run_dir.parent.name}-{run_dir.name}"
    swept = observer.current().run
    return RunInfo(
        name=name,
        run_dir=run_dir,
        config=plain(config)
        | {"jdx": {"identity": dict(bench.identity), "data": data_identity(bench.challenge)}},
        group=config.tracker.group or (swept.study if swept else None),
        tags=tags_of(plain(config)),
        id=swept.id if swept else None,
    )


@dataclass
class _Work:
    """What a trial has made so far, group by group; crew: the processes of its further devices."""

    crew: Crew
    folders: dict[str, dict[str, Path]] = field(default_factory=dict)  # stage -> style -> folder
    adapters: Adapters = field(default_factory=Adapters)
    watch: _Watch = field(default_factory=_Watch)
    snapshots: dict[int, float | None] = field(default_factory=dict)  # step -> final score there
    stopped: bool = False  # whether the observer ended the trial before all was done
    seeds: Seeds = field(default_factory=dict)  # of chosen pictures
    chosen: dict[str, Any] = field(default_factory=dict)  # style -> how each prompt's picture was chosen

    def add(self, stage: str, folders: Mapping[str, Path]) -> None:
        self.folders.setdefault(stage, {}).update(folders)


def _stages(bench: Bench, run_dir: Path, seeds: Seeds, crew: Crew) -> TrialResult:
    work = _Work(crew)
    runfolder.write_json(run_dir / "seeds.json", seeds)
    runfolder.put_references(run_dir, bench)
    train = bench.config.train
    for step in train.snapshots if train.score_snapshots and bench.config.method.train else ():
        if step < train.steps and not work.stopped:
            _score_snapshot(bench, run_dir, seeds, work, step)
    scores = Scores(bench)
    if not work.stopped:
        _groups(bench, run_dir, seeds, work, scores)
    return _finish(bench, run_dir, _metrics(bench, work, scores), work)


def _score_snapshot(bench: Bench, run_dir: Path, seeds: Seeds, work: _Work, step: int) -> None:
    """The set as it is after `step` training steps, which are the beginning of the trial's own training."""
    train = changed(bench.config.train, steps=step, snapshots=[], score_snapshots=False)
    early = replace(bench, config=changed(bench.config, train=train))
    scores, folder = Scores(early, told=False), run_dir / "snapshots" / f"step_{step}"
    part = _Work(work.crew, watch=work.watch)
    _groups(early, folder, seeds, part, scores)
    metrics = _metrics(early, part, scores)
    runfolder.write_json(folder / "metrics.json", metrics)
    # Without a style that has stopped a score is of another set: as at the trial's end, it is not told.
    score = None if part.adapters.failed else metrics["final_score"]
    work.snapshots[step], work.stopped = score, part.stopped
    if score is not None:
        observer.current().snapshot(step, score)
    work.stopped |= observer.current().stopping()


def _groups(bench: Bench, run_dir: Path, seeds: Seeds, work: _Work, scores: Scores) -> None:
    """The styles in groups from training to score; between two groups the trial's observer may end it."""
    watcher = observer.current()
    order = list(watcher.order(bench.challenge.ids))
    size = bench.config.group_size or len(order)
    joint = _trained(bench, run_dir, work) if bench.config.lora.joint else None  # needs all styles at once
    for start in range(0, len(order), size):
        if start and watcher.stopping():
            work.stopped = True
            return
        part = bench.part(_shared(bench, order[start : start + size], seeds, work))
        if not part.challenge.styles:
            continue
        _group(part, joint or _trained(part, run_dir, work), run_dir, seeds, work, scores)
    failed = work.adapters.failed
    if failed and (not work.adapters.steps or all(style in failed for style in order)):
        reasons = "; ".join(f"{s}: {why} (step {n})" for s, (n, why) in failed.items())
        remedy = "Try lower rates: optim.unet.lr, or of whatever else is trained."
        raise BackendError(f"training stopped for every style: {reasons}. {remedy}")


def _shared(bench: Bench, styles: list[str], seeds: Seeds, work: _Work) -> list[str]:
    """Let further devices make their share of some styles; returns the styles whose training did not stop."""
    with work.watch("shards"):
        stopped = work.crew.make(bench, styles, seeds, make_pictures)
    work.adapters.failed |= stopped
    return [style for style in styles if style not in stopped]


def _trained(bench: Bench, run_dir: Path, work: _Work) -> Adapters:
    """The adapters of these styles, put into the run folder."""
    adapters = _adapters(bench, work)
    work.adapters.add(adapters)
    runfolder.put_adapters(run_dir, adapters)
    runfolder.put_losses(run_dir, work.adapters)
    return adapters


def _group(
    bench: Bench, adapters: Adapters, run_dir: Path, seeds: Seeds, work: _Work, scores: Scores
) -> None:
    watch = work.watch
    drawn = draw_pictures(bench, _drawn_styles(bench, adapters), seeds, watch)
    for stage, folders in drawn.stages.items():
        work.add(stage, folders)
    runfolder.put_pictures(run_dir, drawn.content, "content")
    placed = runfolder.put_pictures(run_dir, drawn.final, size=bench.config.sampler.output_resolution)
    if drawn.chosen:
        work.seeds |= drawn.seeds
        work.chosen |= drawn.chosen
        runfolder.write_json(run_dir / "seeds.json", {**seeds, **work.seeds})
        runfolder.write_json(run_dir / RECORD, {**summary(bench), "styles": work.chosen})
    with watch("score"):
        scores.add(placed)


def make_pictures(bench: Bench, styles: Collection[str], seeds: Seeds) -> Failed:
    """Everything up to the pictures of some styles, into the store; returns those whose training stopped."""
    part = bench.part(styles)
    adapters = _adapters(bench if bench.config.lora.joint else part, _Work(Crew([])))
    draw_pictures(part, _drawn_styles(part, adapters), seeds, _Watch())
    return adapters.failed


def _metrics(bench: Bench, work: _Work, scores: Scores) -> dict[str, Any]:
    """metrics.json. A trial that was ended early has no final score: its styles are not the set."""
    metrics = scores.final()
    metrics["failed_styles"] = sorted(work.adapters.failed)
    if work.stopped:
        metrics |= {"partial_score": metrics["final_score"], "final_score": None, "stopped": True}
    if bench.config.method.select.candidates > 1:
        metrics["selection"] = summary(bench)
    if work.snapshots:
        metrics["snapshots"] = {str(step): score for step, score in work.snapshots.items()}
    return metrics


def _adapters(bench: Bench, work: _Work) -> Adapters:
    """Stages 0 to 2; nothing to do for a method that trains nothing."""
    if not bench.config.method.train:
        return Adapters()
    watch = work.watch
    with watch("prior"):
        prior = class_pictures(bench)
    crop = crop_of(bench)
    centre = replace(crop, scale=1.0, random=False, variants=1, flip=0.0, rotation=0.0, seed=0)
    with watch("encode"):
        references = {style.id: [ref.path for ref in style.references] for style in bench.challenge.styles}
        moments = encode(bench, references, crop)
        work.add("encode", moments)
        by_word = encode(bench, prior.pictures, centre)
        prior_moments = {
            style: tuple(by_word[word] for word in words) for style, words in prior.words.items()
        }
        # An enhancer sees the references as they are, whatever views training cuts from them.
        whole = encode(bench, references, centre) if bench.config.method.enhancer.enabled else {}
    with watch("train"):
        specs = adapter_specs(bench, prior.captions)
        if bench.config.lora.joint:
            specs, prior_moments = joined(specs, prior_moments)
        adapters = adapt(bench, specs, moments, prior_moments, whole)
    blend = bench.config.method.blend
    if blend.enabled and blend.coarse.train:
        stopped = adapters.failed  # nothing is drawn of those; of a stopped joint adapter no style is
        going = [] if JOINT in stopped else [style for style in bench.challenge.ids if style not in stopped]
        with watch("coarse"):
            coarse = train_coarse(bench.part(going))
        adapters.coarse = {style: steps[max(steps)] for style, steps in coarse.steps.items()}
        adapters.failed |= coarse.failed
        work.add("coarse", adapters.coarse)
    work.add("train", {style: steps[max(steps)] for style, steps in adapters.steps.items()})
    for style, (step, reason) in adapters.failed.items():
        log.error("style %s stopped at step %d and is left out: %s", style, step, reason)
    return adapters


def _drawn_styles(bench: Bench, adapters: Adapters) -> dict[str, Adapted]:
    """Whose pictures are drawn, and with what: every style, without those whose training stopped."""
    if not bench.config.method.train:
        return {style: Adapted() for style in bench.challenge.ids}
    joint = adapters.steps.get(JOINT, {}) if bench.config.lora.joint else None
    found = {
        style: adapters.steps.get(style, {}) if joint is None else joint for style in bench.challenge.ids
    }
    return {
        style: Adapted(steps[max(steps)], adapters.coarse.get(style))
        for style, steps in found.items()
        if steps and style not in adapters.failed
    }


def _finish(bench: Bench, run_dir: Path, metrics: dict[str, Any], work: _Work) -> TrialResult:
    failed = work.adapters.failed
    runfolder.write_json(run_dir / "metrics.json", metrics)
    record = runfolder.record(bench, work.folders, failed, work.watch.seconds)
    runfolder.write_json(run_dir / "trial.json", record)
    report = _guarded("the report", lambda: write_report(run_dir))
    status = "stopped by the sweep" if work.stopped else "finished"
    status = f"{counted(len(failed), 'style')} stopped" if failed else status
    bench.tracker.finish(metrics=metrics, run_dir=run_dir, status=status)
    score, stages = metrics.get("final_score"), record["stages"]
    return TrialResult(run_dir, score, metrics, failed, report, work.stopped, stages)


def _guarded(what: str, make: Callable[[], Path]) -> Path | None:
    """A picture book that cannot be made is said and logged, but never costs a finished trial."""
    try:
        return make()
    except Exception:
        log.exception("%s could not be made; the numbers and pictures are in the run folder", what)
        return None


__all__ = ["DataError", "TrialResult", "run"]
