"""jdx: teach Stable Diffusion 2.1 a drawing style from a few pictures, and prove it with a score."""

from importlib.util import find_spec
from pathlib import Path

from jdx._version import __version__

__all__ = ["ROOT", "__version__"]

ROOT = Path(__file__).resolve().parent.parent
"""Where the top-level packages live: the checkout, or site-packages."""


def _check_siblings() -> None:
    """`data`, `evaluation`, `launcher` and `sweeps` are common names: make sure that ours are found, not another's."""
    for name in ("data", "evaluation", "launcher", "sweeps"):
        if not (ROOT / name / "__init__.py").is_file():
            continue
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin != ROOT / name / "__init__.py":
            found = origin or (spec and list(spec.submodule_search_locations or [])) or "nothing"
            raise ImportError(
                f"another package named {name!r} hides jdx's own: found {found}, need {ROOT / name}. "
                "Start from another folder, rename the intruder, or put jdx first on PYTHONPATH."
            )


_check_siblings()
