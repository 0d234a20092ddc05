"""The drawn training set: pairs of pictures in one style, rendered by many processes, kept as one array."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.mini.world import MIX, NAMED_STYLES, OBJECTS, PLAIN, caption, describe, paint, random_style

UInt8 = npt.NDArray[np.uint8]
Pair = tuple[UInt8, list[int], int, list[str]]
CHUNK = 32


@dataclass(frozen=True)
class Pictures:
    """Pictures 2i and 2i + 1 share a style. All tensors lie on one device.

    pixels: uint8 (N, H, W, 3); label: index in `OBJECTS` (N,); style: equal for equal styles (N,), plain
    is 0; caption: index in `captions` (N,).
    """

    pixels: Tensor
    label: Tensor
    style: Tensor
    caption: Tensor
    captions: tuple[str, ...]

    def unit(self, pick: Tensor) -> Tensor:
        """Chosen pictures as float (B, 3, H, W) in [0, 1]."""
        return self.pixels[pick].permute(0, 3, 1, 2).float() / 255


def render_pair(index: int, seed: int) -> Pair:
    """Pair `index` of the set: pixels (2, H, W, 3), two labels, a style id, two captions."""
    rng = np.random.default_rng([seed, index])
    kind = int(rng.choice(len(MIX), p=np.array(MIX) / sum(MIX)))
    style, name, style_id = PLAIN, None, 0
    if kind == 1:
        number = int(rng.integers(len(NAMED_STYLES)))
        name = list(NAMED_STYLES)[number]
        style, style_id = NAMED_STYLES[name], 1 + number
    elif kind == 2:
        style, style_id = random_style(rng), 1 + len(NAMED_STYLES) + index
        name = describe(style, rng)
    labels = [int(i) for i in rng.choice(len(OBJECTS), 2, replace=False)]
    pixels = np.stack([paint(OBJECTS[i], style, rng) for i in labels])
    return pixels, labels, style_id, [caption(OBJECTS[i], name) for i in labels]


def _render_chunk(indices: list[int], seed: int) -> list[Pair]:
    return [render_pair(i, seed) for i in indices]


def _all_pairs(chunks: list[list[int]], seed: int, workers: int) -> Iterator[Pair]:
    if workers == 1:
        yield from (pair for chunk in chunks for pair in _render_chunk(chunk, seed))
        return
    # Not fork: the trainer may hold a CUDA context. One OpenCV thread for each process.
    with multiprocessing.get_context("spawn").Pool(workers, cv2.setNumThreads, (1,)) as pool:
        for results in pool.imap(partial(_render_chunk, seed=seed), chunks):
            yield from results


def render(pairs: int, seed: int, folder: Path, workers: int | None = None) -> None:
    """Write `pairs` pairs to `folder`, once: a folder that is complete is left alone."""
    if (folder / "facts.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    probe = render_pair(0, seed)[0]
    beside = folder / "pixels.part.npy"
    pixels = np.lib.format.open_memmap(beside, "w+", np.uint8, (2 * pairs, *probe.shape[1:]))
    facts: dict[str, list[object]] = {"label": [], "style": [], "caption": []}
    chunks = [list(range(i, min(i + CHUNK, pairs))) for i in range(0, pairs, CHUNK)]
    place = 0
    for two, labels, style, captions in _all_pairs(chunks, seed, workers or os.cpu_count() or 1):
        pixels[place : place + 2] = two
        facts["label"] += labels
        facts["style"] += [style, style]
        facts["caption"] += captions
        place += 2
    pixels.flush()
    os.replace(beside, folder / "pixels.npy")
    (folder / "facts.part").write_text(json.dumps(facts), encoding="utf-8")
    os.replace(folder / "facts.part", folder / "facts.json")


def load(folder: Path, device: torch.device) -> Pictures:
    """Read what `render` wrote on to `device`."""
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    captions = tuple(sorted(set(facts["caption"])))
    number = {text: i for i, text in enumerate(captions)}
    pixels = torch.from_numpy(np.load(folder / "pixels.npy"))

    def ints(values: list[int]) -> Tensor:
        return torch.tensor(values, device=device)

    return Pictures(
        pixels=pixels.to(device),
        label=ints(facts["label"]),
        style=ints(facts["style"]),
        caption=ints([number[text] for text in facts["caption"]]),
        captions=captions,
    )
