"""A sweep from its command to its report: settings, space, study, controller."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import setup_globals
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from rich.console import Console

from jdx.disk import told
from jdx.errors import BackendError, ConfigError, Fault
from jdx.words import counted, typed
from launcher.base import JobSpec, RefusedError
from launcher.factory import Launch
from launcher.factory import build as build_launch
from launcher.folder import read_json, write_atomic
from sweeps import warm
from sweeps.compose import Composer, has_text_keys
from sweeps.content import Content, content_of
from sweeps.controller import Controller, Rules, TooManyFailuresError
from sweeps.job import TARGET, task_of
from sweeps.ledger import OWNER_STALE, Ledger, Ticket, open_study, owner_name
from sweeps.plan import PlanSampler, every_point
from sweeps.preflight import Preflight, configs, load_preflight, some_points
from sweeps.results import Report, write_report
from sweeps.samplers import LISTED, SAMPLERS, make_pruner, make_sampler, target_of
from sweeps.scores import mode_of
from sweeps.settings import Settings, build_settings, plain_settings
from sweeps.space import Space, Value, parse_space
from sweeps.storage import STUDY_FILE, Patience, anchored, open_storage
from sweeps.upstream import DIRECTION, Translation
from sweeps.view import make_view

log = logging.getLogger(__name__)

N_TRIALS = 20
"""Trials where neither the user nor a grid says how many; hydra-optuna-sweeper's number."""
LOCK = "controller.lock"
HEAD = "sweep.json"


@dataclass(frozen=True)
class Setting:
    """Everything of one sweep that is known before its study is opened."""

    settings: Settings
    space: Space
    points: Sequence[Mapping[str, Value]] | None  # of a grid; None = a sampler chooses
    content: Content
    name: str
    folder: Path
    config: DictConfig  # the sweep's own, as Hydra composed it
    composer: Composer
    task: Mapping[str, str]
    launch: Launch
    notes: Sequence[str] = ()  # what was read otherwise than it was written
    preflight: Preflight | None = None  # the application's own look before the first trial

    @property
    def n_trials(self) -> int:
        """The budget."""
        if self.points is not None:
            return min(self.settings.n_trials or len(self.points), len(self.points))
        return self.settings.n_trials or N_TRIALS

    @property
    def mode(self) -> Any:
        """How trials report."""
        return mode_of(make_pruner(self.settings.pruner))

    def overrides(self, params: Mapping[str, Value], seed: int | None) -> list[str]:
        """A point as the words of a command."""
        repetition = [] if seed is None else [f"{self.settings.seed_key}={seed}"]
        return [*self.space.words(params), *repetition]

    def _words(self, params: Mapping[str, Value], seed: int | None) -> list[str]:
        """A point as the composer wants it, which knows the fixed overrides."""
        return self.overrides(params, seed)[len(self.space.fixed) :]

    def looked(self) -> Setting:
        """The same, once the application has looked at some points and said what it has to say. Raises: as it does."""
        if self.preflight is None:
            return self
        seed = next(iter(self.settings.seeds), None)
        points = some_points(self.space, self.config)
        seen = configs(self.composer, points, lambda params: self._words(params, seed))
        said = self.preflight(seen, here=self.launch.is_here)
        return replace(self, notes=[*self.notes, *said], preflight=None)

    def spec(self, ticket: Ticket, seed: int | None, folder: Path, attempt: int) -> JobSpec:
        """The job of one attempt."""
        payload = {
            "config": self._job_config(ticket, seed),
            "task": dict(self.task),
            "study": self.name,
            "number": ticket.number,
            "seed": seed,
            "shuffle": self.mode == "paired",
            "metrics": [name for name in self.settings.objectives if name.startswith("metrics.")],
        }
        name = f"{self.name}-{ticket.number}" + ("" if seed is None else f"-s{seed}")
        return self.like(folder, payload, attempt, name)

    def like(self, folder: Path, payload: Mapping[str, Any], attempt: int = 0, name: str = "") -> JobSpec:
        """A job that asks for what all jobs of this sweep ask for."""
        job = self.launch.job
        timeout = self.settings.timeout or job.timeout
        return JobSpec(
            folder,
            TARGET,
            payload,
            attempt,
            gpus=job.gpus,
            cpus=job.cpus_per_trial,
            timeout=timeout,
            name=name,
        )

    def _job_config(self, ticket: Ticket, seed: int | None) -> Any:
        """The trial's configuration, composed here: what is in conf/ now is what all trials run on."""
        config = self.composer(self._words(ticket.params, seed))
        hydra = config["hydra"]
        hydra["job"] |= {"id": f"{self.name}_{ticket.number}", "num": ticket.number}
        hydra["sweep"]["dir"] = str(self.folder)
        hydra |= {"mode": RunMode.MULTIRUN.name, "sweeper": {}}
        if seed is not None:
            hydra["sweep"]["subdir"] = f"{hydra['sweep']['subdir']}/seed_{seed}"
        return config if has_text_keys(config) else OmegaConf.to_yaml(OmegaConf.create(config))


