"""The Python that has Jittor: what it is, what is wrong with it, and one of our own where none is given."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from jdx.errors import BackendError, Fault

log = logging.getLogger(__name__)

JITTOR = "1.3.11.0"
REQUIREMENTS = (f"jittor=={JITTOR}", "numpy>=1.26,<2", "safetensors", "tokenizers", "pillow", "setuptools<81")
NEEDED = ("jittor", "numpy", "safetensors", "tokenizers", "pillow")
MODULES = ("jittor", "jtorch", "JDiffusion", "diffusers", "transformers")
"""What JDiffusion is made of, by the names that are imported."""
PYTHONS = ((3, 11), (3, 12))
"""Versions that jdx's own code and Jittor both run on."""
KEY = "backend.python"

# Runs in any Python 3, however old, and imports none of what it looks for: a broken jittor must not stop it.
PROBE = """
import json, os, sys, sysconfig
told = {"python": list(sys.version_info[:3]), "executable": sys.executable}
told.update({"packages": {}, "modules": [], "fork": None})
try:
    from importlib import metadata, util
    told["modules"] = [name for name in %r if util.find_spec(name) is not None]
    for name in %r:
        try:
            told["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    spec = util.find_spec("jittor")
    if spec is not None and spec.origin and os.path.isdir(os.path.join(os.path.dirname(spec.origin), "compatibility")):
        told["fork"] = "jittor.compatibility"
except ImportError:
    pass
told["headers"] = os.path.isfile(os.path.join(sysconfig.get_path("include"), "Python.h"))
name = "python%%d.%%d-config" %% tuple(sys.version_info[:2])
places = [os.path.join(folder, name) for folder in (os.path.join(sys.base_prefix, "bin"), "/usr/bin", "/usr/local/bin")]
told["config"] = next((place for place in places if os.path.isfile(place)), None)
print(json.dumps(told))
"""


@dataclass(frozen=True)
class Interpreter:
    """What was found out about a Python. packages: versions of what is installed; modules: which of
    MODULES could be imported; config: its python3.N-config.
    """

    executable: Path
    python: tuple[int, int, int]
    packages: Mapping[str, str]
    modules: tuple[str, ...]
    fork: str | None
    headers: bool
    config: Path | None


def probe(python: str | Path, packages: Sequence[str] = NEEDED) -> Interpreter | Fault:
    """Ask a Python what it is, in about 0.1 s; a fault when it is none."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", PROBE % (MODULES, tuple(packages))],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else "it does not answer within 60 s"
        return Fault(
            KEY, str(python), f"cannot be run ({why}): give the path of a Python with Jittor, or null"
        )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return Interpreter(
            Path(told["executable"]),
            (told["python"][0], told["python"][1], told["python"][2]),
            told["packages"],
            tuple(told["modules"]),
            told["fork"],
            told["headers"],
            Path(told["config"]) if told["config"] else None,
        )
    except (IndexError, ValueError, KeyError, TypeError):
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        return Fault(
            KEY, str(python), f"is no Python that jdx can ask ({last[0]}): give one with Jittor, or null"
        )


def faults_of(found: Interpreter, *, ours: bool = False) -> list[Fault]:
    """Everything that keeps a Python from running the worker, each a fault of `backend.python`.

    ours: whether it is the environment that jdx makes, which is better made again than mended.
    """
    again = f"; delete {found.executable.parent.parent} and it is made again" if ours else ""
    name = str(found.executable)
    return [Fault(KEY, name, text + again) for text in (*_version_texts(found), *_package_texts(found))]


JDIFFUSION = ("numpy", "safetensors", "pillow", "torch", "jittor", "JDiffusion")
"""Packages whose versions matter to JDiffusion's runner; torch is one too many."""
README = "https://github.com/JittorRepos/JDiffusion#installation"


def jdiffusion_faults(found: Interpreter) -> list[Fault]:
    """Everything that keeps a Python from running JDiffusion, each a fault of `backend.python`."""
    return [
        Fault(KEY, str(found.executable), text)
        for text in (*_version_texts(found), *_jdiffusion_texts(found))
    ]


def _jdiffusion_texts(found: Interpreter) -> Iterator[str]:
    have, pip = found.packages, f"{found.executable} -m pip install"
    yield from _numpy_texts(found)
    if "torch" in have:
        yield f"has PyTorch {have['torch']}, whose name jtorch's own package torch takes: use an environment without it"
    if missing := [name for name in MODULES if name not in found.modules]:
        yield f"lacks {', '.join(missing)}: install JDiffusion as {README} says"
    if "jittor" in found.modules and found.fork is None:
        fork = "git+https://github.com/JittorRepos/jittor"
        yield f"has jittor without jittor.compatibility, which only JDiffusion's fork has: {pip} {fork}"
    if missing := [name for name in ("numpy", "safetensors", "pillow") if name not in have]:
        yield f"lacks {', '.join(missing)}: {pip} {' '.join(map(_pinned, missing))}"


