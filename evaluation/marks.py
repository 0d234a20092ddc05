"""What one style adds to a set's score, as an object and as files, so that a set can be put together later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluation.errors import ScoreError
from evaluation.fid import distances_without, frechet_distance, full_rank
from evaluation.folders import Fault
from evaluation.formula import FID_NEEDS, check_metrics, fid_is_defined
from evaluation.report import ScoreReport, StyleScore

_NUMBERS, _VECTORS = "marks.json", "fid.safetensors"


@dataclass(frozen=True)
class StyleMarks:
    """A style's numbers, and what FID needs of it: vectors of its pictures (N, k) and of its references (M, k).

    `judges` and `variants` say who gave them, as in a report.
    """

    score: StyleScore
    generated: Tensor
    references: Tensor
    judges: Mapping[str, Any]
    variants: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Write `marks.json` and `fid.safetensors`; `read` gives the same numbers to the last bit."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"generated": self.generated.contiguous(), "references": self.references.contiguous()},
            folder / _VECTORS,
        )
        content = {
            "score": self.score.to_json(),
            "judges": dict(self.judges),
            "variants": dict(self.variants),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / _NUMBERS).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "StyleMarks":
        """What `write` left in a folder. Raises: OSError, ValueError or KeyError where it is not that."""
        content = json.loads((folder / _NUMBERS).read_text(encoding="utf-8"))
        vectors = load_file(folder / _VECTORS)
        return cls(
            score=StyleScore.from_json(content["score"]),
            generated=vectors["generated"],
            references=vectors["references"],
            judges=content["judges"],
            variants=content["variants"],
        )


def report_of(
    marks: Mapping[str, StyleMarks], missing: Sequence[str] = (), faults: Sequence[Fault] = ()
) -> ScoreReport:
    """The report over some styles: means of their numbers, FID over the pool of their vectors. No network is needed.

    Raises:
        ScoreError: no style, marks of different judges, or a metric that is not finite.
    """
    if not marks:
        raise ScoreError("no score yet: no style was added")
    first = next(iter(marks.values()))
    others = [
        style for style, one in marks.items() if (one.judges, one.variants) != (first.judges, first.variants)
    ]
    if others:
        raise ScoreError(f"styles {', '.join(others)} were marked by other judges: score the whole set again")
    generated = torch.cat([one.generated for one in marks.values()])
    references = torch.cat([one.references for one in marks.values()])
    defined = fid_is_defined(len(generated), len(references))
    scale = float(first.judges["settings"]["fid_scale"])
    report = ScoreReport(
        styles={style: one.score for style, one in marks.items()},
        fid=scale * frechet_distance(generated.numpy(), references.numpy()) if defined else None,
        judges=dict(first.judges),
        variants=dict(first.variants),
        missing=sorted(missing),
        faults=[*faults, *_fid_faults(len(generated), *references.shape)],
        fid_without=_without(marks, scale),
    )
    check_metrics(report.metrics)
    return report


def _without(marks: Mapping[str, StyleMarks], scale: float) -> dict[str, float]:
    """FID of the set without each style; empty where it is not defined."""
    generated = [one.generated.numpy() for one in marks.values()]
    references = [one.references.numpy() for one in marks.values()]
    rest = distances_without(generated, references)
    return {} if rest is None else {s: scale * fid for s, fid in zip(marks, rest, strict=True)}


def _fid_faults(n: int, m: int, dims: int) -> list[Fault]:
    counts = f"{n} generated and {m} reference pictures"
    if not fid_is_defined(n, m):
        message = f"{FID_NEEDS}, there are {counts}: no FID and no final score"
        return [Fault("fid_undefined", "error", message)]
    if full_rank(n, m, dims):
        return []
    message = f"FID rests on {counts} for {dims} dimensions: compare it with sets of this size only"
    return [Fault("fid_small", "note", message)]
