"""`python -m jdx.submit RUN`: the contest's result.zip, checked before it is written.

The zip holds `result/NN/PROMPT.png`, one picture per prompt, RGB, 512 by 512 pixels, named as the prompt is written
("Ice cream.png": an underscore would add a wrong candidate to the scorer's word list).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from jdx.errors import ConfigError, Fault
from jdx.words import counted

SIZE = 512
SETS = {"A": (15, 25), "B": (28, 25)}  # styles, prompts per style
APART = 5
"""Equal faults of so many places are told one by one."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one date for every entry, so that equal pictures give equal archives


def wanted(run: Path) -> dict[str, list[str]]:
    """{style: prompts} that the run drew or should have drawn, from its seeds.json.

    Raises ConfigError when `run` is no finished run folder.
    """
    try:
        seeds = json.loads((run / "seeds.json").read_text(encoding="utf-8"))
        return {style: list(prompts) for style, prompts in seeds.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        remedy = f"must be the folder of a run, with seeds.json and images/ ({error})"
        raise ConfigError([Fault("RUN", str(run), remedy)], what="submission") from None


def faults(run: Path, prompts: dict[str, list[str]], size: int = SIZE) -> list[Fault]:
    """What the contest would refuse or score wrongly: missing, unreadable, wrongly sized and stray pictures."""
    found = []
    for style, words in prompts.items():
        folder = run / "images" / style
        for word in words:
            found += _picture_faults(folder / f"{word}.png", size)
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        for name in sorted(there - {f"{word}.png" for word in words}):
            found.append(
                Fault(str(folder / name), "", "nobody asked for it; the contest scores every file: remove it")
            )
    styles = {path.name for path in (run / "images").iterdir()} if (run / "images").is_dir() else set()
    for name in sorted(styles - set(prompts)):
        found.append(Fault(str(run / "images" / name), "", "not a style of this run: remove it"))
    return found


def gathered(found: Sequence[Fault]) -> list[Fault]:
    """The same faults, those that are equal but for the place in one: a run of a wrong size has 375 of them."""
    places: dict[tuple[str, str], list[str]] = {}
    for fault in found:
        places.setdefault((fault.value, fault.allowed), []).append(fault.key)
    told = []
    for (value, allowed), keys in places.items():
        if len(keys) > APART:
            keys = [f"{keys[0]} and {len(keys) - 1} more"]
        told += [Fault(key, value, allowed) for key in keys]
    return told


def set_faults(prompts: dict[str, list[str]], name: str) -> list[Fault]:
    """What keeps a run from being the whole of the contest's set A or B: styles 00, 01, ... with 25 prompts each."""
    styles, count = SETS[name]
    expected = [f"{number:02d}" for number in range(styles)]
    found = [
        Fault(style, "", f"not drawn; set {name} has styles {expected[0]} to {expected[-1]}")
        for style in expected
        if style not in prompts
    ]
    found += [
        Fault(style, "", f"not a style of set {name}") for style in sorted(set(prompts) - set(expected))
    ]
    return found + [
        Fault(
            style, f"{len(words)} prompts", f"set {name} has {count}; was the run made with data.max_prompts?"
        )
        for style, words in sorted(prompts.items())
        if style in expected and len(words) != count
    ]


def _picture_faults(path: Path, size: int) -> list[Fault]:
    if not path.is_file():
        return [Fault(str(path), "", "missing: the run is not complete")]
    try:
        with Image.open(path) as picture:
            picture.load()
            shape, mode, kind = picture.size, picture.mode, picture.format
    except (OSError, UnidentifiedImageError) as error:
        return [Fault(str(path), "", f"cannot be read: {error}")]
    problems = []
    if shape != (size, size):
        problems.append(
            Fault(
                str(path),
                f"{shape[0]}x{shape[1]}",
                f"must be {size}x{size}: the run's command with sampler.output_resolution={size} resizes what it drew",
            )
        )
    if mode != "RGB" or kind != "PNG":
        problems.append(Fault(str(path), f"{kind} {mode}", "must be an RGB PNG"))
    return problems


def write_zip(run: Path, prompts: dict[str, list[str]], target: Path) -> int:
    """Write the archive beside its place and rename it; returns the number of pictures."""
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    count = 0
    try:
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:  # PNG does not shrink
            for style, words in sorted(prompts.items()):
                for word in sorted(words):
                    entry = zipfile.ZipInfo(f"result/{style}/{word}.png", _EPOCH)
                    archive.writestr(entry, (run / "images" / style / f"{word}.png").read_bytes())
                    count += 1
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return count


def remark(prompts: dict[str, list[str]]) -> str:
    """Which of the contest's sets this is, by its counts; a remark when it is neither."""
    shape = (len(prompts), max(map(len, prompts.values()), default=0))
    for name, expected in SETS.items():
        if shape == expected and all(len(words) == expected[1] for words in prompts.values()):
            return f"set {name}, complete"
    return f"{counted(shape[0], 'style')}: neither set A (15 styles x 25 prompts) nor set B (28 x 25)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, write, say what was written; exit code 2 with all faults when it cannot be submitted."""
    parser = argparse.ArgumentParser(
        prog="python -m jdx.submit", description="Make the contest's result.zip of a run."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as outputs/DATE/TIME")
    parser.add_argument("--out", type=Path, help="the archive (default: RUN/result.zip)")
    parser.add_argument(
        "--size", type=int, default=SIZE, help="pixels that pictures must have (default: %(default)s)"
    )
    parser.add_argument(
        "--set", choices=sorted(SETS), help="refuse a run that is not the whole of the contest's set"
    )
    parser.add_argument("--force", action="store_true", help="replace an archive that is there")
    options = parser.parse_args(arguments)
    target = options.out or options.run / "result.zip"
    try:
        prompts = wanted(options.run)
        found = gathered(faults(options.run, prompts, options.size))
        found += set_faults(prompts, options.set) if options.set else []
        if target.exists() and not options.force:
            found.append(Fault("--out", str(target), "is there already: --force replaces it"))
        if not target.parent.is_dir():
            found.append(Fault("--out", str(target), "its folder does not exist"))
        if found:
            raise ConfigError(found, what="submission")
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{target}: {write_zip(options.run, prompts, target)} pictures ({remark(prompts)})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
