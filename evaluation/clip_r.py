"""CLIP-R: is the prompt among the five nouns that fit the picture best?"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

TOP = 5


def read_nouns(path: Path) -> tuple[str, ...]:
    """The candidate nouns of a file, one a line: lower case, each once, sorted."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(sorted({line.strip().lower() for line in lines if line.strip()}))


def wanted_noun(prompt: str) -> str:
    """What a picture of this name should show: its stem up to the first dot, in lower case."""
    return prompt.split(".")[0].lower()


def candidates(nouns: Sequence[str], prompt: str) -> list[str]:
    """set(nouns ∪ {the prompt}), in a fixed order."""
    wanted = wanted_noun(prompt)
    return [*nouns] if wanted in nouns else [*nouns, wanted]


def cosines(picture: Tensor, texts: Tensor) -> Tensor:
    """How near each candidate is to a picture: `picture` (d,), `texts` (T, d) → (T,) in [−1, 1]."""
    return F.normalize(texts, dim=1) @ F.normalize(picture, dim=0)


def best_nouns(nearness: Tensor, names: Sequence[str]) -> list[str]:
    """The five nearest candidates, nearest first; `nearness` (T,)."""
    return [names[i] for i in nearness.topk(min(TOP, len(names))).indices.tolist()]


def probability(nearness: Tensor, names: Sequence[str], wanted: str, scale: float = 100.0) -> float:
    """The softmax share of one candidate, CLIP's logits being `scale` · cosine (100 in OpenAI's models)."""
    return float((scale * nearness.double()).softmax(0)[list(names).index(wanted)])
