"""Weights & Biases as a mirror: bounded, offline when it must be, never a reason for a trial to fail."""

from __future__ import annotations

import logging
import netrc
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import psutil

# W&B's own error reports go to a second server; when that hangs, the process waits 20 s for it at exit.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb

from jdx.report.run_folder import RunFolder
from jdx.report.sheet import style_sheet
from jdx.tracking.base import RunInfo, Tracker
from jdx.tracking.mailbox import Mailbox
from jdx.tracking.record import RECORD_KEY, about, record, safe_id, safe_tags

if TYPE_CHECKING:
    from jdx import schema

log = logging.getLogger(__name__)

Mode = Literal["online", "offline"]

GRACE = 5.0
"""Seconds granted over W&B's own time limits before its service is ended."""
SERVICE = 60.0
"""Seconds at least for beginning a run offline: no server is waited for, but W&B's service on a busy machine is."""
SHEET_SIZE = 1600
"""Pixels of width of the picture grids that are uploaded."""


class WandbTracker(Tracker):
    """Mirrors one run to W&B, online or into `run_dir/wandb` (send it later with `wandb sync`).

    `mode=auto` is online when an API key is configured, offline otherwise. All calls are made on one thread
    of their own; `close` waits for it at most `finish_timeout` and a few seconds, and what is left of
    `init_timeout` in a very short run.
    """

    def __init__(self, settings: schema.Tracker) -> None:
        self._settings = settings
        self._run: Any = None
        self._mailbox: Mailbox | None = None
        self._init_ends = 0.0
        self._exit_code = 1  # until `finish` says otherwise
        self._mode_now: Mode | None = None
        self.outcome: Mode | None = None
        """After `close`: how the whole run was recorded, or None if some of it was lost."""

    def start(self, run: RunInfo) -> None:
        self._mailbox = Mailbox("W&B", consequence=f"the record stays in {run.run_dir}")
        self._init_ends = time.monotonic() + self._settings.init_timeout + GRACE
        self._mailbox.post(lambda: self._open(run))

    def log_losses(self, step: int, losses: Mapping[str, float]) -> None:
        if not losses:
            return
        row = {f"train/loss/{style}": loss for style, loss in losses.items()}
        row |= {"train/loss": sum(losses.values()) / len(losses), "train/step": step}
        self._post(lambda: self._run.log(row))

    def log_style(self, style: str, metrics: Mapping[str, float]) -> None:
        row = {f"styles/{style}/{name}": value for name, value in metrics.items()}
        self._post(lambda: self._run.log(row))

    def finish(self, *, metrics: Mapping[str, object], run_dir: Path, status: str) -> None:
        self._post(lambda: self._record(metrics, about(run_dir), status))
        self._post(lambda: self._log_table(metrics))
        folder = RunFolder(run_dir)
        if self._settings.log_pictures:
            for style in folder.styles():
                self._post(lambda style=style: self._log_sheet(folder, style))
        if self._settings.log_adapters and (run_dir / "adapters").is_dir():
            self._post(lambda: self._log_adapters(run_dir))

    def close(self) -> None:
        if self._mailbox is None:
            return
        mailbox, self._mailbox = self._mailbox, None
        initialising = 0.0 if self._run else max(0.0, self._init_ends - time.monotonic())
        mailbox.close(initialising + self._settings.finish_timeout / 2)
        # On a second thread: a call that hangs (W&B sets no limit to some) must not keep the run from being
        # ended, for it is the end that writes the whole record to disk.
        ending = Mailbox("W&B", consequence="its service is ended", quiet=mailbox.broken)
        ending.post(self._end)
        if not ending.close(self._settings.finish_timeout / 2 + GRACE):
            end_service()
        if not (mailbox.broken or ending.broken):
            self.outcome = self._mode_now

    def _post(self, call: Any) -> None:
        if self._mailbox is not None:
            self._mailbox.post(call)

    def _open(self, run: RunInfo) -> None:
        mode = self._mode()
        try:
            self._run = self._init(run, mode)
        except Exception as error:  # W&B raises a dozen kinds; each means "not online"
            if mode == "offline":
                raise
            log.warning("W&B is not reachable (%s: %s); going on offline", type(error).__name__, error)
            mode = "offline"
            self._run = self._init(run, mode)
        self._mode_now = mode
        self._run.define_metric("train/step", hidden=True)
        self._run.define_metric("train/*", step_metric="train/step")
        self._run.define_metric("final_score", summary="max")

    def _mode(self) -> Mode:
        if self._settings.mode == "offline":
            return "offline"
        if has_api_key():
            return "online"
        if self._settings.mode == "online":
            log.warning("W&B has no API key (set WANDB_API_KEY or run `wandb login`); going on offline")
        return "offline"

    def _init(self, run: RunInfo, mode: Mode) -> Any:
        settings = self._settings
        patience = settings.init_timeout if mode == "online" else max(settings.init_timeout, SERVICE)
        return wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group or run.group,
            job_type=run.job_type,
            id=None if run.id is None else safe_id(run.id),
            name=run.name,
            tags=safe_tags(run.tags),
            config=dict(run.config),
            dir=str(run.run_dir),
            mode=mode,
            reinit="create_new",  # a warm worker runs many trials in one process
            settings=wandb.Settings(
                init_timeout=patience,
                finish_timeout=settings.finish_timeout / 2,  # the other half is for calls under way
                console="off",  # the run folder has the log; wrapping stdout would fight the live display
                silent=True,
            ),
        )

    def _record(self, metrics: Mapping[str, object], about: Mapping[str, Any], status: str) -> None:
        plain = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        self._run.log(plain)
        seconds = {f"seconds/{stage}": value for stage, value in (about.get("seconds") or {}).items()}
        whole = {RECORD_KEY: record(metrics, about), "status": status}
        self._run.summary.update({**plain, **seconds, **whole})
        self._exit_code = 0 if status == "finished" else 1

    def _log_table(self, metrics: Mapping[str, object]) -> None:
        # After the numbers: W&B makes an artifact of a table and asks its server first, without a time limit.
        styles = metrics.get("styles")
        if isinstance(styles, Mapping) and styles:
            self._run.log({"styles": _style_table(styles)})

    def _log_sheet(self, folder: RunFolder, style: str) -> None:
        sheet = style_sheet(folder, style, width=SHEET_SIZE)
        self._run.log({f"pictures/{style}": wandb.Image(sheet, caption=f"style {style}", file_type="jpg")})

    def _log_adapters(self, run_dir: Path) -> None:
        artifact = wandb.Artifact(f"adapters-{self._run.id}", type="adapters")
        artifact.add_dir(str(run_dir / "adapters"))
        self._run.log_artifact(artifact)

    def _end(self) -> None:
        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)


