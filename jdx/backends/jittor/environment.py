"""Everything around the worker: which Python, which home, which variables; made or found, and checked before."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jdx.backends.jittor import interpreter, machine
from jdx.backends.jittor.home import compile_first, default_home, free_stale, is_compiled
from jdx.backends.jittor.interpreter import Interpreter, faults_of, make_own, own_python, probe
from jdx.errors import ConfigError, Fault
from jdx.progress import Progress

log = logging.getLogger(__name__)

THREADS = 2
"""CPU threads unless told otherwise: with oneDNN more were slower."""


@dataclass(frozen=True)
class Place:
    """Where Jittor is to run. python: an interpreter that has it, None = one that jdx makes; home: JITTOR_HOME,
    None = the default. device: auto, cpu, cuda or cuda:N. threads: of the CPU, 0 = OMP_NUM_THREADS or 2.
    """

    python: Path | None = None
    home: Path | None = None
    device: str = "auto"
    threads: int = 0
    compile_limit: float = 3600.0


class Environment:
    """The Python with Jittor and what it runs in. Looking costs 0.1 s; making happens in `ready`."""

    def __init__(self, place: Place):
        self.place = place
        self.home = (place.home or default_home()).expanduser().absolute()

    @property
    def python(self) -> Path:
        """The interpreter, whether it is there or not."""
        return self.place.python or own_python(self.home)

    @cached_property
    def device(self) -> str:
        """The device that the worker computes on: cpu or cuda."""
        return machine.device_of(self.place.device, os.environ)

    @property
    def threads(self) -> int:
        """CPU threads of the worker."""
        # The first of a list: OpenMP's further numbers are of teams within teams.
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        asked = self.place.threads or (int(given) if given.isdecimal() else 0)
        return asked or min(THREADS, os.cpu_count() or 1)

    def faults(self) -> list[Fault]:
        """Everything that can be seen to be wrong, in one report; nothing is made or compiled."""
        faults = machine.compiler_faults(os.environ)
        faults += machine.cuda_faults(self.place.device, os.environ)
        faults += machine.home_faults(self.home)
        if self.place.python is None and not self.python.exists():
            return [*faults, *interpreter.base_faults()]
        found = self.looked_at()
        return [*faults, *([found] if isinstance(found, Fault) else self.python_faults(found))]

    def looked_at(self) -> Interpreter | Fault:
        """What the interpreter is; a fault when it is none."""
        return probe(self.python)

    def python_faults(self, found: Interpreter) -> list[Fault]:
        """Why an interpreter is not fit for the worker."""
        return faults_of(found, ours=self.place.python is None)

    def found(self) -> Interpreter:
        """What the interpreter is. Raises: ConfigError when it is none, or not fit for it."""
        found = self.looked_at()
        faults = [found] if isinstance(found, Fault) else self.python_faults(found)
        if isinstance(found, Fault) or faults:
            raise ConfigError(faults)
        return found

    def lacks(self) -> str:
        """What `ready` would find wrong or have to make first, in words; empty when a worker could start at once."""
        if faults := self.faults():
            return str(ConfigError(faults))
        if not self.python.exists():
            return f"{self.python} is not made yet"
        found = self.found()
        return "" if is_compiled(self.home, found, self.variables(found)) else "Jittor is not compiled yet"

    def ready(self, progress: Progress) -> Interpreter:
        """Make what is missing: the environment, oneDNN's links, the first compile. Quick when all is there.

        Raises: ConfigError, BackendError.
        """
        if faults := self.faults():
            raise ConfigError(faults)
        if self.place.python is None and not self.python.exists():
            with progress.task("making the Jittor environment (once)", 1) as task:
                make_own(self.home)
                task.advance()
        found = self.found()
        env = self.variables(found)
        if env["use_mkl"] == "0" and self.device == "cpu":
            log.warning("%s", machine.SLOW)
        if is_compiled(self.home, found, env):
            free_stale(self.home)
        else:
            with progress.task("compiling Jittor (once)", 1) as task:
                compile_first(self.home, found, env, self.place.compile_limit)
                task.advance()
        return found

    def variables(self, found: Interpreter) -> dict[str, str]:
        """The worker's environment: ours without what belongs to our own Python, and what Jittor reads.

        HOME is the home as well: Jittor writes the last JITTOR_HOME into the user's own cache, and the user's other
        programs would then compile into ours.
        """
        foreign = ("PYTHON", "VIRTUAL_ENV", "CONDA_", "LD_PRELOAD")
        env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        env |= {"JITTOR_HOME": str(self.home), "HOME": str(self.home), "cache_name": "jdx"}
        env |= {"PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": str(self.threads)}
        env.setdefault("GOMP_SPINCOUNT", "1000")
        if found.config is not None:
            env.setdefault("python_config_path", str(found.config))
        return env | self._cuda() | self._onednn(env)

    def _cuda(self) -> dict[str, str]:
        cuda = machine.nvcc(os.environ) if self.device == "cuda" else None
        if cuda is None:
            return {"nvcc_path": ""}  # else Jittor would find one and compile everything for a card too
        card = machine.card_of(self.place.device, os.environ)
        return {"nvcc_path": cuda.path, **({"CUDA_VISIBLE_DEVICES": card} if card else {})}

    def _onednn(self, env: Mapping[str, str]) -> dict[str, str]:
        library = machine.link_onednn(self.home)
        if library is None:
            return {"use_mkl": "0"}
        paths = [str(library), *filter(None, [env.get("LD_LIBRARY_PATH")])]
        return {"use_mkl": "1", "LD_LIBRARY_PATH": os.pathsep.join(paths)}