def _version_texts(found: Interpreter) -> Iterator[str]:
    if found.python[:2] not in PYTHONS:
        yield f"is Python {_dotted(found.python)}; needed is {supported()}"
    if not found.headers and found.config is None:
        package = f"python{found.python[0]}.{found.python[1]}-dev"
        yield f"has no C headers, which Jittor compiles against: install them (Debian: apt install {package})"


def _package_texts(found: Interpreter) -> Iterator[str]:
    have = found.packages
    jittor = have.get("jittor")
    yield from _numpy_texts(found)
    if jittor is None and found.fork is None:
        yield f"has no jittor: {found.executable} -m pip install jittor=={JITTOR}"
    elif found.fork is not None:
        yield (
            f"has a fork of jittor ({found.fork} is in it): backend=jittor needs jittor=={JITTOR} from PyPI; "
            "for JDiffusion's fork use backend=jdiffusion"
        )
    elif jittor != JITTOR:
        yield f"has jittor {jittor}; the networks are written for and checked with {JITTOR}: install that"
    missing = [name for name in NEEDED if name not in have and name != "jittor"]
    if missing:
        yield f"lacks {', '.join(missing)}: {found.executable} -m pip install {' '.join(map(_pinned, missing))}"


def _numpy_texts(found: Interpreter) -> Iterator[str]:
    numpy = found.packages.get("numpy")
    if numpy is not None and int(numpy.partition(".")[0]) >= 2:
        yield (
            f"has numpy {numpy}, with which Jittor's arrays hold garbage and no error tells: "
            f"{found.executable} -m pip install 'numpy<2'"
        )


def _pinned(name: str) -> str:
    return "'numpy<2'" if name == "numpy" else name


def supported() -> str:
    """The versions that will do, in words."""
    return " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def base_python() -> str | None:
    """A Python to make an environment from: the one that runs us, else another version found on PATH."""
    if sys.version_info[:2] in PYTHONS:
        return getattr(sys, "_base_executable", None) or sys.executable
    found = (shutil.which(f"python{major}.{minor}") for major, minor in PYTHONS)
    return next((path for path in found if path), None)


def base_faults() -> list[Fault]:
    """Why no environment could be made here."""
    base = base_python()
    if base is None:
        allowed = (
            f"no Python {supported()} found to make an environment from: give the path of one with Jittor"
        )
        return [Fault(KEY, "null", allowed)]
    found = probe(base)
    if isinstance(found, Fault):
        return [found]
    return [
        Fault(KEY, "null", f"the environment would be made from {base}, which {text}")
        for text in _version_texts(found)
    ]


def own_folder(home: Path) -> Path:
    """Where the environment that jdx makes is, below its home."""
    base = base_python() or sys.executable
    # One per base: a virtual environment is nothing without the Python that it was made from.
    mark = uuid.uuid5(uuid.NAMESPACE_URL, f"{os.path.realpath(base)}").hex[:6]
    return home / f"env-jittor{JITTOR}-{mark}"


def own_python(home: Path) -> Path:
    """The interpreter of that environment, whether it is there or not."""
    return own_folder(home) / "bin" / "python"


def make_own(home: Path) -> Path:
    """Make the environment unless it is there: built beside under a lock, then renamed. Takes about a minute.

    Raises: BackendError with what pip said when it cannot be made.
    """
    folder = own_folder(home)
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "environment.lock"):
        if own_python(home).exists():
            return own_python(home)
        for left in home.glob(f".{folder.name}.*"):  # by a process that was killed: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        beside = home / f".{folder.name}.{uuid.uuid4().hex[:8]}"
        log.info("making an environment with jittor %s in %s (once)", JITTOR, folder)
        try:
            _run([str(base_python()), "-m", "venv", str(beside)], home)
            _run([str(beside / "bin" / "python"), "-m", "pip", "install", "-q", *REQUIREMENTS], home)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return own_python(home)


def _run(command: Sequence[str], home: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = "\n".join(f"  | {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-8:])
        raise BackendError(
            f"the Jittor environment could not be made in {home}: {' '.join(command[1:4])} said\n{lines}\n"
            f"Make one yourself and give its path: pip install {' '.join(REQUIREMENTS)!s} and backend.python=..."
        )
