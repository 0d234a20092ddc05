"""LPIPS against the lpips package and torchmetrics, on the same random trunk and the real heads."""

from pathlib import Path

import lpips as lpips_package
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS as TorchmetricsLpips
from torchvision.models import squeezenet1_1
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

from evaluation.judges import NetworkSpec
from evaluation.loaders import LOADERS, read_heads
from evaluation.lpips import TargetBuilder, lpips_distances, uniform_heads
from evaluation.trunks import SqueezeTrunk
from evaluation.weights import Located
from tests.evaluation.tiny import picture, random_trunk


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the format of torchvision's file."""
    torch.manual_seed(0)
    path: Path = tmp_path_factory.mktemp("squeeze") / "squeezenet1_1.pth"
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def _ours(squeeze: Path, generated: list[Image.Image], references: list[Image.Image]) -> Tensor:
    spec = NetworkSpec("squeeze", path=squeeze)
    eye = LOADERS["squeeze"](Located(spec, squeeze, ""), torch.device("cpu"), "tf1").eye
    heads = read_heads(spec, SqueezeTrunk.CHANNELS)

    def look(pictures: list[Image.Image]) -> list[Tensor]:
        return eye.forward(torch.stack([torch.from_numpy(eye.prepare(p)) for p in pictures]))

    with torch.inference_mode():
        builder = TargetBuilder(heads)
        builder.add(look(references[:2]))
        builder.add(look(references[2:]))
        return lpips_distances(look(generated), builder.target(), heads)


def _as_the_checker(pictures: list[Image.Image]) -> Tensor:
    """Resize of the PIL picture, ToTensor, [−1, 1]."""
    prepare = Compose([Resize((256, 256)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    return torch.stack([prepare(p) for p in pictures])


@pytest.mark.parametrize("package", ["lpips", "torchmetrics"])
def test_mean_over_all_pairs_equals(squeeze: Path, package: str) -> None:
    generated = [picture(i, 90) for i in range(2)]
    references = [picture(10 + i, 120) for i in range(3)]
    theirs = _their_network(package, squeeze)
    x, r = _as_the_checker(generated), _as_the_checker(references)
    with torch.inference_mode():
        pairs = [[float(theirs(a[None], b[None])) for b in r] for a in x]
    assert _ours(squeeze, generated, references).tolist() == pytest.approx(
        np.mean(pairs, 1).tolist(), rel=1e-4
    )


def _their_network(package: str, squeeze: Path) -> torch.nn.Module:
    network: torch.nn.Module
    if package == "lpips":
        network = lpips_package.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
        slices = [network.get_submodule(f"net.slice{i}") for i in range(1, 8)]
    else:
        network = TorchmetricsLpips(net="squeeze", pnet_rand=True)
        slices = [network.get_submodule(f"net.slices.{i}") for i in range(7)]
    state = torch.load(squeeze, weights_only=True)
    for one in slices:
        for name, parameter in one.named_parameters():
            parameter.data.copy_(state[f"features.{name}"])
    return network.eval()


def test_of_a_picture_with_itself_is_zero(squeeze: Path) -> None:
    one = picture(3, 80)
    assert float(_ours(squeeze, [one], [one, one, one])) == pytest.approx(0, abs=1e-5)


def test_uniform_heads_are_the_mean_of_one_minus_cosine() -> None:
    trunk = random_trunk()
    x, r = torch.randn(2, 3, 32, 32), torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        seen_x, seen_r = trunk(x), trunk(r)
        heads = uniform_heads([s.channels for s in trunk.config.stages])
        builder = TargetBuilder(heads)
        builder.add(seen_r)
        ours = lpips_distances(seen_x, builder.target(), heads)
        pairs = torch.zeros(2, 3)
        for a, b in zip(seen_x, seen_r, strict=True):
            cosine = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=2)
            # Where ReLUs leave nothing, there is nothing to differ.
            norms = a[:, None].norm(dim=2) > 0, b[None].norm(dim=2) > 0
            one_minus = torch.where(norms[0] & norms[1], 1 - cosine, 0.5 * (norms[0] ^ norms[1]))
            pairs += one_minus.mean((2, 3)) / len(seen_x)
    assert torch.allclose(ours.float(), pairs.mean(1), atol=1e-5)


def test_maps_of_different_sizes_are_refused() -> None:
    heads = uniform_heads([4])
    builder = TargetBuilder(heads)
    builder.add([torch.rand(1, 4, 8, 8)])
    with pytest.raises(ValueError, match="one size"):
        lpips_distances([torch.rand(1, 4, 9, 9)], builder.target(), heads)
    with pytest.raises(ValueError, match="one size"):
        builder.add([torch.rand(1, 4, 9, 9)])


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "heads.safetensors"
    save_file({"lin0.weight": torch.rand(1, 4, 1, 1), "lin1.weight": torch.rand(3)}, path)
    spec = NetworkSpec("trunk", path=tmp_path, options={"heads": path})
    assert [len(head) for head in read_heads(spec, (4, 3))] == [4, 3]
    with pytest.raises(ValueError, match=r"\[4, 5\] weights"):
        read_heads(spec, (4, 5))
