"""What Jittor finds on this machine: the compiler, CUDA, oneDNN."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from jdx.errors import Fault

ONEDNN = ".cache/jittor/mkl/dnnl_lnx_2.2.0_cpu_gomp"
"""Where Jittor looks for oneDNN below its home; it would download that release from a server that is often away."""
CUDA = (11, 12)
"""Major versions of CUDA that Jittor compiles with; 13 has lost fields of cudaDeviceProp that it names."""


@dataclass(frozen=True)
class Nvcc:
    """CUDA's compiler: its path and version."""

    path: str
    version: tuple[int, int]


def compiler(env: Mapping[str, str]) -> str | None:
    """The C++ compiler that Jittor would take."""
    return shutil.which(env.get("cc_path") or "g++", path=env.get("PATH"))


def compiler_faults(env: Mapping[str, str]) -> list[Fault]:
    """Without a compiler there is no Jittor, not even a compiled one: it compiles each operation at its first use."""
    if compiler(env) is not None:
        return []
    wanted = env.get("cc_path") or "g++"
    what = f"no C++ compiler: {wanted} is not on PATH, and Jittor compiles everything it runs"
    return [
        Fault(
            "backend.name", "jittor", f"{what}; install one (Debian: apt install g++), or name it in $cc_path"
        )
    ]


def nvcc(env: Mapping[str, str]) -> Nvcc | None:
    """CUDA's compiler, where Jittor looks for it."""
    places = [env.get("nvcc_path"), shutil.which("nvcc", path=env.get("PATH"))]
    places += ["/usr/local/cuda/bin/nvcc", "/usr/bin/nvcc", "/opt/cuda/bin/nvcc"]
    path = next((place for place in places if place and os.access(place, os.X_OK)), None)
    if path is None:
        return None
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", told)
    return Nvcc(path, (int(found[1]), int(found[2]))) if found else None


def cards(env: Mapping[str, str]) -> list[str]:
    """The NVIDIA cards that the system shows and the environment does not hide, as CUDA_VISIBLE_DEVICES names them."""
    there = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not there:
        return [str(index) for index in range(len(there))]
    named = (name.strip() for name in visible.split(","))
    return list(takewhile(lambda name: name not in {"", "-1"}, named))  # CUDA too stops at a name of no card


def card_of(setting: str, env: Mapping[str, str]) -> str | None:
    """The card that the setting backend.device=cuda:N means, named as by `cards`; None where no such is shown."""
    index, some = setting.partition(":")[2], cards(env)
    return some[int(index)] if index and int(index) < len(some) else None


def device_of(setting: str, env: Mapping[str, str]) -> str:
    """The device, cpu or cuda, for the setting backend.device."""
    return "cuda" if setting.startswith("cuda") or (setting == "auto" and cards(env)) else "cpu"


def cuda_faults(setting: str, env: Mapping[str, str]) -> Iterator[Fault]:
    """Why this machine's card cannot be used, if it is to be."""
    if device_of(setting, env) == "cpu":
        return
    key, found = "backend.device", nvcc(env)
    if not cards(env):
        yield Fault(key, setting, "this machine shows no NVIDIA card: cpu")
    elif ":" in setting and card_of(setting, env) is None:
        count = len(cards(env))
        yield Fault(key, setting, f"is not on this machine, which shows {count} from cuda:0 on, or is hidden")
    if found is None:
        yield Fault(
            key, setting, "Jittor needs CUDA's compiler: install CUDA 11 or 12 with nvcc on PATH, or say cpu"
        )
    elif found.version[0] not in CUDA:
        version = ".".join(map(str, found.version))
        what = f"{found.path} is CUDA {version}, which Jittor does not compile with: CUDA 11 or 12 is needed"
        yield Fault(key, setting, f"{what} (name another nvcc in $nvcc_path), or say cpu")


def home_faults(home: Path) -> Iterator[Fault]:
    """Why nothing can be kept in a home."""
    there = next(
        one for one in (home, *home.parents) if os.path.exists(one)
    )  # no error where it may not look
    if not there.is_dir():
        yield Fault("backend.home", str(home), f"{there} is no folder: give a folder, there or to be made")
    elif not os.access(there, os.W_OK | os.X_OK):
        allowed = (
            f"nothing can be written in {there}: give a folder that you may write to, or set $JDX_JITTOR"
        )
        yield Fault("backend.home", str(home), allowed)


def link_onednn(home: Path) -> Path | None:
    """Put Debian's oneDNN where Jittor looks for it; returns the folder of its library, None where there is none.

    What somebody put there before is taken as it is.
    """
    there = home / ONEDNN
    if (there / "lib" / "libmkldnn.so").exists():
        return there / "lib"
    library, headers = _onednn_library(), Path("/usr/include")
    if library is None or not (headers / "dnnl.hpp").is_file():
        return None
    beside = there.with_name(f".{uuid.uuid4().hex}")
    (beside / "lib").mkdir(parents=True)
    (beside / "include").mkdir()
    (beside / "lib" / "libmkldnn.so").symlink_to(library)
    for header in [*headers.glob("dnnl*"), headers / "oneapi"]:
        (beside / "include" / header.name).symlink_to(header)
    try:
        shutil.rmtree(there, ignore_errors=True)  # links to a library that was removed since
        beside.rename(there)
    except OSError:  # another process was first
        shutil.rmtree(beside)
    return there / "lib"


def _onednn_library() -> Path | None:
    places = sorted(Path("/usr").glob("lib*/libdnnl.so.2")) + sorted(Path("/usr/lib").glob("*/libdnnl.so.2"))
    return places[0] if places else None


SLOW = (
    "Jittor computes convolutions without oneDNN, about 100 times slower on a CPU; "
    "install it (Debian and Ubuntu: apt install libdnnl-dev) and Jittor is compiled with it at the next start"
)
