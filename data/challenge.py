"""The challenge layout: `NN/images/OBJECT.{png,jpg,jpeg,webp}` beside `NN/prompt.json`.

Reads the contest's sets A (15 styles x 10 references) and B (28 x 3) and anyone's own folders alike. A set is
checked whole, every picture decoded, before anything is trained on it: `read_challenge` either returns a set
that can be used or raises one `DataError` that lists all that is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.faults import DataError, Fault, Findings
from data.folders import list_folder, style_folders
from data.names import file_name_fault, object_word, same_name
from data.pictures import READ_FAILURES, load_picture, picture_fault, refuse_float
from data.prompts import LAYOUT, Prompt, read_prompts
from data.selection import select_styles

__all__ = [
    "SUFFIXES", "ChallengeSet", "DataError", "Fault", "Prompt", "Reference", "Style",
    "load_picture", "object_word", "read_challenge",
]  # fmt: skip

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Of reference pictures, in any case."""
SMALL = 32
"""Pixels of the shorter edge below which a picture is remarked on: thumbnails and the like."""
NARROW = 3
"""Longer by shorter edge above which a picture is remarked on."""


@dataclass(frozen=True)
class Reference:
    """One reference picture and the object it shows, as words."""

    path: Path
    object: str


@dataclass(frozen=True)
class Style:
    """One style: references sorted by file name, prompts in numeric key order."""

    id: str
    references: tuple[Reference, ...]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class ChallengeSet:
    """The styles of one set, sorted by id; `notes` names each file that was left out of it."""

    root: Path
    styles: tuple[Style, ...]
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(style.id for style in self.styles)

    @property
    def n_prompts(self) -> int:
        return sum(len(style.prompts) for style in self.styles)


def read_challenge(
    root: str | Path,
    *,
    styles: Sequence[str | int] | None = None,
    max_references: int | None = None,
    max_prompts: int | None = None,
    require_prompts: bool = True,
) -> ChallengeSet:
    """Read and check a set in the challenge layout.

    `styles` picks some by id; 5 and "5" find "05" (YAML turns 05 into 5). `max_references` and `max_prompts`
    keep the first so many of each style. With `require_prompts=False` a style may lack its `prompt.json`.
    Only the styles picked are checked, and of them only the pictures kept are decoded.

    Raises `DataError` with all faults together.
    """
    root, findings = Path(root), Findings()
    for name, limit in (("max_references", max_references), ("max_prompts", max_prompts)):
        if limit is not None and limit < 1:
            findings.fault(root, f"{name} is {limit}", "give 1 or more, or leave it out for all")
    folders = style_folders(root, findings)
    chosen = select_styles(root, folders, styles, findings) if folders else []
    read = []
    for folder in chosen:
        references = _references(folder, max_references, findings)
        read.append(Style(folder.name, references, _prompts(folder, require_prompts, findings)[:max_prompts]))
    _decode_all([reference.path for style in read for reference in style.references], findings)
    findings.stop_if_faulty()
    return ChallengeSet(root, tuple(read), tuple(findings.notes))


def _references(style: Path, limit: int | None, findings: Findings) -> tuple[Reference, ...]:
    why = file_name_fault(style.name)
    if why:
        findings.fault(style, f"the style's name {why}", "rename the folder, for example to 00")
    images, entries = style / "images", list_folder(style, findings)
    for path in entries:
        if path.name not in ("images", "prompt.json"):
            findings.note(path, "ignored (a style has images/ and prompt.json)")
    if not images.is_dir():
        near = [p.name for p in entries if p.is_dir() and p.name.lower().startswith("image")]
        remedy = f"rename {near[0]} to images" if near else "put its reference pictures into that folder"
        findings.fault(style, "has no folder 'images'", remedy)
        return ()
    paths = [path for path in list_folder(images, findings) if _is_reference(path, findings)]
    _find_same_stems(paths, findings)
    if not paths and not any(images in (f.path, f.path.parent) for f in findings.faults):
        findings.fault(images, "has no pictures", f"put 1 or more there ({', '.join(SUFFIXES)})")
    return tuple(Reference(path, object_word(path.stem)) for path in paths[:limit])


def _is_reference(path: Path, findings: Findings) -> bool:
    if path.is_dir():
        findings.fault(path, "is a folder among pictures", "move its pictures up or the folder away")
    elif path.suffix.lower() not in SUFFIXES:
        kind = f"has the suffix {path.suffix!r}" if path.suffix else "has no suffix"
        findings.fault(path, kind, f"only {', '.join(SUFFIXES)} belong here: convert or move it")
    elif not path.exists():
        findings.fault(path, "is a link to a file that does not exist", "mend or remove the link")
    elif not object_word(path.stem):
        findings.fault(path, "names no object", "name it after what it shows, for example cat.png")
    else:
        return True
    return False


def _find_same_stems(paths: Sequence[Path], findings: Findings) -> None:
    first: dict[str, Path] = {}
    for path in paths:
        other = first.setdefault(same_name(path.stem), path)
        if other is not path:
            findings.fault(path, f"has the same name as {other.name}", "rename or remove one of the two")


def _prompts(style: Path, required: bool, findings: Findings) -> tuple[Prompt, ...]:
    path = style / "prompt.json"
    if path.exists():
        return read_prompts(path, findings)
    near = sorted(p.name for p in style.iterdir() if p.name.lower().startswith("prompt"))
    if required or near:
        remedy = f"rename {near[0]} to prompt.json" if near else f"write {LAYOUT}"
        findings.fault(path, "is missing", remedy)
    return ()


def _decode_all(paths: Sequence[Path], findings: Findings) -> None:
    """Decode every picture once: a truncated file opens without complaint and fails an hour later."""
    with ThreadPoolExecutor(max_workers=4) as pool:  # Pillow's decoders release the interpreter lock
        for path, (fault, notes) in zip(paths, pool.map(_decode, paths), strict=True):
            if fault:
                findings.faults.append(fault)
            for note in notes:
                findings.note(path, note)


def _decode(path: Path) -> tuple[Fault | None, list[str]]:
    try:
        with Image.open(path) as picture:
            frames = int(getattr(picture, "n_frames", 1))
            picture.seek(0)
            picture.load()
            refuse_float(picture)
            return None, _odd(picture.size, frames)
    except READ_FAILURES as error:
        return picture_fault(path, error), []


def _odd(size: tuple[int, int], frames: int) -> list[str]:
    """What a picture can be used in spite of."""
    shape = f"has {size[0]} x {size[1]} pixels"
    found = [f"has {frames} frames, of which the first is used"] if frames > 1 else []
    if min(size) < SMALL:
        found.append(f"{shape}: it is enlarged for training, which blurs it")
    if max(size) > NARROW * min(size):
        found.append(f"{shape}: training sees squares cut from it, less than a third of it")
    return found
