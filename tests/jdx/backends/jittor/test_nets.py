"""Jittor's networks against diffusers', transformers' and the torch backend's on the same weights, in float32.

One Jittor process computes everything (`nets_side.py`); the tests here compare.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTokenizer

from jdx import ROOT
from jdx.backends.base import LoraSpec, ModelSpec
from jdx.backends.owners import Owner
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.adapters import LoraPair, canonical_te_path, save_adapter
from jdx.backends.torch.attention import heads, processors, project, self_attentions
from jdx.backends.torch.dropout import KeyedDropout, keep
from jdx.backends.torch.merge import merge
from jdx.backends.torch.models import Models, load
from jdx.backends.torch.stacked import Stack, inject
from tests.jdx.backends.jittor.conftest import Run
from tests.tiny_sd import build_tiny_sd

MODEL = ROOT / "data" / "mini" / "weights" / "model"
TOLERANCE = 1e-5
"""Largest difference over largest value: a tenth of what is promised, ten times what is seen."""
PROMPTS = ("a drawing of a cat, in blue!", "<|endoftext|> Ünïcode’s 42nd   word", "")
TEXTS = (*PROMPTS, "!!", "it's <|startoftext|> 日本 ½ (c) don't", "a " * 40, "naïve\n\ttabs", "cafe\u0301")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
OWNERS = (  # style, seed, UNet, text encoder
    ("00", 1, LoraSpec(2, 4.0, ATTENTION), LoraSpec(2, 1.0, ("q_proj", "v_proj"))),
    ("05", 2, LoraSpec(4, 6.0, ("to_q", "ff.net.2", "proj_in")), LoraSpec(0, 1.0, ())),
    ("11", 1, LoraSpec(3, 1.5, ATTENTION, rslora=True), LoraSpec(3, 6.0, ("fc1", "out_proj"))),
)
HOOKED = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1",
    "up_blocks.2.attentions.1.transformer_blocks.0.attn1",
)


class Compared:
    """What both sides computed for one model."""

    def __init__(self, folder: Path, expected: dict[str, Tensor], about: dict[str, Any]):
        self.folder, self.expected, self.about = folder, expected, about

    def read(self) -> Compared:
        """Take Jittor's answers in."""
        self.answers = safetensors.torch.load_file(self.folder / "answers.safetensors")
        self.told = json.loads((self.folder / "answers.json").read_text())
        return self

    def agree(self, name: str, tolerance: float = TOLERANCE) -> None:
        """Assert that an answer is torch's."""
        wanted, got = self.expected[name].double(), self.answers[name].double()
        assert got.shape == wanted.shape, name
        error = float((got - wanted).abs().max() / wanted.abs().max())
        assert error < tolerance, f"{name}: {error}"


@pytest.fixture(scope="module")
def both(run_in_jittor: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Compared]:
    """The mini model with everything, and ones of SD 2.1's and 1.5's shapes with their passes only."""
    root = tmp_path_factory.mktemp("nets")
    mini = asked_of_mini(root / "mini")
    tiny, old = asked_of_tiny(root / "tiny"), asked_of_old(root / "old")
    run_in_jittor(Path(__file__).with_name("nets_side.py"), mini.folder, tiny.folder, old.folder)
    return {"mini": mini.read(), "tiny": tiny.read(), "old": old.read()}


def asked_of_mini(folder: Path) -> Compared:
    models = load(ModelSpec(str(MODEL)), "cpu", torch.float32)
    given, data, expected, about = plain(models, side=16)
    for part in (a_step(models, data), a_drawing(models, data, folder)):
        given, data, expected, about = given | part[0], data | part[1], expected | part[2], about | part[3]
    inputs, outputs = single_layers()
    data, expected = data | inputs, expected | outputs
    given |= {"broken": broken(folder), "texts": TEXTS, "tokenizers": tokenizers(folder)}
    return written(folder, given, data, expected, about)


