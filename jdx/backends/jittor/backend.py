"""The Jittor backend: jobs go as files to a worker in an interpreter of its own, results come back as files."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from jdx.backends.base import (
    EncodeJob,
    GenerateJob,
    ModelSpec,
    OnLosses,
    OnSnapshot,
    OnStyle,
    StyliseJob,
    TrainJob,
    TrainOutcome,
)
from jdx.backends.diffusers_layout import DiffusersBackend
from jdx.backends.jittor.environment import Environment, Place
from jdx.backends.jittor.hearing import Hearing
from jdx.backends.jittor.interpreter import JITTOR, Interpreter
from jdx.backends.jittor.process import Patience, Worker
from jdx.backends.jittor.protocol import NOISE, write_job
from jdx.disk import told
from jdx.errors import BackendError, Fault
from jdx.progress import Progress

WORKER = "jdx.backends.jittor.worker"
AnyJob = TypeVar("AnyJob", EncodeJob, TrainJob, GenerateJob, StyliseJob)


class JittorBackend(DiffusersBackend):
    """Encodes, trains, draws and stylises with Jittor in a process that stays for all of a trial's stages.

    place: which Python, home, device and threads. timeout: seconds without a word from a working worker after which
    it is given up. Nothing is started before the first job. Not safe for several threads.
    """

    name = "jittor"
    dtype = "float32"
    release = JITTOR
    jobs = "jdx.backends.jittor.worker.jobs"

    def __init__(self, place: Place, timeout: float = 1800.0):
        self.environment = self._environment(place)
        self._patience = Patience(place.compile_limit, timeout)
        self._worker: Worker | None = None
        self._found: Interpreter | None = None
        self._orders = 0

    def _environment(self, place: Place) -> Environment:
        return Environment(place)

    def setup_faults(self) -> list[Fault]:
        """What is wrong with the interpreter, the compiler or CUDA."""
        return self.environment.faults()

    def identity(self) -> dict[str, str]:
        """Results depend on the version of Jittor as on the precision."""
        return {**super().identity(), "jittor": self._versions().get("jittor", self.release)}

    def describe(self) -> dict[str, str]:
        """Device, precision and versions."""
        cuda = self.environment.device == "cuda"
        device = "cuda" if cuda else f"cpu ({os.cpu_count()} cores)"
        record = {"backend": self.name, "device": device, "dtype": self.dtype}
        record |= {"threads": str(self.environment.threads), "home": str(self.environment.home)}
        if self._worker is not None:
            record["onednn"] = "yes" if self._worker.ready["onednn"] else "no"
        return record | {"jittor": self.release, **self._versions()}

    def _versions(self) -> dict[str, str]:
        """Versions in the interpreter, or nothing before it is made."""
        if self._found is None:
            found = self.environment.looked_at()
            if isinstance(found, Fault):
                return {}
            self._found = found
        found = self._found
        return {"python": ".".join(map(str, found.python)), **found.packages}

    def check(self, model: ModelSpec) -> list[str]:
        """Faults of the model, read from names and small configs; a hub id's scheduler once it is in the cache."""
        from jdx.backends.torch.hub import locate, spec_faults

        if faults := spec_faults(model):
            return faults
        try:
            return self._scheduler_faults(locate(model, download=False))
        except BackendError:
            return []

    def _scheduler_faults(self, folder: Path) -> list[str]:
        """What the samplers of the worker do not know of a model's scheduler file."""
        from jdx.backends.jittor.worker.jobs.levels import config_faults, read_config

        return [
            f"{fault.key} = {fault.value}: {fault.allowed}" for fault in config_faults(read_config(folder))
        ]

    def encode(self, job: EncodeJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """VAE moments of the training views."""
        absolute = {style: tuple(map(os.path.abspath, some)) for style, some in job.pictures.items()}
        self._order(replace(job, pictures=absolute), out, progress, Hearing(on_style=on_style))

    def train(
        self, job: TrainJob, out: Path, progress: Progress, on_snapshot: OnSnapshot, on_losses: OnLosses
    ) -> TrainOutcome:
        """All adapters together on one frozen base."""
        return self._order(job, out, progress, Hearing(on_snapshot=on_snapshot, on_losses=on_losses))

    def generate(self, job: GenerateJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """All pictures, style by style."""
        self._order(job, out, progress, Hearing(on_style=on_style))

    def stylise(self, job: StyliseJob, out: Path, progress: Progress, on_style: OnStyle) -> None:
        """StyleID on given pictures."""
        self._order(job, out, progress, Hearing(on_style=on_style))

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _order(self, job: AnyJob, out: Path, progress: Progress, hearing: Hearing) -> TrainOutcome:
        """Have a job done by the worker, which is started where there is none."""
        from jdx.backends.torch.hub import locate

        model = locate(job.model).absolute()
        worker = self._started(progress)
        self._orders += 1
        folder = worker.folder / f"order-{self._orders}"
        folder.mkdir()
        try:
            if isinstance(job, GenerateJob):
                from jdx.backends.jittor.noise import write_noise

                write_noise(folder / NOISE, job, model)
            write_job(folder, replace(job, model=ModelSpec(str(model), variant=job.model.variant)))
            return worker.order(folder, out, progress, hearing)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _started(self, progress: Progress) -> Worker:
        if self._worker is not None and not self._worker.ended:
            return self._worker
        self.close()
        with told({"home": self.environment.home}, "backend.home"):
            found = self.environment.ready(progress)
        device = f"--device={self.environment.device}"
        command = [
            str(found.executable),
            "-P",
            "-m",
            WORKER,
            device,
            f"--dtype={self.dtype}",
            f"--jobs={self.jobs}",
        ]
        self._worker = Worker(command, self.environment.variables(found), self._patience)
        return self._worker
