"""Networks that look at pictures and read texts, whatever their kind."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluation.pictures import Picture
from evaluation.preprocess import Chw, Preprocess

LARGE = 1024 * 1024
"""Pixels of a picture that is not prepared ahead: for all networks at once a batch of such would take gigabytes."""


class TextReader(Protocol):
    """A text tower: `encode` gives (T, d), not normalised; `digest` names weights and tokenizer."""

    digest: str
    device: torch.device

    def encode(self, texts: Sequence[str]) -> Tensor:
        """The vectors of some texts, on the CPU."""
        ...


@dataclass(eq=False)
class Eye:
    """A network and its preprocessing. `digest` names both; two roles with equal digests share one eye.

    `forward` takes (N, 3, H, W) through `network` and gives one tensor per stage, or one (N, d) tensor. `seen` counts
    pictures.
    """

    network: nn.Module
    digest: str
    prepare: Preprocess
    forward: Callable[[Tensor], list[Tensor]]
    device: torch.device
    seen: int = 0

    def look(self, pictures: Sequence[Picture], pool: Executor) -> list[tuple[list[int], list[Tensor]]]:
        """One pass over some pictures, see `see`."""
        return self.see(list(pool.map(lambda picture: self.prepare(picture.rgb), pictures)))

    def see(self, prepared: Sequence[Chw]) -> list[tuple[list[int], list[Tensor]]]:
        """One pass over prepared pictures: groups of (indices, what was seen), a group per size."""
        by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, array in enumerate(prepared):
            by_size[array.shape].append(i)
        groups = []
        for indices in by_size.values():
            batch = torch.stack([torch.from_numpy(prepared[i]) for i in indices]).to(self.device)
            self.seen += len(indices)
            with torch.inference_mode(), exact(self.device):
                groups.append((indices, self.forward(batch)))
        return groups


class Glance:
    """Some pictures and what each eye saw in them: an eye looks at most once, however many roles ask."""

    def __init__(self, pictures: Sequence[Picture], pool: Executor) -> None:
        self.pictures, self.pool = pictures, pool
        self._seen: dict[str, list[tuple[list[int], list[Tensor]]]] = {}
        self._begun: list[Future[dict[str, Chw]]] = []

    def begin(self, eyes: Iterable[Eye]) -> None:
        """Start to decode the pictures and to prepare them for some eyes, while networks look at others.

        Large ones are only decoded.
        """
        distinct = {eye.digest: eye for eye in eyes}
        self._begun = [self.pool.submit(_prepared, picture, distinct) for picture in self.pictures]

    def of(self, eye: Eye) -> list[tuple[list[int], list[Tensor]]]:
        """The groups that `Eye.look` gave, or gives now."""
        if eye.digest not in self._seen:
            begun = [one.result() for one in self._begun]
            if begun and all(eye.digest in one for one in begun):
                self._seen[eye.digest] = eye.see([one.pop(eye.digest) for one in begun])
            else:
                self._seen[eye.digest] = eye.look(self.pictures, self.pool)
        return self._seen[eye.digest]

    def rows(self, eye: Eye, reduce: Callable[[list[Tensor]], Tensor]) -> Tensor:
        """`reduce` of what was seen, one row per picture, in the pictures' order, on the CPU."""
        found: dict[int, Tensor] = {}
        for indices, seen in self.of(eye):
            with torch.inference_mode():
                found.update(zip(indices, reduce(seen).cpu(), strict=True))
        return torch.stack([found[i] for i in range(len(self.pictures))])


def _prepared(picture: Picture, eyes: Mapping[str, Eye]) -> dict[str, Chw]:
    if picture.rgb.width * picture.rgb.height > LARGE:
        return {}
    return {digest: eye.prepare(picture.rgb) for digest, eye in eyes.items()}


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Full float32, whatever the caller has set: TF32 or autocast would move scores between machines."""
    knobs = _precision_knobs()
    before = [getattr(knob, name) for knob, name, _ in knobs]
    try:
        for knob, name, exact in knobs:
            setattr(knob, name, exact)
        with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (knob, name, _), value in zip(knobs, before, strict=True):
            setattr(knob, name, value)


def _precision_knobs() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, exact value); torch 2.9 renamed them and forbids mixing old and new names."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return [(matmul, "fp32_precision", "ieee"), (cudnn.conv, "fp32_precision", "ieee")]
    return [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]
