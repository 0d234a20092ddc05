"""Fréchet distance of two feature sets (Heusel et al. 2017, eq. 6) in float64; Inception's two resizes."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from evaluation.formula import fid_is_defined

Resize = Literal["tf1", "antialias"]
RESIZES: tuple[str, ...] = get_args(Resize)
INCEPTION_SIDE = 299
WIDEST_PARTED = 256
"""Dimensions up to which FID is also told without each style."""

Matrix = NDArray[np.float64]


def frechet_distance(a: Matrix, b: Matrix) -> float:
    """‖μ_a − μ_b‖² + Tr(Σ_a + Σ_b − 2(Σ_a Σ_b)^½) of features (N, d) and (M, d), N and M >= 2; >= 0.

    Tr (Σ_a Σ_b)^½ is the sum of the roots of the eigenvalues of Σ_a^½ Σ_b Σ_a^½, which is symmetric: no
    complex roots appear, and a covariance without full rank needs no special care.

    Raises:
        ValueError: fewer than two rows, different widths, or values that are not finite.
    """
    if not fid_is_defined(len(a), len(b)) or a.shape[1:] != b.shape[1:]:
        raise ValueError(
            f"FID needs two sets of two or more features of one width, got {a.shape} and {b.shape}"
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("FID: some features are NaN or infinite; look at the network and the pictures")
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    cov_a, cov_b = np.atleast_2d(cov_a), np.atleast_2d(cov_b)
    root = _psd_sqrt(cov_a)
    cross = np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0.0)
    shift = a.mean(0) - b.mean(0)
    distance = shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2.0 * np.sqrt(cross).sum()
    return max(0.0, float(distance))


def full_rank(n: int, m: int, dims: int) -> bool:
    """Whether both sets have more members than dimensions; below, FID measures the sample size."""
    return min(n, m) > dims


def distances_without(a: Sequence[Matrix], b: Sequence[Matrix]) -> list[float] | None:
    """The Fréchet distance of the pool without each of its parts in turn, for parts a[k] (N_k, d) and b[k] (M_k, d).

    None where a pool of one part less has fewer than two rows, or d > 256: one distance costs d³ operations.
    """
    if len(a) < 2 or a[0].shape[1] > WIDEST_PARTED:
        return None
    rest = [(_but(a, k), _but(b, k)) for k in range(len(a))]
    if not all(fid_is_defined(len(generated), len(references)) for generated, references in rest):
        return None
    return [frechet_distance(generated, references) for generated, references in rest]


def _but(parts: Sequence[Matrix], k: int) -> Matrix:
    return np.concatenate([part for i, part in enumerate(parts) if i != k])


def _psd_sqrt(cov: Matrix) -> Matrix:
    values, vectors = np.linalg.eigh(cov)
    root: Matrix = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    return root


def pooled(stage: Tensor) -> Tensor:
    """Global average: (N, C, h, w) → (N, C)."""
    return stage.mean((2, 3))


def resize_for_inception(x: Tensor, how: Resize) -> Tensor:
    """(N, 3, H, W) of 0…255 → (N, 3, 299, 299).

    `tf1`: TensorFlow 1's bilinear, as torchmetrics <= 1.7.4 (the contest's time); `antialias`: torch's
    antialiased bilinear, as torchmetrics >= 1.8.
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    if how == "antialias":
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    if how == "tf1":
        return _along(_along(x, INCEPTION_SIDE, 3), INCEPTION_SIDE, 2)
    raise ValueError(f"FID resize {how!r} is not one of {', '.join(RESIZES)}")


def _along(x: Tensor, size: int, dim: int) -> Tensor:
    """Linear interpolation at i·(old/new), without the half-pixel shift that later TensorFlow added."""
    old = x.shape[dim]
    place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(old / size)
    low = place.long()
    high = (low + 1).clamp_max(old - 1)
    part = (place - low).view([-1 if d == dim else 1 for d in range(x.dim())])
    near, far = x.index_select(dim, low), x.index_select(dim, high)
    return near + (far - near) * part