def sweep(
    given: Mapping[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
) -> Report:
    """Run a sweep to its end, or as far as it gets. Raises: ConfigError before anything starts, BackendError."""
    setup_globals()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    setting = prepare(given, arguments, context, task_function, config)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    if not (setting.folder / HEAD).exists():  # else once it is known whether a trial is left to run
        setting = setting.looked()
    with _alone(setting.folder), told({"sweep": setting.folder}):
        return _sweep(setting)


def prepare(
    given: Mapping[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
) -> Setting:
    """Check everything that can be checked before the study is opened. Raises: ConfigError."""
    settings = build_settings(given)
    space = parse_space(settings.params or {}, arguments, settings.custom_search_space)
    points = _points(settings, space, config)
    make_sampler(settings.sampler if points is None else "random")
    make_pruner(settings.pruner)
    preflight = load_preflight(settings.preflight)
    launch = _launch(config)
    base = context.config_loader.load_sweep_config(config, list(space.fixed))
    _try_point(context, config, space, settings)
    rest: dict[str, Sequence[Any]] = {
        "directions": settings.directions,
        "objectives": settings.objectives,
        "seeds": settings.seeds,
    }
    plain = OmegaConf.to_container(base, resolve=False, enum_to_str=True)
    assert isinstance(plain, dict)
    own = {str(key): value for key, value in plain.items() if key != "hydra"}
    searched_seed = [settings.seed_key] if settings.seeds else []
    content = content_of(space, own, [*settings.not_content, *searched_seed], rest)
    name = settings.study_name or f"{_kind(config, space)}-{content.digest}"
    with open_dict(config):
        config.hydra.sweeper.study_name = name
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    composer = Composer(context.config_loader, config, space.fixed)
    task = task_of(task_function)
    notes = _notes(given, settings, config)
    return Setting(
        settings, space, points, content, name, folder, config, composer, task, launch, notes, preflight
    )


def _notes(given: Mapping[str, Any], settings: Settings, config: DictConfig) -> list[str]:
    """What was read otherwise than it was written, for settings that were written for hydra-optuna-sweeper."""
    translation = Translation(plain_settings(given))
    typed = OmegaConf.select(config, "hydra.overrides.hydra") or []
    silent = not any(str(word).startswith("hydra.sweeper.direction=") for word in typed)
    unsaid = translation.is_foreign and silent and settings.directions == ["maximize"]
    return [*translation.notes, *([DIRECTION] if unsaid else [])]


def _points(settings: Settings, space: Space, config: DictConfig) -> list[dict[str, Value]] | None:
    """Every point: asked for by a sampler's name, or by a command that lists values and no number of trials."""
    target = target_of(settings.sampler, SAMPLERS, "hydra.sweeper.sampler")
    auto = isinstance(settings.sampler, Mapping) and settings.sampler.get("grid_when_finite")
    plain = auto and settings.n_trials is None and space.is_plain_grid and not settings.params
    if target == SAMPLERS["grid"] and space.hook is not None:
        remedy = "a space with conditions is no grid; hydra/sweeper/sampler=brute_force runs all its points"
        raise ConfigError([Fault("hydra.sweeper.sampler", "grid", remedy)], what="sweep")
    if not space.dimensions and space.hook is None and not plain:
        remedy = "nothing is searched: give hydra.sweeper.params, sweep=NAME, or lists such as lora.rank=4,8"
        raise ConfigError([Fault("hydra.sweeper.params", "", remedy)], what="sweep")
    if not (plain or target in LISTED):
        return None
    if settings.warm_start:
        remedy = "every point is run anyway; choose a sampler, such as hydra/sweeper/sampler=tpe"
        raise ConfigError([Fault("hydra.sweeper.warm_start", str(settings.warm_start), remedy)], what="sweep")
    if target == SAMPLERS["brute_force"]:
        seed = settings.sampler.get("seed") if isinstance(settings.sampler, Mapping) else None
        return every_point(space, config, seed)
    return space.combinations()


def _kind(config: DictConfig, space: Space) -> str:
    """The first half of a study's name: the ready space it is made from, or what it is."""
    chosen = OmegaConf.select(config, "hydra.runtime.choices.sweep")
    return str(chosen) if chosen else ("grid" if space.is_plain_grid else "sweep")


def _launch(config: DictConfig) -> Launch:
    """Where jobs run: the config's `launcher` group; an application without one gets the local pool."""
    group = OmegaConf.select(config, "launcher")
    plain = (
        OmegaConf.to_container(group, resolve=True) if isinstance(group, DictConfig) else {"name": "gpu_pool"}
    )
    assert isinstance(plain, dict)
    return build_launch({str(key): value for key, value in plain.items()})


def _try_point(context: HydraContext, config: DictConfig, space: Space, settings: Settings) -> None:
    """Compose one point: a misspelt key of the space is told now and not by every trial."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    params = space.suggest(study.ask(), config)
    seed = [f"{settings.seed_key}={one}" for one in settings.seeds[:1]]
    context.config_loader.load_sweep_config(config, [*space.words(params), *seed])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other controllers out of a sweep's folder. Raises: ConfigError with who is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise ConfigError(
            [Fault("hydra.sweep.dir", str(folder), f"{error.strerror}")], what="sweep"
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 4096, 0).decode(errors="replace").strip() or "unknown"
            remedy = f"another controller is running this sweep ({holder}); wait for it, or end it with Ctrl-C there"
            raise ConfigError([Fault("hydra.sweep.dir", str(folder), remedy)], what="sweep") from None
        who = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.ftruncate(fd, 0)
        os.pwrite(fd, who.encode(), 0)
        yield
    finally:
        os.close(fd)


def _sweep(setting: Setting) -> Report:
    settings, folder = setting.settings, setting.folder
    _check_folder(setting)
    patience = Patience(settings.storage_patience)
    storage = open_storage(settings.storage, folder, patience, settings.storage_engine)
    study = open_study(
        setting.name,
        storage,
        settings.directions,
        setting.content,
        sampler=make_sampler("random" if setting.points is not None else settings.sampler),
        pruner=make_pruner(settings.pruner),
        where=str(folder),
    )
    shared = settings.storage is not None and not settings.storage.startswith("sqlite")
    ledger = Ledger(
        study, storage, setting.space, n_trials=setting.n_trials, owner=owner_name(folder), shared=shared
    )
    if ledger.left() or ledger.is_running():  # a finished study only tells what it has found
        setting = setting.looked()
    _write_head(setting)  # not before: a command that is refused changes nothing here
    view = make_view(setting.name)
    view.start()
    try:
        warm.start(ledger, settings.warm_start, setting.content, settings.not_content, view.say)
        if setting.points is not None:
            study.sampler = PlanSampler(setting.points)
        _say_hello(setting, ledger, view.say)
        rules = Rules(
            settings.n_jobs,
            settings.retries,
            settings.max_failure_rate,
            tuple(settings.seeds),
            tuple(settings.objectives),
            setting.mode,
            setting.like(folder, {}),
        )
        controller = Controller(
            ledger, setting.launch.executor(), setting.spec, folder, rules, view, setting.config
        )
        patience.give_up = lambda: controller.interrupts > 1
        return _run(controller, setting, ledger)
    except RefusedError as error:
        remedy = (
            "with other settings of it (launcher.*) or another one (launcher=NAME) the same command goes on"
        )
        raise BackendError(f"the launcher cannot run the trials: {error}\n{remedy}") from error
    finally:
        view.close()


def _run(controller: Controller, setting: Setting, ledger: Ledger) -> Report:
    failure: TooManyFailuresError | None = None
    done = False
    try:
        done = controller.run()
    except TooManyFailuresError as error:
        failure = error
    _say_others(ledger, controller.view.say)
    controller.view.close()
    report = write_report(ledger, setting.folder, setting.name, _command(setting))
    _write_page(ledger, setting.folder)
    if failure is not None:
        raise BackendError(f"{failure}\nThe report is in {setting.folder}") from failure
    if not done:
        raise KeyboardInterrupt
    if not report.finished:
        raise BackendError(f"no trial finished; the reasons are above and in {setting.folder}")
    return report


def _say_others(ledger: Ledger, say: Callable[[str], None]) -> None:
    """The total is shared: this controller may have nothing left to begin while others still run theirs."""
    running = sum(trial.state == TrialState.RUNNING for trial in ledger.trials()) if ledger.shared else 0
    if running:
        minutes = f"{OWNER_STALE / 60:.0f} minutes"
        say(
            f"{running} trials run under other controllers; if those are silent for {minutes}, this command takes over"
        )


def _write_page(ledger: Ledger, folder: Path) -> None:
    """A page that cannot be made is said and logged, but never costs a finished sweep its results."""
    try:
        from sweeps.report.page import write_page  # plotly costs most of a second

        page = write_page(folder, ledger.study)
    except Exception:
        log.exception("the sweep's page could not be made; results.json has the numbers")
    else:
        Console().print(f"page {page}", markup=False, highlight=False, soft_wrap=True)


def _command(setting: Setting) -> Any:
    """(params, seed) -> the command that runs this point alone."""
    program = _program(setting.task)

    def command(params: Mapping[str, Value]) -> str:
        seed = setting.settings.seeds[0] if setting.settings.seeds else None
        return f"{program} {typed(setting.overrides(params, seed))}"

    return command


def _program(task: Mapping[str, str]) -> str:
    """How the application is started."""
    if task["module"] != "__main__":
        return f"python -m {task['module']}"
    return f"python {shlex.quote(task['file'])}"


def _check_folder(setting: Setting) -> None:
    """Two studies in one folder would take each other's trials for their own. Raises: ConfigError."""
    there = read_json(setting.folder / HEAD)
    if there and there.get("study") not in {None, setting.name}:
        remedy = (
            f"holds the sweep {there['study']}, and this is {setting.name}: give it a folder of its own, such as "
            f"hydra.sweep.dir='multirun/{setting.name}', or remove that one"
        )
        raise ConfigError([Fault("hydra.sweep.dir", str(setting.folder), remedy)])


def _write_head(setting: Setting) -> None:
    """What the sweep is, for people and programs that find its folder."""
    head = {
        "study": setting.name,
        "storage": anchored(setting.settings.storage) if setting.settings.storage else STUDY_FILE,
        "storage_engine": setting.settings.storage_engine,
        "n_trials": setting.n_trials,
        "command": f"{_program(setting.task)} {typed(sys.argv[1:])}",
        "content": setting.content.plain(),
    }
    write_atomic(setting.folder / HEAD, json.dumps(head, indent=1, ensure_ascii=False) + "\n")
    OmegaConf.save(OmegaConf.masked_copy(setting.config, "hydra"), setting.folder / "multirun.yaml")


def _say_hello(setting: Setting, ledger: Ledger, say: Any) -> None:
    for note in setting.notes:
        say(note)
    finished, failed = ledger.tally()
    what = f"{counted(setting.n_trials, 'trial')} over {', '.join(setting.space.dimensions) or setting.space.hook_name}"
    say(f"{what}; folder {setting.folder}")
    if finished + failed:
        say(
            f"going on: {finished} finished and {failed} failed before. To begin anew, give "
            f"hydra.sweeper.study_name=NAME or remove the folder"
        )
