"""Scoring, style by style as pictures arrive, or a whole folder at once."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from evaluation import clip_iqa, clip_r
from evaluation.cache import FeatureCache, default_cache_dir
from evaluation.dino import dino_scores
from evaluation.errors import FoldersError, ScoreError
from evaluation.eyes import Glance, exact
from evaluation.fid import Resize, full_rank
from evaluation.folders import Fault, read_layout
from evaluation.formula import check_metrics
from evaluation.histogram import Variant, colour_histograms, colour_score
from evaluation.judges import JudgeSpec
from evaluation.jury import Judges, load_judges
from evaluation.lpips import lpips_distances
from evaluation.marks import StyleMarks, report_of
from evaluation.pictures import Picture, as_picture, chunks, decodable
from evaluation.references import ReferenceReader, StyleTarget
from evaluation.report import PictureScore, ScoreReport, StyleScore
from evaluation.texts import TextFeatures

Source = Path | str | Image.Image
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class ScoreOptions:
    """How to score. Only `histogram` and `fid_resize` can change a number, and both stand in the report.

    `cache`: folder of features, None for none. `strict`: refuse folders with errors or warnings.

    Raises:
        ValueError: a batch size below 1.
    """

    histogram: Variant = "official"
    fid_resize: Resize = "tf1"
    device: str = "auto"
    batch_size: int = 16
    cache: Path | str | None = field(default_factory=default_cache_dir)
    strict: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, it must be at least 1")


def score_folders(
    generated: Path | str,
    references: Path | str,
    judges: str | Path | JudgeSpec | Judges = "challenge",
    options: ScoreOptions | None = None,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score `generated/NN/PROMPT.png` against `references/NN/images/*`, the whole set.

    `progress(style, pictures done, pictures in all)` is called after every batch.

    Raises:
        FoldersError: nothing to score, or faults under `options.strict` (all are listed).
        JudgesError: a network cannot be had; said before any picture is scored.
        ScoreError: a network gives NaN.
    """
    options = options or ScoreOptions()
    layout = read_layout(generated, references)
    serious = [f"{fault.severity}: {fault.message}" for fault in layout.faults if fault.severity != "note"]
    if options.strict and serious:
        raise FoldersError("refused, because of --strict:" + "".join(f"\n  - {line}" for line in serious))
    scorer = Scorer(judges, options, progress=progress)
    scorer.expect(sum(len(style.generated) for style in layout.styles))
    for style in layout.styles:
        if style.generated and style.references:
            scorer.add_readable(style.id, style.generated, style.references)
    if not scorer.styles:
        listed = "".join(f"\n  - {fault.message}" for fault in layout.faults)
        raise FoldersError(f"{generated}: nothing to score{listed}")
    report = scorer.result()
    if options.strict and any(fault.severity == "error" for fault in report.faults):
        raise FoldersError("refused, because of --strict: " + "; ".join(f.message for f in report.faults))
    missing = sorted([*layout.missing, *report.missing])
    return replace(report, missing=missing, faults=[*layout.faults, *report.faults])


