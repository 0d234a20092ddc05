"""A judge set, loaded: which eye serves which role, and what the roles need besides."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from evaluation import clip_r
from evaluation.errors import JudgesError
from evaluation.eyes import Eye, TextReader
from evaluation.fid import Resize, frechet_distance, pooled
from evaluation.judges import NOUNS, JudgeSpec
from evaluation.loaders import LOADERS, Loaded, read_heads
from evaluation.weights import Located, locate


@dataclass
class Judges:
    """A loaded judge set: one eye per role (shared where equal), and what each role needs besides."""

    name: str
    digests: dict[str, str]
    dino: Eye
    clip_r: Eye
    clip_iqa: Eye
    lpips: Eye
    fid: Eye
    clip_r_texts: TextReader
    clip_iqa_texts: TextReader
    nouns: tuple[str, ...]
    heads: list[Tensor]
    logit_scale: float
    fid_stage: int
    fid_scale: float
    fid_resize: str
    device: torch.device

    @property
    def eyes(self) -> list[Eye]:
        """The eye of each role, shared ones again and again."""
        return [getattr(self, role) for role in self.digests]

    @property
    def passes(self) -> dict[str, int]:
        """How many pictures each role's network has seen so far; shared networks show the same number."""
        return {role: getattr(self, role).seen for role in self.digests}

    def to_json(self) -> dict[str, Any]:
        """Name, SHA-256 of every network's files, and the settings that can move a score."""
        settings = {
            "nouns": _short_digest(self.nouns),
            "lpips_heads": _short_digest([head.tolist() for head in self.heads]),
            "clip_iqa_logit_scale": self.logit_scale,
            "fid_stage": self.fid_stage,
            "fid_scale": self.fid_scale,
        }
        return {"name": self.name, "sha256": dict(self.digests), "settings": settings}

    def to(self, device: torch.device) -> None:
        """Move all networks, in place; a text tower lies in the network of its role's eye."""
        if device == self.device:
            return
        for role in self.digests:
            eye: Eye = getattr(self, role)
            eye.network.to(device)
            eye.device = device
        for texts in (self.clip_r_texts, self.clip_iqa_texts):
            texts.device = device
        self.heads = [head.to(device) for head in self.heads]
        self.device = device

    def fid_vectors(self, seen: list[Tensor]) -> Tensor:
        """(N, k) features of FID from what its eye saw."""
        return pooled(seen[self.fid_stage]).float()

    def fid_distance(self, generated: Tensor, references: Tensor) -> float:
        """FID of (N, k) and (M, k) features, times the set's scale.

        A small trunk's features are not as long as Inception's, and the formula cuts FID off at 20; the scale
        puts both on one footing.
        """
        return self.fid_scale * frechet_distance(generated.numpy(), references.numpy())


def load_judges(
    judges: str | Path | JudgeSpec, *, device: str | torch.device = "auto", fid_resize: Resize = "tf1"
) -> Judges:
    """Find and load every network of a judge set, as float32, in evaluation mode.

    Raises:
        JudgesError: names every network that cannot be had or does not fit its kind.
    """
    spec = JudgeSpec.named(judges)
    found = locate(spec)
    where = _device(device)
    eyes: dict[str, Eye] = {}
    texts: dict[str, TextReader] = {}
    parts: dict[str, Loaded] = {}
    faults = []
    for role, located in found.items():
        if located.digest not in parts:
            try:
                parts[located.digest] = LOADERS[located.spec.kind](located, where, fid_resize)
            except (JudgesError, OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                faults.append(f"{role} ({located.place}): {error}")
                continue
        loaded = parts[located.digest]
        eyes[role] = loaded.eye
        if loaded.texts is not None:
            texts[role] = loaded.texts
    heads, stage = _heads_and_stage(spec, parts, found, faults)
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in faults)
        raise JudgesError(f"the judge set {spec.name!r} does not load:{listed}")
    nouns = spec.clip_r.options.get("nouns", NOUNS)
    return Judges(
        name=spec.name,
        digests={role: located.digest for role, located in found.items()},
        dino=eyes["dino"],
        clip_r=eyes["clip_r"],
        clip_iqa=eyes["clip_iqa"],
        lpips=eyes["lpips"],
        fid=eyes["fid"],
        clip_r_texts=texts["clip_r"],
        clip_iqa_texts=texts["clip_iqa"],
        nouns=clip_r.read_nouns(nouns),
        heads=[head.to(where) for head in heads],
        logit_scale=float(spec.clip_iqa.options.get("logit_scale", 100.0)),
        fid_stage=stage,
        fid_scale=float(spec.fid.options.get("scale", 1.0)),
        fid_resize=fid_resize,
        device=where,
    )


def _short_digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _device(device: str | torch.device) -> torch.device:
    """The device named, or the GPU if there is one.

    Raises:
        JudgesError: torch knows no such device, or it is not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise JudgesError(f"device {str(device)!r} cannot be used ({reason}); try auto or cpu") from error
    return found


def _heads_and_stage(
    spec: JudgeSpec, parts: dict[str, Loaded], found: dict[str, Located], faults: list[str]
) -> tuple[list[Tensor], int]:
    """LPIPS' heads and FID's stage, checked against the trunks; what does not fit is added to `faults`."""
    heads: list[Tensor] = []
    stage = int(spec.fid.options.get("stage", 0))
    trunk, fid = parts.get(found["lpips"].digest), parts.get(found["fid"].digest)
    if trunk is not None:
        try:
            heads = read_heads(spec.lpips, trunk.channels)
        except (ValueError, OSError, KeyError, SafetensorError) as error:
            faults.append(f"lpips: {error}")
    if fid is not None and not 0 <= stage < len(fid.channels):
        faults.append(f"fid: stage {stage} is not one of 0…{len(fid.channels) - 1}")
    return heads, stage
