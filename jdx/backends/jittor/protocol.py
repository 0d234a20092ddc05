"""What the trial and the Jittor worker tell each other: jobs as JSON files, everything else as JSON lines.

An order is a line {"order": n, "folder": FOLDER, "out": OUT} on the worker's pipe of orders; FOLDER holds `job.json`
and what the job needs beside it. Answers are lines {"say": ..., ...} on a pipe of their own, the last one of an order
"result" or "error". Both ends import this module, so it needs the standard library only.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from jdx.backends.base import EncodeJob, GenerateJob, StyliseJob, TrainJob

VERSION = 1
JOB, NOISE = "job.json", "noise.safetensors"
Job = EncodeJob | TrainJob | GenerateJob | StyliseJob
KINDS: Mapping[str, type[Job]] = {
    "encode": EncodeJob,
    "train": TrainJob,
    "generate": GenerateJob,
    "stylise": StyliseJob,
}


def kind_of(job: Job) -> str:
    """The name of a job's kind."""
    return next(name for name, record in KINDS.items() if type(job) is record)


def write_job(folder: Path, job: Job) -> None:
    """Write FOLDER/job.json; paths become absolute, so that the reader may stand elsewhere."""
    content = {"protocol": VERSION, "kind": kind_of(job), "job": asdict(job)}
    (folder / JOB).write_text(json.dumps(content, default=_plain, indent=1), encoding="utf-8")


def read_job(folder: Path) -> tuple[str, Any]:
    """(kind, job) as `write_job` wrote it. Raises: ValueError when it speaks another version."""
    content = json.loads((folder / JOB).read_text(encoding="utf-8"))
    if content.get("protocol") != VERSION:
        raise ValueError(f"{folder / JOB} speaks protocol {content.get('protocol')}, this worker {VERSION}")
    return content["kind"], job_from(content["kind"], content["job"])


def job_from(kind: str, plain: Mapping[str, Any]) -> Any:
    """The job of a kind, from what JSON made of it: equal to the one sent."""
    return _built(KINDS[kind], plain)


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"cannot be part of a job: {value!r} of type {type(value).__name__}")


@cache
def _hints(record: type) -> dict[str, Any]:
    return get_type_hints(record)


def _built(kind: Any, value: Any) -> Any:
    """`value`, as JSON gives it, as an instance of the annotation `kind`."""
    if value is None:
        return None
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{one.name: _built(hints[one.name], value[one.name]) for one in fields(kind)})
    if kind is Path:
        return Path(value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _built(_member(inner, value), value)
    if origin is tuple:
        kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_built(one, item) for one, item in zip(kinds, value, strict=True))
    if origin is Mapping:
        return {name: _built(inner[1], item) for name, item in value.items()}
    return value


def _member(kinds: tuple[Any, ...], value: Any) -> Any:
    """Which member of a union a JSON value belongs to; a list is a tuple, everything else is told by its record."""
    some = [kind for kind in kinds if kind is not types.NoneType]
    listed = [kind for kind in some if get_origin(kind) is tuple]
    return listed[0] if listed and isinstance(value, list) else next(k for k in some if k not in listed)
