"""`python -m jdx.backends.jittor`: make and compile what `backend=jittor` needs now, and say what there is."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from jdx.backends.jittor.environment import Environment, Place
from jdx.errors import BackendError, ConfigError
from jdx.progress import Progress


def main() -> None:
    """The command; its options are the settings of `backend` with these names."""
    parser = argparse.ArgumentParser(prog="python -m jdx.backends.jittor", description=__doc__)
    parser.add_argument("--python", type=Path, help="a Python with jittor; default: one that jdx makes")
    parser.add_argument("--home", type=Path, help="JITTOR_HOME; default: $JDX_JITTOR or ~/.cache/jdx/jittor")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    given = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    environment = Environment(Place(given.python, given.home, given.device))
    try:
        with Progress() as progress:
            found = environment.ready(progress)
    except (ConfigError, BackendError) as error:
        print(f"\n{error}", file=sys.stderr)
        raise SystemExit(2) from None
    onednn = "yes" if environment.variables(found)["use_mkl"] == "1" else "no"
    print(f"python  {found.executable} ({'.'.join(map(str, found.python))})")
    print("with    " + ", ".join(f"{name} {version}" for name, version in sorted(found.packages.items())))
    print(f"home    {environment.home}\ndevice  {environment.device}, oneDNN: {onednn}")


if __name__ == "__main__":
    main()
