"""Stage 0 (optional): class pictures, drawn by the untouched base, that keep it drawing ordinary things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jdx import draws
from jdx.backends.base import PictureSpec, StyleDrawJob
from jdx.stages.bench import Bench
from jdx.stages.generate import draw, sampler_of


@dataclass(frozen=True)
class ClassPictures:
    """Class pictures by word, and whose they are; both empty when prior preservation is off.

    pictures: {word: its pictures}, each word once however many styles train with it. words: {style: words in
    order}. captions: {style: one per picture, word after word}.
    """

    pictures: Mapping[str, tuple[Path, ...]]
    words: Mapping[str, tuple[str, ...]]
    captions: Mapping[str, tuple[str, ...]]


def class_pictures(bench: Bench) -> ClassPictures:
    """Draw the class pictures that the store lacks; a word is drawn once for all styles."""
    prior, config = bench.config.method.prior, bench.config
    words = {style.id: bench.wording.class_words(style) for style in bench.challenge.styles}
    if not any(words.values()):
        return ClassPictures({}, {}, {})
    jobs = {word: _job(bench, word) for word in sorted({word for some in words.values() for word in some})}
    folders = draw(bench, "prior", jobs, sampler_of(prior.sampler), config.train.resolution)
    pictures = {word: tuple(sorted(folder.glob("*.png"))) for word, folder in folders.items()}
    captions = {word: bench.wording.shared(prior.caption, word) for word in folders}
    return ClassPictures(
        pictures,
        words,
        {s: tuple(captions[word] for word in some for _ in pictures[word]) for s, some in words.items()},
    )


def _job(bench: Bench, word: str) -> StyleDrawJob:
    prior, seed = bench.config.method.prior, bench.config.train.seed
    prompt = bench.wording.shared(prior.draw, word)
    pictures = tuple(
        # numbered, not named: a word may already be as long as a file name can be
        PictureSpec(f"{n:03d}.png", prompt, "", draws.picture_seed(seed, "class picture", f"{word} {n}"))
        for n in range(prior.per_word)
    )
    return StyleDrawJob(style=word, adapter=None, pictures=pictures)
