"""The VAE prompt enhancer against a plain nn.Module written from its description, apart from any network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from jdx.methods.enhancer import Form, ZeroLayer, enhance, features, first_vector, unpack
from tests.jdx.plain_enhancer import Published

SD21 = Form(4, 77, 1024)
MINI = Form(4, 32, 192)


def moments(style: int, pictures: int = 3, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(style)
    shape = (pictures, 4, side, side)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64) * 4
    return mean, torch.rand(shape, generator=generator, dtype=torch.float64) * 0.2


def random_flat(form: Form, K: int) -> Tensor:
    """Parameters far from any start, so that no gradient is zero."""
    first = torch.stack([first_vector(form, "first", 3, str(k)) for k in range(K)]).double()
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return (first + 0.1 * noise).requires_grad_()


def test_size_is_the_published_one() -> None:
    assert SD21.size == sum(p.numel() for p in Published().parameters()) == 42_387
    assert (SD21.grid, SD21.hidden, SD21.groups) == ((32, 32), 38, (4, 19, 2))


def test_stacked_equals_the_plain_module_in_forward_and_gradients() -> None:
    """Three styles of different numbers of pictures, each against a module of its own."""
    flat = random_flat(SD21, 3)
    of_style = [moments(k, pictures=k + 1) for k in range(3)]
    seen = torch.stack([features(mean, std, SD21) for mean, std in of_style])
    out = enhance(flat, seen, SD21)
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (grad,) = torch.autograd.grad((out * pull).sum(), flat)
    for k, (mean, std) in enumerate(of_style):
        plain = Published().double()
        plain.load_state_dict({name: p[k].detach() for name, p in unpack(flat, SD21).items()})
        want = plain(std.mean(0, keepdim=True), mean.mean(0, keepdim=True))
        assert torch.allclose(out[k], want[0], rtol=0, atol=1e-12)
        names, parameters = zip(*plain.named_parameters(), strict=True)
        wanted = torch.autograd.grad((want[0] * pull[k]).sum(), parameters)
        ours = unpack(grad[k : k + 1], SD21)
        for name, want_grad in zip(names, wanted, strict=True):
            assert torch.allclose(ours[name][0], want_grad, rtol=1e-9, atol=1e-9), name
            assert want_grad.abs().max() > 0, name


@pytest.mark.parametrize("form", [SD21, MINI, Form(16, 77, 768), Form(3, 30, 7)], ids=str)
def test_stacked_equals_alone_for_any_sizes(form: Form) -> None:
    flat = random_flat(form, 3)
    seen = torch.rand(3, 2 * form.channels, *(2 * n for n in form.grid), dtype=torch.float64)
    out = enhance(flat, seen, form)
    assert out.shape == (3, form.tokens, form.width)
    for k in range(3):
        assert torch.allclose(enhance(flat[k : k + 1], seen[k : k + 1], form)[0], out[k], atol=1e-12)


def test_512_pixels_are_seen_as_they_are_and_deviations_come_first() -> None:
    mean, std = moments(1)
    assert torch.equal(features(mean, std, SD21), torch.cat([std.mean(0), mean.mean(0)]))


@pytest.mark.parametrize("side", [16, 24, 64, 96])
def test_any_resolution_gives_the_models_own_size(side: int) -> None:
    """Latents of 128 to 768 px; a constant stays the constant it was."""
    for form in (SD21, MINI):
        seen = features(torch.full((2, 4, side, side), 3.0), torch.full((2, 4, side, side), 0.5), form)
        assert seen.shape == (8, *(2 * n for n in form.grid))
        assert torch.allclose(seen[:4], torch.tensor(0.5))
        assert torch.allclose(seen[4:], torch.tensor(3.0))


def test_larger_latents_are_averaged_not_sampled() -> None:
    """Fine stripes at four times the size are grey; two neighbours of every four would show one colour alone."""
    stripes = (torch.arange(256) % 4 % 3 != 0).float().expand(1, 4, 256, 256)  # 0 1 1 0
    assert (features(stripes, stripes, SD21) - 0.5).abs().max() < 0.05


def test_last_zero_layer_starts_at_nothing_and_still_learns() -> None:
    form, seen = MINI, torch.rand(1, 8, 24, 32)
    flat = first_vector(form, "last", 0, "00")[None].requires_grad_()
    out = enhance(flat, seen, form)
    assert not out.any()
    (grad,) = torch.autograd.grad((out - 1).square().sum(), flat)
    assert unpack(grad, form)["conv3.weight"].abs().max() > 0
    second = enhance((flat - 1e-3 * grad.sign()).detach().requires_grad_(), seen, form)
    assert second.abs().max() > 0


def test_first_zero_layer_is_the_published_start() -> None:
    """Not zero: within a token all but the border is one number, whatever the pictures are."""
    seen = torch.rand(1, 8, 64, 64)
    flat = first_vector(SD21, "first", 0, "00")[None]
    out = enhance(flat, seen, SD21).view(77, 32, 32)
    assert torch.equal(out, enhance(flat, torch.rand(1, 8, 64, 64), SD21).view(77, 32, 32))
    inside = out[:, 2:-2, 2:-2]
    assert (inside - inside[:, :1, :1]).abs().max() < 1e-5
    assert out.abs().mean() > 0.1


@pytest.mark.parametrize("zero", ["first", "last"])
def test_first_numbers_have_pytorchs_spread_and_belong_to_the_style(zero: ZeroLayer) -> None:
    vector = first_vector(SD21, zero, 4, "07")
    assert torch.equal(vector, first_vector(SD21, zero, 4, "07"))
    assert not torch.equal(vector, first_vector(SD21, zero, 4, "08"))
    parts = {name: p[0] for name, p in unpack(vector[None], SD21).items()}
    plain = Published().state_dict()
    for name, part in parts.items():
        if name.startswith("norm"):
            assert torch.equal(part, plain[name])
        elif name.split(".")[0] == {"first": "conv1", "last": "conv3"}[zero]:
            assert not part.any()
        else:
            bound = 1 / math.sqrt(math.prod(SD21.shapes[name.split(".")[0] + ".weight"][1:]))
            assert part.abs().max() <= bound
            assert part.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.25)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 channel, 4 tokens"):
        Form(4, 3, 1024)
