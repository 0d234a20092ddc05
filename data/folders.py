"""Folders of a set: what is a style, what is ignored, and where the user may have meant to point."""

from __future__ import annotations

from pathlib import Path

from data.faults import Findings

IGNORED_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
"""Left by operating systems, beside hidden files; ignored, and listed in the set's notes."""

RECORD = ".sample.json"
"""The embedded sample's own record, which needs no remark."""


def list_folder(folder: Path, findings: Findings) -> list[Path]:
    """Entries of `folder` by name, less the hidden and the ones operating systems leave (noted)."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        findings.fault(folder, f"cannot be listed ({error.strerror})", "check its permissions")
        return []
    kept = []
    for path in entries:
        if path.name == RECORD:
            continue
        if path.name.startswith(".") or path.name.lower() in IGNORED_NAMES:
            findings.note(path, "ignored (hidden or left by an operating system)")
        else:
            kept.append(path)
    return kept


def style_folders(root: Path, findings: Findings) -> list[Path]:
    """The folders under `root` that are styles, by name; a fault with a hint when there are none."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        findings.fault(
            root, what, "data.root must be the folder that holds one folder for each style (00, 01, ...)"
        )
        return []
    entries = list_folder(root, findings)
    folders = [path for path in entries if path.is_dir()]
    if (root / "images").is_dir() or not any(_looks_like_style(folder) for folder in folders):
        findings.fault(root, "has no style folders (NAME/images/...)", _hint(root, folders))
        return []
    for path in entries:
        if not path.is_dir():
            findings.note(path, "ignored (not a style folder)")
    return folders


def _looks_like_style(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "prompt.json").is_file()


def _hint(root: Path, folders: list[Path]) -> str:
    """Where the set probably is: the usual slips are one level too high or one or two too low."""
    if (root / "images").is_dir():
        return f"this is a single style: point to the folder above it, {_above(root, 1)}"
    if root.name == "images" and _looks_like_style(root.parent):
        return f"this is one style's pictures: point two folders up, {_above(root, 2)}"
    for folder in folders:
        if any(_looks_like_style(below) for below in folder.iterdir() if below.is_dir()):
            return f"the styles are one level lower: point to {folder}"
    if any(path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") for path in root.iterdir()):
        return f"pictures of one style belong into a folder such as {root / '00' / 'images'}"
    return "give each style a folder with images/ and prompt.json"


def _above(path: Path, levels: int) -> Path:
    return path.resolve().parents[levels - 1]