def end_service() -> None:
    """End the service process that W&B started for this process; the next `wandb.init` starts another.

    Without this a server that fell silent in mid-run holds up the exit for ever: W&B's exit hook waits for
    its service, the service for the server, and `finish_timeout` does not cover requests under way.
    """
    service = [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]
    for process in service:
        process.terminate()
    _, alive = psutil.wait_procs(service, timeout=2.0)
    for process in alive:
        process.kill()
    try:
        wandb.teardown()
    except (
        Exception,
        SystemExit,
    ) as error:  # it takes leave of a killed service by leaving the program with its code
        log.debug("W&B's teardown after its service was ended: %s: %s", type(error).__name__, error)


def has_api_key() -> bool:
    """Whether W&B has credentials for its server: environment, its settings files, or netrc. No network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = wandb.setup().settings
    if settings.api_key:
        return True
    return _netrc_has(urlsplit(settings.base_url).hostname or "")


def _netrc_has(host: str) -> bool:
    places = (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")
    for place in filter(None, places):
        path = Path(place).expanduser()
        try:
            if path.is_file():
                return host in netrc.netrc(path).hosts
        except (OSError, netrc.NetrcParseError) as error:
            log.warning("%s cannot be read (%s): taken as having no W&B key", path, error)
    return False


def _style_table(styles: Mapping[str, Any]) -> Any:
    # Columns of all styles: one may know a number that the first does not.
    every = (name for scores in styles.values() for name, v in scores.items() if isinstance(v, int | float))
    names = list(dict.fromkeys(every))
    rows = [[style, *(scores.get(name) for name in names)] for style, scores in sorted(styles.items())]
    return wandb.Table(columns=["style", *names], data=rows)
