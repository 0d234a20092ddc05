"""The folders to score: which pictures are where, and everything that is wrong with them."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from evaluation.errors import FoldersError
from evaluation.pictures import MODES, SUFFIXES

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Fault:
    """Something about the folders that a reader of the score should know.

    `error`: the score misses something. `warning`: scored, but not as the contest wants it. `note`: harmless.
    """

    kind: str
    severity: Severity
    message: str
    style: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """As it stands in a report."""
        return asdict(self)


@dataclass
class StyleFolder:
    """One style: what was generated (by file stem), the references, and the prompts that were asked for.

    `expected` is None where there is no `prompt.json`; then every generated picture counts.
    """

    id: str
    generated: dict[str, Path] = field(default_factory=dict)
    references: list[Path] = field(default_factory=list)
    expected: list[str] | None = None
    missing: list[str] = field(default_factory=list)


@dataclass
class Layout:
    """All styles, in the order of their names, and all faults."""

    styles: list[StyleFolder]
    faults: list[Fault]

    @property
    def missing(self) -> list[str]:
        """Pictures that were asked for and are not there, as STYLE/PROMPT."""
        return [f"{style.id}/{prompt}" for style in self.styles for prompt in style.missing]


def read_layout(generated: Path | str, references: Path | str) -> Layout:
    """Read `generated/NN/PROMPT.png` and `references/NN/{images/OBJECT.*, prompt.json}`.

    References may lie in `NN` itself. Only headers and checksums of the pictures are read here.

    Raises:
        FoldersError: a folder is absent, or there is no style in the references.
    """
    generated, references = Path(generated), Path(references)
    absent = [f"{path}: there is no such folder" for path in (generated, references) if not path.is_dir()]
    if absent:
        raise FoldersError("; ".join(absent))
    reader = _Reader()
    styles = [reader.style(folder, generated) for folder in _subfolders(references)]
    styles = [style for style in styles if style.references or style.expected is not None]
    if not any(style.references for style in styles):
        raise FoldersError(
            f"{references}: no style found; {references}/NN/images/OBJECT.png is wanted "
            f"(suffixes: {', '.join(SUFFIXES)})"
        )
    reader.strangers(generated, {style.id for style in styles})
    reader.sizes(styles)
    return Layout(styles, sorted(reader.faults, key=lambda f: (f.style or "", f.kind, f.message)))


class _Reader:
    """Reads style by style and collects faults on the way."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.dimensions: dict[Path, tuple[int, int]] = {}

    def add(self, kind: str, severity: Severity, message: str, style: str | None = None) -> None:
        self.faults.append(Fault(kind, severity, message, style))

    def style(self, folder: Path, generated: Path) -> StyleFolder:
        style = StyleFolder(folder.name)
        inner = folder / "images"
        style.references = self.pictures(inner if inner.is_dir() else folder, style.id, {"prompt.json"})
        style.expected = self.prompts(folder / "prompt.json", style.id)
        if not style.references:
            self.add("no_references", "error", f"{folder}: no reference pictures", style.id)
        self.match(style, generated / style.id)
        return style

    def prompts(self, path: Path, style: str) -> list[str] | None:
        """The prompts of a `prompt.json`: an object whose values are prompts, or a list."""
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            self.add("no_prompts", "note", f"{path} is absent: every generated picture counts", style)
            return None
        except (OSError, ValueError, RecursionError) as error:
            self.add("bad_prompts", "error", f"{path}: not readable as JSON ({error})", style)
            return None
        values = list(data.values()) if isinstance(data, dict) else data
        if not isinstance(values, list) or not values or not all(isinstance(v, str) and v for v in values):
            self.add("bad_prompts", "error", f"{path}: an object or a list of prompts is wanted", style)
            return None
        for prompt, count in Counter(values).items():
            if count > 1:
                self.add(
                    "repeated_prompt", "warning", f"{path}: {prompt!r} stands there {count} times", style
                )
        return list(dict.fromkeys(values))

    def match(self, style: StyleFolder, folder: Path) -> None:
        """Fill `generated` and `missing`, comparing files with the prompts that were asked for."""
        if not folder.is_dir():
            self.add("missing_style", "error", f"{folder}: the folder of the style is missing", style.id)
            style.missing = list(style.expected or [])
            return
        files = self.by_stem(self.pictures(folder, style.id, set()), style.id)
        if not files:
            self.add("empty_style", "error", f"{folder}: no readable pictures", style.id)
        style.generated = files if style.expected is None else self.expected(files, style)
        for prompt in style.missing:
            self.add("missing", "error", f"{folder / prompt}.png is missing", style.id)

    def by_stem(self, files: Iterable[Path], style: str) -> dict[str, Path]:
        """One file a stem: `.png` before others, the rest reported."""
        chosen: dict[str, Path] = {}
        for path in sorted(files, key=lambda p: (p.suffix != ".png", p.name)):
            if path.stem in chosen:
                kept = chosen[path.stem].name
                self.add("duplicate", "warning", f"{path}: not scored, {kept} has the same name", style)
                continue
            chosen[path.stem] = path
            if path.suffix != ".png":
                self.add("suffix", "warning", f"{path}: the contest wants the suffix .png", style)
        return chosen

    def expected(self, files: dict[str, Path], style: StyleFolder) -> dict[str, Path]:
        """The files that were asked for, in the prompts' order.

        A near miss in the name counts, as a warning: it is scored under its own name, as the official
        checker would.
        """
        near = {_loose(stem): stem for stem in files if stem not in (style.expected or [])}
        wanted: dict[str, Path] = {}
        for prompt in style.expected or []:
            stem = prompt if prompt in files else near.pop(_loose(prompt), None)
            if stem is None:
                style.missing.append(prompt)
                continue
            wanted[stem] = files[stem]
            if stem != prompt:
                self.add("name", "warning", f"{files[stem]}: the prompt is {prompt!r}", style.id)
        for stem in files.keys() - wanted.keys():
            self.add("extra", "warning", f"{files[stem]}: not scored, no prompt of that name", style.id)
        return wanted

    def pictures(self, folder: Path, style: str, known: set[str]) -> list[Path]:
        """The readable pictures of a folder, by name; everything else is reported."""
        good = []
        for path in sorted(folder.iterdir()):
            if path.name in known or path.is_dir():
                continue
            if path.name.startswith(".") or path.name in ("Thumbs.db", "desktop.ini"):
                self.add("hidden", "note", f"{path}: hidden, not scored", style)
            elif path.suffix.lower() not in SUFFIXES:
                self.add("no_picture", "warning", f"{path}: not scored, no picture by its suffix", style)
            elif self.readable(path, style):
                good.append(path)
        return good

    def readable(self, path: Path, style: str) -> bool:
        """Check header and checksums; note the size and a mode that is not plain RGB."""
        try:
            with Image.open(path) as image:
                size, mode = image.size, image.mode
                image.verify()
        except (
            UnidentifiedImageError,
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:
            self.add("unreadable", "error", f"{path}: not a readable picture ({error})", style)
            return False
        if mode not in MODES:
            self.add("unreadable", "error", f"{path}: mode {mode}, 8-bit RGB is wanted", style)
            return False
        if mode != "RGB":
            self.add("mode", "warning", f"{path}: mode {mode}, scored as RGB (alpha is dropped)", style)
        if path.suffix != path.suffix.lower():
            self.add("uppercase", "warning", f"{path}: the suffix is in upper case", style)
        self.dimensions[path] = size
        return True

    def strangers(self, generated: Path, known: set[str]) -> None:
        """Folders of generated pictures that belong to no style."""
        names = [folder.name for folder in _subfolders(generated)]
        for name in names:
            if name not in known:
                self.add("extra_style", "warning", f"{generated / name}: not scored, no such style", name)
        if names == ["images"] or ("images" in names and not known & set(names)):
            self.add("layout", "warning", f"{generated}: perhaps {generated / 'images'} is meant?")

    def sizes(self, styles: list[StyleFolder]) -> None:
        """Generated pictures of another size than most (the official checker stacks them, and would stop)."""
        paths = [(style.id, path) for style in styles for path in style.generated.values()]
        common = Counter(self.dimensions[path] for _, path in paths).most_common(1)
        for style, path in paths:
            size = self.dimensions[path]
            if size != common[0][0]:
                usual = "×".join(map(str, common[0][0]))
                self.add("size", "warning", f"{path}: {size[0]}×{size[1]} pixels, most have {usual}", style)


def _subfolders(folder: Path) -> list[Path]:
    return [
        path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__"))
    ]


def _loose(name: str) -> str:
    return name.casefold().replace("_", " ").strip()
