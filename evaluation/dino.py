"""DINO similarity: does a picture feel like the references? (DINOv2, Oquab et al. 2023)."""

from torch import Tensor
from torch.nn import functional as F


def dino_scores(generated: Tensor, references: Tensor) -> Tensor:
    """Mean cosine of each generated vector with all reference vectors.

    (N, d) and (M, d) → (N,) in [−1, 1].
    """
    return (F.normalize(generated.double(), dim=1) @ F.normalize(references.double(), dim=1).T).mean(1)