class Scorer:
    """Scores styles as they arrive: `add_style` for each, then `result`.

    The networks are loaded once and each sees every picture at most once. Not for use from several threads.
    """

    def __init__(
        self,
        judges: str | Path | JudgeSpec | Judges = "challenge",
        options: ScoreOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.options = options = options or ScoreOptions()
        if not isinstance(judges, Judges):
            judges = load_judges(judges, device=options.device, fid_resize=options.fid_resize)
        self.judges = judges
        self.faults: list[Fault] = []
        self.missing: list[str] = []
        self._cache = FeatureCache(options.cache)
        self._references = ReferenceReader(judges, options.histogram, self._cache, options.batch_size)
        self._texts = TextFeatures(judges, self._cache)
        self._marks: dict[str, StyleMarks] = {}
        self._progress, self._done, self._all = progress, 0, 0

    @property
    def styles(self) -> dict[str, StyleScore]:
        """The scores of the styles so far."""
        return {style: marks.score for style, marks in self._marks.items()}

    def expect(self, pictures: int) -> None:
        """How many pictures will come in all, for `progress`."""
        self._all = pictures

    def add_style(
        self, style: str, generated: Mapping[str, Source], references: Sequence[Source]
    ) -> StyleScore:
        """Score one style: pictures by prompt, against its references (files or PIL pictures).

        Raises:
            ValueError: nothing to score, or a style that was added before.
            PictureError: a picture that cannot be read; nothing is added then.
            ScoreError: a network gives NaN; nothing is added then.
        """
        self._check_new(style)
        self._marks[style] = self.marks(style, generated, references)
        return self._marks[style].score

    def marks(self, style: str, generated: Mapping[str, Source], references: Sequence[Source]) -> StyleMarks:
        """What `add_style` would add, without adding it; `evaluation.marks.report_of` puts several together.

        Raises as `add_style`, but knows no styles that were there before.
        """
        marks = self._mark(style, generated, references, skip=False)
        assert marks is not None
        return marks

    def similarities(
        self, pictures: Mapping[str, Source], references: Sequence[Source]
    ) -> dict[str, list[float]]:
        """DINO cosines of each picture with each reference, in the order given.

        Raises:
            PictureError: a picture that cannot be read.
            ScoreError: the network gives NaN.
        """
        with _threads() as pool, exact(self.judges.device):
            target = self._vectors([as_picture(str(i), source) for i, source in enumerate(references)], pool)
            own = self._vectors([as_picture(name, source) for name, source in pictures.items()], pool)
        rows = (own @ target.T).tolist()
        return dict(zip(pictures, rows, strict=True))

    def _vectors(self, pictures: Sequence[Picture], pool: Executor) -> Tensor:
        """Unit DINO vectors (N, d)."""
        eye, vectors = self.judges.dino, []
        for chunk in chunks(pictures, self.options.batch_size):
            rows = Glance(chunk, pool).rows(eye, lambda seen: seen[0].float())
            vectors.append(F.normalize(rows.double(), dim=1))
        if not torch.isfinite(found := torch.cat(vectors)).all():
            raise ScoreError("dino gives NaN; look at the judges' weights")
        return found

    def add_readable(
        self, style: str, generated: Mapping[str, Source], references: Sequence[Source]
    ) -> StyleScore | None:
        """`add_style` that records undecodable files as faults and scores the rest; None if none is left."""
        self._check_new(style)
        marks = self._mark(style, generated, references, skip=True)
        if marks is not None:
            self._marks[style] = marks
        return None if marks is None else marks.score

    def _mark(
        self, style: str, generated: Mapping[str, Source], references: Sequence[Source], skip: bool
    ) -> StyleMarks | None:
        _check_some(style, generated, references)
        with _threads() as pool, exact(self.judges.device):
            sources = [as_picture(str(i), source) for i, source in enumerate(references)]
            if skip:
                sources, errors = self._references.check(sources, pool)
                self._note_unreadable(style, errors)
            if not sources:
                return None
            pictures = [as_picture(prompt, source) for prompt, source in generated.items()]
            glances = self._glances(style, pictures, pool, skip)
            first = next(glances)  # prepared while the references are looked at
            target = self._references.read(sources, pool)
            scores, vectors = self._pictures(style, chain([first], glances), target)
        if not scores:
            return None
        meaningful = full_rank(len(vectors), *target.fid.shape)
        fid = self.judges.fid_distance(vectors, target.fid) if meaningful else None
        variants = {"histogram": self.options.histogram, "fid_resize": self.judges.fid_resize}
        return StyleMarks(_style_score(scores, fid), vectors, target.fid, self.judges.to_json(), variants)

    def _check_new(self, style: str) -> None:
        if style in self._marks:
            raise ValueError(f"style {style!r} was added before; a Scorer takes each style once")

    def _glances(
        self, style: str, pictures: Sequence[Picture], pool: Executor, skip: bool
    ) -> Iterator[tuple[int, Glance]]:
        """Batches that are being prepared, and how many pictures each had before undecodable ones were left out."""
        for some in chunks(pictures, self.options.batch_size):
            # Copies, so that a style's decoded pictures are not all held until its end.
            chunk: Sequence[Picture] = [replace(picture) for picture in some]
            if skip:
                chunk, errors = decodable(chunk, pool)
                self._note_unreadable(style, errors)
                self.missing += [f"{style}/{name}" for name in _names(some) - _names(chunk)]
            glance = Glance(chunk, pool)
            glance.begin(self.judges.eyes)
            yield len(some), glance

    def _pictures(
        self, style: str, glances: Iterable[tuple[int, Glance]], target: StyleTarget
    ) -> tuple[dict[str, PictureScore], Tensor]:
        scores: dict[str, PictureScore] = {}
        vectors: list[Tensor] = [target.fid[:0]]
        for count, glance in _one_ahead(glances):
            if glance.pictures:
                batch, fid = self._batch(style, glance, target)
                scores.update(batch)
                vectors.append(fid)
            self._report(style, count)
        return scores, torch.cat(vectors)

    def _note_unreadable(self, style: str, errors: Sequence[str]) -> None:
        self.faults += [Fault("unreadable", "error", error, style) for error in errors]

    def result(self) -> ScoreReport:
        """The report over all styles so far; it may be asked for again after more styles.

        Raises:
            ScoreError: no style was added, or a metric is not finite.
        """
        return report_of(self._marks, self.missing, self.faults)

    def _batch(
        self, style: str, glance: Glance, target: StyleTarget
    ) -> tuple[dict[str, PictureScore], Tensor]:
        judges, pictures = self.judges, glance.pictures
        lpips = glance.rows(judges.lpips, lambda seen: lpips_distances(seen, target.lpips, judges.heads))
        fid = glance.rows(judges.fid, judges.fid_vectors)
        dino = dino_scores(glance.rows(judges.dino, lambda seen: seen[0].float()), target.dino)
        clip = glance.rows(judges.clip_r, lambda seen: seen[0].float())
        iqa_vectors = glance.rows(judges.clip_iqa, lambda seen: seen[0].float())
        iqa = clip_iqa.iqa_scores(iqa_vectors, self._texts.pair, judges.logit_scale)
        hist = list(glance.pool.map(lambda p: self._colour(p, target), pictures))
        measured: dict[str, Sequence[float] | Tensor] = {
            "dino": dino,
            "hist": hist,
            "lpips": lpips,
            "clip_iqa": iqa,
        }
        scores: dict[str, PictureScore] = {}
        for i, picture in enumerate(pictures):
            values = {name: float(rows[i]) for name, rows in measured.items()}
            # A NaN in the vectors of CLIP-R or FID would hide in a ranking, or show only at the very end.
            hidden = {"clip_r": 0 * float(clip[i].sum()), "fid": 0 * float(fid[i].sum())}
            _check(style, picture.name, {**values, **hidden})
            names = self._texts.candidates(picture.name)
            near, wanted = (
                clip_r.cosines(clip[i], self._texts.vectors(names)),
                clip_r.wanted_noun(picture.name),
            )
            top = clip_r.best_nouns(near, names)
            scores[picture.name] = PictureScore(
                **values,
                clip_r_hit=wanted in top,
                clip_r_probability=clip_r.probability(near, names, wanted, judges.logit_scale),
                clip_r_top5=tuple(top),
            )
        return scores, fid

    def _colour(self, picture: Picture, target: StyleTarget) -> float:
        return colour_score(colour_histograms(picture.pixels, self.options.histogram), target.histograms)

    def _report(self, style: str, pictures: int) -> None:
        self._done += pictures
        if self._progress is not None:
            self._progress(style, self._done, max(self._all, self._done))


def _style_score(scores: dict[str, PictureScore], fid: float | None) -> StyleScore:
    means = {name: _mean(scores, name) for name in ("dino", "hist", "lpips", "clip_iqa")}
    return StyleScore(**means, clip_r=_mean(scores, "clip_r_hit"), fid=fid, pictures=scores)


def _mean(scores: dict[str, PictureScore], name: str) -> float:
    return float(np.mean([getattr(score, name) for score in scores.values()]))


def _check_some(style: str, generated: Mapping[str, Source], references: Sequence[Source]) -> None:
    if not generated or not references:
        raise ValueError(
            f"style {style!r}: {len(generated)} generated pictures and {len(references)} references; "
            "at least one of each is needed"
        )


def _check(style: str, name: str, values: dict[str, float]) -> None:
    try:
        check_metrics(values)
    except ScoreError as error:
        raise ScoreError(f"style {style}, picture {name!r}: {error}; look at the judges' weights") from error


def _names(pictures: Sequence[Picture]) -> set[str]:
    return {picture.name for picture in pictures}


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Each item once the next one has been asked for."""
    before: list[T] = []
    for item in items:
        yield from before
        before = [item]
    yield from before


def _threads() -> ThreadPoolExecutor:
    """Decoding and resizing release the interpreter's lock, so threads help."""
    return ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
