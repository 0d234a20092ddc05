"""Judge sets: which networks score, and where their files lie."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evaluation.errors import JudgesError

ROLES = ("dino", "clip_r", "clip_iqa", "lpips", "fid")
KINDS: dict[str, tuple[str, ...]] = {
    "dino": ("hf_vision",),
    "clip_r": ("clip",),
    "clip_iqa": ("clip", "clip_rn50"),
    "lpips": ("trunk", "squeeze"),
    "fid": ("trunk", "inception"),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "dino": (),
    "clip_r": ("nouns",),
    "clip_iqa": ("logit_scale", "tokenizer"),
    "lpips": ("heads",),
    "fid": ("stage", "scale"),
}
# Options that name a file beside judges.json (unless they are one of a role's fixed words).
_PATH_OPTIONS = {"nouns", "heads", "tokenizer"}
_FIXED_WORDS = {"uniform", "lpips"}

MINI = Path(__file__).resolve().parent.parent / "data" / "mini" / "weights" / "judges" / "judges.json"
NOUNS = Path(__file__).resolve().parent / "clip_r_nouns.txt"


@dataclass(frozen=True)
class NetworkSpec:
    """One network of a judge set: its `kind`, exactly one place, and the role's options.

    `hub`: Hugging Face repository. `urls`: the same file at several addresses, with the first letters of its
    SHA-256 in `sha256` ("" where unknown).
    """

    kind: str
    path: Path | None = None
    hub: str | None = None
    urls: tuple[str, ...] = ()
    sha256: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return str(self.path or self.hub or self.urls[0])


@dataclass(frozen=True)
class JudgeSpec:
    """A named judge set. See `docs/judges.md` for the file format."""

    name: str
    dino: NetworkSpec
    clip_r: NetworkSpec
    clip_iqa: NetworkSpec
    lpips: NetworkSpec
    fid: NetworkSpec

    def __getitem__(self, role: str) -> NetworkSpec:
        if role not in ROLES:
            raise KeyError(f"role {role!r} is not one of {', '.join(ROLES)}")
        spec: NetworkSpec = getattr(self, role)
        return spec

    def items(self) -> Iterator[tuple[str, NetworkSpec]]:
        """Roles and their networks."""
        return ((role, self[role]) for role in ROLES)

    def pointed_at(self, places: Mapping[str, Path | str | None]) -> "JudgeSpec":
        """The same set with some roles read from local files or folders (None: as it was)."""
        moved: dict[str, Any] = {
            role: replace(self[role], path=Path(place).expanduser(), hub=None, urls=(), sha256="")
            for role, place in places.items()
            if place is not None
        }
        return replace(self, **moved) if moved else self

    @classmethod
    def named(cls, name: "str | Path | JudgeSpec") -> "JudgeSpec":
        """`challenge`, `mini`, or the path of a `judges.json`; a spec is returned as it is.

        Raises:
            JudgesError: no such name or file, or a file with faults (all are listed).
        """
        if isinstance(name, JudgeSpec):
            return name
        if name == "challenge":
            return challenge_judges()
        path = MINI if name == "mini" else Path(name).expanduser()
        if path.is_dir():
            path = path / "judges.json"
        if not path.is_file():
            what = f"judge set {str(name)!r}: {path} does not exist"
            raise JudgesError(f"{what}; give `challenge`, `mini` or the path of a judges.json")
        return cls.read(path)

    @classmethod
    def read(cls, path: Path | str) -> "JudgeSpec":
        """Read a `judges.json`.

        Raises:
            JudgesError: it is no JSON object or has faults (all are listed).
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise JudgesError(f"{path}: not readable as JSON ({error})") from error
        if not isinstance(data, dict):
            raise JudgesError(f"{path}: an object with the keys name, {', '.join(ROLES)} is wanted")
        faults = [f"unknown key {key!r}" for key in data if key not in (*ROLES, "name")]
        faults += [f"{role!r} is missing" for role in ROLES if role not in data]
        for role in ROLES:
            faults += _faults(role, data.get(role, {})) if role in data else []
        if faults:
            raise JudgesError(f"{path}: " + "; ".join(faults))
        specs = {role: _network(data[role], path.parent) for role in ROLES}
        return cls(name=str(data.get("name", path.parent.name)), **specs)


def _faults(role: str, data: Any) -> list[str]:
    if not isinstance(data, dict):
        return [f"{role}: an object is wanted, got {data!r}"]
    faults = []
    kind = data.get("kind")
    if kind not in KINDS[role]:
        faults.append(f"{role}: kind {kind!r} is not one of {', '.join(KINDS[role])}")
    places = [key for key in ("path", "hub", "url") if key in data]
    if len(places) != 1:
        faults.append(f"{role}: exactly one of path, hub and url is wanted, got {places or 'none'}")
    known = {"kind", "path", "hub", "url", "sha256", *OPTIONS[role]}
    faults += [f"{role}: unknown key {key!r}, known are {sorted(known)}" for key in data if key not in known]
    return faults


def _network(data: dict[str, Any], folder: Path) -> NetworkSpec:
    urls = data.get("url", ())
    rest = {key: data[key] for key in data if key not in ("kind", "path", "hub", "url", "sha256")}
    return NetworkSpec(
        kind=data["kind"],
        path=folder / data["path"] if "path" in data else None,
        hub=data.get("hub"),
        urls=(urls,) if isinstance(urls, str) else tuple(urls),
        sha256=data.get("sha256", ""),
        options={key: _option(key, value, folder) for key, value in rest.items()},
    )


def _option(key: str, value: Any, folder: Path) -> Any:
    """File options become paths beside judges.json; a tokenizer that is no local folder is a hub name."""
    if key not in _PATH_OPTIONS or value in _FIXED_WORDS:
        return value
    local = folder / str(value)
    return value if key == "tokenizer" and not local.exists() else local


def challenge_judges() -> JudgeSpec:
    """The networks of the official checker."""
    return JudgeSpec(
        name="challenge",
        dino=NetworkSpec("hf_vision", hub="facebook/dinov2-base"),
        clip_r=NetworkSpec("clip", hub="openai/clip-vit-large-patch14"),
        clip_iqa=NetworkSpec(
            "clip_rn50",
            urls=(
                "https://github.com/photosynthesis-team/piq/releases/download/v0.7.1/RN50.pt",
                "https://openaipublic.azureedge.net/clip/models/"
                "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
            ),
        ),
        lpips=NetworkSpec(
            "squeeze",
            urls=("https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",),
            sha256="b8a52dc0",
            options={"heads": "lpips"},
        ),
        fid=NetworkSpec(
            "inception",
            urls=(
                "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                "weights-inception-2015-12-05-6726825d.pth",
            ),
            sha256="6726825d",
        ),
    )
