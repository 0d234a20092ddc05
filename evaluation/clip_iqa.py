"""CLIP-IQA: which of "Good photo." and "Bad photo." fits better? (Wang et al. 2022)."""

from torch import Tensor
from torch.nn import functional as F

PROMPTS = ("Good photo.", "Bad photo.")


def iqa_scores(pictures: Tensor, pair: Tensor, logit_scale: float = 100.0) -> Tensor:
    """Probability of the first of two texts, softmax over `logit_scale` × cosine.

    `pictures` (N, d), `pair` (2, d) → (N,) in [0, 1].
    """
    cosines = F.normalize(pictures, dim=1) @ F.normalize(pair, dim=1).T
    return (logit_scale * cosines).softmax(-1)[:, 0].double()
