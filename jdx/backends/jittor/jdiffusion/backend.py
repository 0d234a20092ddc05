"""`backend=jdiffusion` in this process: the Jittor backend's worker, in the interpreter that has JDiffusion."""

from __future__ import annotations

from pathlib import Path

from jdx.backends.jittor.backend import JittorBackend
from jdx.backends.jittor.environment import Environment, Place
from jdx.backends.jittor.interpreter import JDIFFUSION, KEY, README, Interpreter, jdiffusion_faults, probe
from jdx.errors import Fault


class JDiffusionEnvironment(Environment):
    """A Python that its user has made with JDiffusion in it; jdx makes none, for nothing of it is on PyPI."""

    def faults(self) -> list[Fault]:
        """Everything that can be seen to be wrong, in one report."""
        if self.place.python is None:
            allowed = (
                f"backend=jdiffusion needs the path of a Python with JDiffusion, installed as {README} says"
            )
            return [Fault(KEY, "null", allowed)]
        return super().faults()

    def looked_at(self) -> Interpreter | Fault:
        """What the interpreter is; a fault when it is none."""
        return probe(self.python, JDIFFUSION)

    def python_faults(self, found: Interpreter) -> list[Fault]:
        """Why it cannot run JDiffusion."""
        return jdiffusion_faults(found)


class JDiffusionBackend(JittorBackend):
    """Encodes, trains and draws with JDiffusion's networks and pipeline; `limits` says what it does not do."""

    name = "jdiffusion"
    release = "not installed as a package"
    jobs = "jdx.backends.jittor.jdiffusion"

    def _environment(self, place: Place) -> Environment:
        return JDiffusionEnvironment(place)

    def _scheduler_faults(self, folder: Path) -> list[str]:
        return []  # its schedulers are diffusers' own

    def identity(self) -> dict[str, str]:
        """Results depend on the versions that its user has installed."""
        versions = self._versions()
        return {**super().identity(), "jdiffusion": versions.get("JDiffusion", self.release)}
