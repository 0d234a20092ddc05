"""`python -m sweeps.publish RUNS...`: send finished run folders and studies to Weights & Biases, as often as one likes.

A run keeps its id: the sweep's (study, trial, attempt), the one it was tracked under, or a hash of what it is. What was
published and has not changed since is skipped; published again, a run replaces itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from rich.console import Console

from jdx.files import write_text
from jdx.report.run_folder import RunFolder
from jdx.schema import Tracker
from jdx.tracking.base import RunInfo
from jdx.tracking.record import about, safe_id, tags_of
from jdx.words import counted
from sweeps.leaderboard.sources import folders_below, is_run, near, run_folders

MARK = "published.json"
"""In the run folder: what was published, where and how."""
TRACKED = re.compile(r"^(?:offline-)?run-\d{8}_\d{6}-(?P<id>.+)$")
"""W&B's folder of a run that was tracked while it ran."""
Result = Literal["online", "offline", "skipped", "failed"]


@dataclass(frozen=True)
class Target:
    """Where to, as the settings of `tracker`."""

    settings: Tracker
    again: bool = False  # also what was published before


class UnfitError(ValueError):
    """A run that cannot be published; the message says why."""


def publish(folder: Path, target: Target) -> Result:
    """Send one run folder. Raises: UnfitError when it holds no finished run."""
    from jdx.tracking.wandb_tracker import WandbTracker

    run = RunFolder(folder)
    try:
        told = about(folder)
    except (OSError, ValueError) as error:
        raise UnfitError(f"trial.json cannot be read ({error})") from error
    if not run.metrics or not isinstance(told.get("config"), Mapping):
        problem = next((text for text in run.problems if "metrics.json" in text), "there is no trial.json")
        raise UnfitError(f"not finished: {problem}")
    info = run_info(folder, told, target.settings.group)
    mark = _mark(folder, info, target.settings)
    if not target.again and _published(folder) == mark:
        return "skipped"
    tracker = WandbTracker(target.settings)
    tracker.start(info)
    try:
        for step, losses in _by_step(run).items():
            tracker.log_losses(step, losses)
        for style, numbers in run.style_scores().items():
            tracker.log_style(style, {k: v for k, v in numbers.items() if isinstance(v, int | float)})
        tracker.finish(metrics=run.metrics, run_dir=folder, status=_status(run.metrics))
    finally:
        tracker.close()
    if tracker.outcome is None:
        return "failed"
    write_text(folder / MARK, json.dumps({**mark, "sent": tracker.outcome}, indent=1) + "\n")
    return tracker.outcome


def run_info(folder: Path, told: Mapping[str, Any], group: str | None = None) -> RunInfo:
    """Who a finished run is; the same whenever it is asked, wherever the folder lies."""
    config, sweep = dict(told["config"]), told.get("sweep") or {}
    tags = tags_of(config)
    name = f"{tags[0]}-{folder.absolute().parent.name}-{folder.absolute().name}"
    return RunInfo(
        name=name,
        run_dir=folder,
        config=config | {"jdx": {key: told[key] for key in ("identity", "data") if key in told}},
        group=group or sweep.get("study"),
        tags=tags,
        id=safe_id(str(sweep["id"])) if sweep.get("id") else _tracked_id(folder) or _hashed_id(told),
    )


def _tracked_id(folder: Path) -> str | None:
    """The id under which the run was tracked while it ran (the last one, where there are several)."""
    there = sorted((folder / "wandb").glob("*run-*")) if (folder / "wandb").is_dir() else []
    matches = [match for path in there if path.is_dir() and (match := TRACKED.match(path.name))]
    return max(matches, key=lambda match: match[0].removeprefix("offline-"))["id"] if matches else None


def _hashed_id(told: Mapping[str, Any]) -> str:
    text = json.dumps([told.get("finished"), told["config"]], sort_keys=True, ensure_ascii=False)
    return f"run-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _mark(folder: Path, info: RunInfo, settings: Tracker) -> dict[str, Any]:
    digest = hashlib.sha256((folder / "metrics.json").read_bytes()).hexdigest()
    place = {"entity": settings.entity, "project": settings.project, "group": info.group}
    return {"id": info.id, **place, "metrics": digest}


def _published(folder: Path) -> dict[str, Any] | None:
    """What was published before; a damaged note counts as none, since publishing again does no harm."""
    try:
        known = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return {key: value for key, value in known.items() if key != "sent"}
    except (OSError, ValueError, AttributeError):
        return None


def _by_step(run: RunFolder) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = defaultdict(dict)
    for style, points in run.losses.items():
        for step, loss in points:
            steps[int(step)][style] = loss
    return dict(sorted(steps.items()))


def _status(metrics: Mapping[str, Any]) -> str:
    """As the trial told it to its own tracker."""
    failed = metrics.get("failed_styles") or []
    if failed:
        return f"{counted(len(failed), 'style')} stopped"
    return "stopped by the sweep" if metrics.get("stopped") else "finished"


def found(places: Iterable[str]) -> Iterator[tuple[str, Path | str]]:
    """(name, run folder) of every run in folders, sweep folders, databases; or (name, why there is none)."""
    seen: set[Path] = set()
    for place in places:
        folders: list[Path] = []
        path = Path(place).expanduser()
        if "://" in place or path.is_file():
            try:
                folders = run_folders(place)
            except ValueError as error:
                yield place, str(error)
                continue
        elif path.is_dir():
            folders = [folder for folder in folders_below(path) if is_run(folder)]
        else:
            yield place, "does not exist"
            continue
        if not folders:
            yield place, "holds no run folder"
        for folder in folders:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield near(folder), folder


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 all is there now, 1 something was left out or failed, 2 wrong arguments."""
    args = _parser().parse_args(arguments)
    chosen = {
        "name": "wandb",
        "project": args.project,
        "entity": args.entity,
        "group": args.group,
        "mode": args.mode,
        "log_adapters": args.adapters,
        "finish_timeout": args.timeout,
    }
    settings = TypeAdapter(Tracker).validate_json(json.dumps(chosen))
    console, target, left_out = Console(), Target(settings, args.again), 0
    for name, folder in found(args.runs):
        try:
            if isinstance(folder, str):
                raise UnfitError(folder)
            result: str = publish(folder, target)
        except UnfitError as error:
            result = f"left out: {error}"
        left_out += result not in {"online", "offline", "skipped"}
        words = {
            "online": "sent",
            "offline": f"recorded offline; send it with: wandb sync {name}/wandb/offline-run-*",
            "skipped": f"there already ({MARK}; --again sends it once more)",
            "failed": "not sent: see the warning above; the run folder is as it was",
        }
        console.print(f"{name}: {words.get(result, result)}", markup=False, highlight=False, soft_wrap=True)
    return 1 if left_out else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m sweeps.publish", description="Send finished runs to W&B.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUNS",
        help="run folders, folders that hold some, study.db files, storage URLs",
    )
    parser.add_argument("--project", default="jdx", help="W&B project (jdx)")
    parser.add_argument("--entity", help="W&B user or team; the key's own by default")
    parser.add_argument("--group", help="group of all these runs; their study by default")
    parser.add_argument(
        "--mode", choices=("auto", "online", "offline"), default="auto", help="as tracker.mode"
    )
    parser.add_argument("--adapters", action="store_true", help="send the adapters too")
    parser.add_argument(
        "--again", action="store_true", help="also what was published before and has not changed"
    )
    parser.add_argument("--timeout", type=_seconds, default=120.0, metavar="S", help="per run (120 s)")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
