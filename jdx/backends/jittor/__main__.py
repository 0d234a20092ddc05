"""`python -m jdx.backends.jittor`: make and compile what `backend=jittor` needs now, and say what there is."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

from jdx.backends.jittor.environment import Environment, Place
from jdx.disk import free, is_told
from jdx.errors import BackendError, ConfigError
from jdx.progress import Progress


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"{name!r} is none of auto, cpu, cuda and cuda:N")
    return name


def main() -> None:
    """The command; its options are the settings of `backend` with these names."""
    parser = argparse.ArgumentParser(prog="python -m jdx.backends.jittor", description=__doc__)
    parser.add_argument("--python", type=Path, help="a Python with jittor; default: one that jdx makes")
    parser.add_argument("--home", type=Path, help="JITTOR_HOME; default: $JDX_JITTOR or ~/.cache/jdx/jittor")
    parser.add_argument("--device", type=_device, default="auto", help="auto, cpu, cuda or cuda:N")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    python = given.python and given.python.expanduser()
    environment = Environment(Place(python, given.home, given.device))
    try:
        with Progress() as progress:
            found = environment.ready(progress)
    except (ConfigError, BackendError) as error:
        print(f"\n{error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if not is_told(error):
            raise
        print(f"\n{error} (home: {free(environment.home)}); --home names another folder", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None
    onednn = "yes" if environment.variables(found)["use_mkl"] == "1" else "no"
    print(f"python  {found.executable} ({'.'.join(map(str, found.python))})")
    print("with    " + ", ".join(f"{name} {version}" for name, version in sorted(found.packages.items())))
    print(f"home    {environment.home}\ndevice  {environment.device}, oneDNN: {onednn}")


if __name__ == "__main__":
    main()
