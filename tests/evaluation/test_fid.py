"""Fréchet distance and Inception's stem against scipy, torchmetrics and torch-fidelity."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance

from evaluation.fid import (
    WIDEST_PARTED,
    Matrix,
    Resize,
    distances_without,
    frechet_distance,
    full_rank,
    pooled,
    resize_for_inception,
)
from evaluation.judges import NetworkSpec
from evaluation.loaders import LOADERS
from evaluation.weights import Located


def _scipy_fid(a: Matrix, b: Matrix) -> float:
    """The usual program, on SciPy's general matrix root."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root))


def _features(n: int, dims: int, seed: int) -> Matrix:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dims)) @ rng.normal(size=(dims, dims)) + rng.normal(size=dims)


def test_equals_scipy() -> None:
    a, b = _features(90, 16, 0), _features(70, 16, 1)
    assert frechet_distance(a, b) == pytest.approx(_scipy_fid(a, b), rel=1e-9)


def test_zero_of_a_set_with_itself_and_symmetric() -> None:
    a, b = _features(40, 8, 0), _features(50, 8, 1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_of_a_shift_is_its_square() -> None:
    a = _features(40, 8, 0)
    assert frechet_distance(a, a + 0.5) == pytest.approx(8 * 0.25, rel=1e-6)


def test_survives_fewer_pictures_than_dimensions() -> None:
    a, b = _features(5, 32, 0), _features(6, 32, 1)
    assert np.isfinite(frechet_distance(a, b))
    assert not full_rank(5, 6, 32)
    assert full_rank(65, 150, 64)


@pytest.mark.parametrize("bad", [_features(1, 4, 0), _features(9, 5, 0), np.full((9, 4), np.nan)])
def test_refuses_what_has_no_distance(bad: Matrix) -> None:
    with pytest.raises(ValueError, match="FID"):
        frechet_distance(bad, _features(9, 4, 1))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Random weights in the format of torch-fidelity's file, all of the network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path: Path = tmp_path_factory.mktemp("inception") / "weights-inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        # The constructor insists on loading; hand it nothing, then keep its random weights.
        name = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
        patch.setattr(name, lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["64"])
    state = network.state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        if key.endswith("running_mean"):
            value.normal_(std=0.2)
    torch.save(state, path)
    yield path
    path.unlink()


def _noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (400, 400, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize", ["tf1", "antialias"])
def test_equals_torchmetrics_on_the_same_weights(inception: Path, resize: Resize) -> None:
    spec = NetworkSpec("inception", path=inception)
    eye = LOADERS["inception"](Located(spec, inception, "digest"), torch.device("cpu"), resize).eye
    theirs = FrechetInceptionDistance(
        feature=64, feature_extractor_weights_path=str(inception), antialias=resize == "antialias"
    ).set_dtype(torch.float64)
    sides = []
    for first, real in ((0, True), (50, False)):
        # Larger than 299: only a shrinking resize can be antialiased.
        pictures = [_noise(first + i) for i in range(6)]
        stack = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
        theirs.update(stack, real=real)
        batch = torch.stack([torch.from_numpy(eye.prepare(p)) for p in pictures])
        with torch.inference_mode():
            sides.append(pooled(eye.forward(batch)[0]).numpy())
    assert frechet_distance(*sides) == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_tf1_resize_equals_torch_fidelity() -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = torch.rand(1, 3, 70, 512) * 255
    theirs = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert torch.allclose(resize_for_inception(x, "tf1"), theirs, atol=1e-3)


def test_unknown_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="'cubic' is not one of tf1, antialias"):
        resize_for_inception(torch.zeros(1, 3, 8, 8), "cubic")  # type: ignore[arg-type]


def test_fid_without_each_part_is_scipys_of_the_others() -> None:
    generated = [_features(20, 4, seed) for seed in range(3)]
    references = [_features(15, 4, 10 + seed) for seed in range(3)]
    found = distances_without(generated, references)
    assert found is not None
    for k, fid in enumerate(found):
        a, b = ([part for i, part in enumerate(parts) if i != k] for parts in (generated, references))
        assert fid == pytest.approx(_scipy_fid(np.concatenate(a), np.concatenate(b)), rel=1e-6)


def test_fid_without_a_part_is_not_told_where_it_means_nothing_or_costs_too_much() -> None:
    assert distances_without([_features(20, 4, 0)], [_features(20, 4, 1)]) is None  # nothing is left
    single = [np.ones((1, 4)), np.zeros((1, 4))]
    assert distances_without(single, [_features(5, 4, 0)] * 2) is None
    wide = np.zeros((3, WIDEST_PARTED + 1))
    assert distances_without([wide, wide], [wide, wide]) is None