def asked_of_tiny(folder: Path) -> Compared:
    """Files as published models have them: a float16 variant, in shards, with old names, in bfloat16."""
    path = build_tiny_sd(folder / "model")
    models = load(ModelSpec(str(path)), "cpu", torch.float32)
    for name in ("unet", "vae", "text_encoder"):
        for file in (path / name).glob("*.safetensors"):
            file.unlink()
    models.unet.half().save_pretrained(path / "unet", variant="fp16", max_shard_size="300KB")
    models.unet.float()
    assert len(list((path / "unet").glob("*.safetensors"))) > 1
    vae = {old_name(key): old_shape(key, value) for key, value in models.vae.half().state_dict().items()}
    models.vae.float()
    safetensors.torch.save_file(vae, path / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    text = models.text_encoder.bfloat16().state_dict()
    text = {"text_model." + key.removeprefix("text_model."): value for key, value in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    models.text_encoder.float()
    safetensors.torch.save_file(text, path / "text_encoder" / "model.safetensors")
    given, data, expected, about = plain(models, side=8)
    return written(folder, given | {"variant": "fp16", "broken": {}}, data, expected, about)


def asked_of_old(folder: Path) -> Compared:
    """Stable Diffusion 1.5's differences: convolutions around transformers, one number of heads, quick GELU."""
    path = build_tiny_sd(folder / "model", prediction_type="epsilon", seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 32, 32),
            attention_head_dim=8,
            cross_attention_dim=32,
            norm_num_groups=8,
        )
    unet.save_pretrained(path / "unet")
    config = path / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "quick_gelu"}))
    models = load(ModelSpec(str(path)), "cpu", torch.float32)
    given, data, expected, about = plain(models, side=8)
    return written(folder, given | {"broken": {}}, data, expected, about)


def old_name(key: str) -> str:
    """An autoencoder's key as diffusers wrote it before 0.15."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        key = key.replace(f".{new}.", f".{old}.")
    return key


def old_shape(key: str, value: Tensor) -> Tensor:
    """Attention weights as 1 × 1 convolutions, as converted checkpoints have them."""
    return value[:, :, None, None].contiguous() if ".to_q.weight" in key else value


def written(
    folder: Path,
    given: dict[str, Any],
    data: dict[str, Tensor],
    expected: dict[str, Tensor],
    about: dict[str, Any],
) -> Compared:
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in data.items()}, folder / "given.safetensors")
    (folder / "given.json").write_text(json.dumps(given))
    return Compared(folder, expected, about)


Parts = tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor], dict[str, Any]]


@torch.no_grad()
def plain(models: Models, side: int) -> Parts:
    """Inputs and torch's answers of a pass through each network."""
    draw = torch.Generator().manual_seed(0)
    x, odd = (
        torch.randn(3, 4, side, side, generator=draw),
        torch.randn(1, 4, side + 3, side - 1, generator=draw),
    )
    pixels, t = torch.rand(1, 3, 8 * side, 8 * side + 8, generator=draw) * 2 - 1, torch.tensor([1, 500, 999])
    states = models.embed(PROMPTS)
    mean, std = models.moments(pixels)
    expected = {
        "states": states,
        "answer": models.unet(x, t, states)[0],
        "mean": mean,
        "std": std,
        "decoded": models.decode(models.scaled(mean)),
        "odd": models.unet(odd, 7, states[:1])[0],
    }
    about = {
        "ids": models.tokenise(PROMPTS).tolist(),
        "linears": linears(models.unet),
        "texts": linears(models.text_encoder),
        "attentions": list(self_attentions(models.unet)),
    }
    data = {"x": x, "odd": odd, "pixels": pixels, "t": t.int(), "mean": mean}
    return {"model": str(models.folder), "prompts": PROMPTS}, data, expected, about


def linears(network: nn.Module) -> list[str]:
    return [
        path.removeprefix("text_model.") for path, m in network.named_modules() if isinstance(m, nn.Linear)
    ]


def a_step(models: Models, data: dict[str, Tensor]) -> Parts:
    """One step of three styles with dropout in both networks, ranks and targets mixed."""
    draw = torch.Generator().manual_seed(1)
    keys, goal = torch.tensor([5, 17, 2**32 - 1]), torch.randn(data["x"].shape, generator=draw)
    dropout = KeyedDropout(0.2)
    dropout.keys = keys
    unet = inject(models.unet, [Owner(o[0], o[1], o[2]) for o in OWNERS], dropout=dropout)
    text_owners = [Owner(o[0], o[1], o[3]) for o in OWNERS]
    text = inject(models.text_encoder, text_owners, rename=canonical_te_path, dropout=dropout)
    first = {"step.first_unet": unet.flat.detach().clone(), "step.first_text": text.flat.detach().clone()}
    new = {"unet_flat": filled(unet, draw), "text_flat": filled(text, draw)}
    x, ids = data["x"].clone().requires_grad_(), models.tokenise(PROMPTS)
    unet.bind()
    text.bind()
    error = models.unet(x, data["t"], models.text_encoder(ids)[0])[0] - goal
    losses = error.square().mean(dim=(1, 2, 3))
    grads = torch.autograd.grad(losses.sum(), [unet.flat, text.flat, x])
    found = dict(zip(("step.unet", "step.text", "step.x"), grads, strict=True))
    layouts = [unet.layout(k) for k in range(len(OWNERS))]
    unet.remove()
    text.remove()
    owners = [(o[0], o[1], {"unet": asdict(o[2]), "text_encoder": asdict(o[3])}) for o in OWNERS]
    given = {"owners": owners, "dropout": 0.2}
    step = {"keys": keys, "goal": goal, "ids": ids, **new}
    return given, step, {**found, **first, "step.losses": losses.detach()}, {"layouts": layouts}


def filled(stack: Stack, draw: torch.Generator) -> Tensor:
    """B is zero at the start, which would hide errors: numbers everywhere but in the padding."""
    with torch.no_grad():
        for k in range(len(stack.owners)):
            size = stack.vector(k, stack.flat[k]).numel()
            stack.flat[k] = stack.row(k, 0.1 * torch.randn(size, generator=draw))
    return stack.flat.detach().clone()


def a_drawing(models: Models, data: dict[str, Tensor], folder: Path) -> Parts:
    """A file of another program's kind, DoRA in its text encoder, merged; hooks; the same in smaller pieces."""
    draw = torch.Generator().manual_seed(2)

    def pair(network: nn.Module, path: str, *, dora: bool) -> LoraPair:
        weight = network.get_parameter(f"{path}.weight")
        lengths = weight.norm(dim=1) * 1.1 if dora else None
        d_out, d_in = weight.shape
        halves = torch.randn(3, d_in, generator=draw), torch.randn(d_out, 3, generator=draw)
        return LoraPair(halves[0] * 0.2, halves[1] * 0.2, 2.0, lengths)

    unet = {path: pair(models.unet, path, dora=False) for path in linears(models.unet)[5:30:3]}
    texts = [path for path, _ in models.text_encoder.named_modules() if path.endswith("q_proj")]
    text = {path: pair(models.text_encoder, path, dora=True) for path in texts}
    file = save_adapter(folder / "adapter", unet, text, {"style": "00"})
    x, t, seen = data["x"], data["t"], {}

    def capture(attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v, n = attn.to_q(hidden_states), attn.to_k(hidden_states), attn.to_v(hidden_states), attn.heads
        seen.update({"drawing.q": q, "drawing.k": k, "drawing.v": v})
        return project(attn, F.scaled_dot_product_attention(heads(q, n), heads(k, n), heads(v, n)))

    def replaced(attn: Any, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v = (heads(layer(hidden_states), attn.heads) for layer in (attn.to_q, attn.to_k, attn.to_v))
        k, v = k.flip(0), v.flip(0)
        return project(attn, F.scaled_dot_product_attention(q, k, v, scale=1.5 / q.shape[-1] ** 0.5))

    with torch.no_grad():
        with merge(models, load_adapter(file, models), 0.7):
            states = models.embed(PROMPTS)
            drawn = models.unet(x, t, states)[0]
        plain_states = models.embed(PROMPTS)
        with processors(models.unet, dict(zip(HOOKED, (capture, replaced), strict=True))):
            hooked = models.unet(x, t, plain_states)[0]
        whole = models.unet(x, t, plain_states)[0]
    expected = {
        "states": states,
        "drawn": drawn,
        "plain": plain_states,
        "hooked": hooked,
        "whole": whole,
        "pieces": whole,
    }
    given = {"adapter": str(folder / "adapter"), "scale": 0.7, "hooked": HOOKED}
    return given, {}, {**{f"drawing.{k}": v for k, v in expected.items()}, **seen}, {}


def single_layers() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs far from zero for the norms, and the activations' whole range."""
    draw = torch.Generator().manual_seed(3)
    far = torch.randn(2, 8, 5, 7, generator=draw) + 100
    weight, bias = torch.randn(8, generator=draw), torch.randn(8, generator=draw)
    line = torch.linspace(-12, 12, 4001)
    data = {"far": far, "norm.weight": weight, "norm.bias": bias, "line": line}
    double = far.double()
    return data, {
        "layers.group": F.group_norm(double, 2, weight.double(), bias.double(), 1e-5),
        "layers.layer": F.layer_norm(double.permute(0, 2, 3, 1), (8,), weight.double(), bias.double(), 1e-5),
        "layers.gelu": F.gelu(line),
        "layers.quick": line * torch.sigmoid(1.702 * line),
        "layers.mask": keep(torch.tensor([5, 17, 2**32 - 1]), 99, 400, 0.3),
        "layers.resized": F.interpolate(far, (11, 9), mode="nearest"),
    }


def broken(folder: Path) -> dict[str, str]:
    """Models that must not load: weights that are missing, misshapen and unknown; a network that is not there."""
    paths = {name: folder / name for name in ("weights", "config", "words")}
    for path in paths.values():
        shutil.copytree(MODEL, path)
    file = paths["weights"] / "unet" / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(file)
    del state["conv_in.bias"]
    state["conv_out.bias"] = torch.zeros(7)
    state["another.weight"] = torch.zeros(2)
    safetensors.torch.save_file(state, file)
    config = paths["config"] / "unet" / "config.json"
    about = json.loads(config.read_text())
    config.write_text(
        json.dumps(about | {"class_embed_type": "timestep", "only_cross_attention": [False, True]})
    )
    (paths["words"] / "tokenizer" / "tokenizer.json").unlink()
    words = paths["words"] / "tokenizer" / "vocab.json"
    words.write_text(words.read_text().replace('"<|endoftext|>"', '"another"'))
    return {name: str(path) for name, path in paths.items()}


def tokenizers(folder: Path) -> list[str]:
    """The mini model's as it is, and without tokenizer.json."""
    bare = folder / "bare"
    shutil.copytree(MODEL / "tokenizer", bare)
    (bare / "tokenizer.json").unlink()
    return [str(MODEL / "tokenizer"), str(bare)]


@pytest.mark.parametrize("model", ["mini", "tiny", "old"])
def test_networks_answer_as_diffusers_and_transformers(both: dict[str, Compared], model: str) -> None:
    for name in ("states", "answer", "mean", "std", "decoded", "odd"):
        both[model].agree(name)


@pytest.mark.parametrize("model", ["mini", "tiny", "old"])
def test_modules_have_the_paths_and_the_order_of_diffusers(both: dict[str, Compared], model: str) -> None:
    for name in ("ids", "linears", "texts", "attentions"):
        assert both[model].told[name] == both[model].about[name], name


def test_a_training_steps_loss_and_gradients_are_torchs(both: dict[str, Compared]) -> None:
    for name in ("losses", "unet", "text", "x"):
        both["mini"].agree(f"step.{name}", 3e-5)
    assert both["mini"].answers["step.unet"].abs().sum(dim=1).min() > 0


def test_stacks_start_and_lie_as_torchs(both: dict[str, Compared]) -> None:
    mini = both["mini"]
    for name in ("step.first_unet", "step.first_text"):
        mini.agree(name, 1e-6)
    assert mini.told["layouts"] == mini.about["layouts"]
    assert mini.told["round_trip"]


def test_merged_adapters_draw_the_same_and_leave_nothing(both: dict[str, Compared]) -> None:
    for name in ("states", "drawn", "plain"):
        both["mini"].agree(f"drawing.{name}")


def test_hooks_see_and_replace_what_processors_do(both: dict[str, Compared]) -> None:
    for name in ("q", "k", "v", "hooked", "whole", "pieces"):
        both["mini"].agree(f"drawing.{name}")


def test_an_adapter_written_again_is_the_same_file(both: dict[str, Compared]) -> None:
    folder, name = both["mini"].folder, "pytorch_lora_weights.safetensors"
    first, second = folder / "adapter" / name, folder / "again" / name
    with safe_open(first, "pt") as one, safe_open(second, "pt") as other:
        assert one.metadata() == other.metadata()
    assert first.read_bytes() == second.read_bytes()


def test_norms_activations_and_masks(both: dict[str, Compared]) -> None:
    mini = both["mini"]
    for name in ("gelu", "quick", "resized"):
        mini.agree(f"layers.{name}", 1e-6)
    for name in ("group", "layer"):  # a mean of 100 costs float32 two digits; E[x²] − E[x]² would cost four
        mini.agree(f"layers.{name}", 3e-5)
    assert torch.equal(mini.answers["layers.mask"].bool(), mini.expected["layers.mask"])


def test_weights_that_do_not_fit_are_told_together(both: dict[str, Compared]) -> None:
    told = both["mini"].told["errors"]["weights"]
    assert told.startswith("BackendError")
    for part in ("conv_in.bias is missing", "conv_out.bias has the shape (7,), config.json asks for (4,)"):
        assert part in told
    assert "another.weight is not a weight of this network" in told


def test_networks_that_are_not_there_are_refused(both: dict[str, Compared]) -> None:
    told = both["mini"].told["errors"]["config"]
    assert "class_embed_type = 'timestep'; with Jittor: None" in told
    assert "only_cross_attention = [False, True]; with Jittor: False" in told


def test_a_vocabulary_without_its_marks_is_refused(both: dict[str, Compared]) -> None:
    assert "vocab.json has no token '<|endoftext|>'" in both["mini"].told["errors"]["words"]


def test_token_ids_are_transformers(both: dict[str, Compared], tmp_path: Path) -> None:
    mini = both["mini"]
    for path, ids in zip(tokenizers(tmp_path), mini.told["tokenizers"], strict=True):
        tokenizer: Callable[..., Any] = CLIPTokenizer.from_pretrained(path)
        wanted = tokenizer(list(TEXTS), padding="max_length", max_length=20, truncation=True).input_ids
        assert ids == wanted, path
