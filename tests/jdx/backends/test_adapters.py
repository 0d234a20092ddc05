from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor

from jdx.backends.base import ModelSpec
from jdx.backends.torch.adapter_reader import load_adapter
from jdx.backends.torch.adapters import Adapter, LoraPair, canonical_te_path, memory_te_path, save_adapter
from jdx.backends.torch.merge import merge
from jdx.backends.torch.models import Models, load
from jdx.errors import ConfigError
from tests.jdx.backends.adapters_for import TEXT_TARGETS, UNET_TARGETS, random_adapter, random_pairs


@pytest.fixture
def pipeline(tiny_sd: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(tiny_sd, torch_dtype=torch.float64)


@torch.no_grad()
def outputs(unet: torch.nn.Module, text_encoder: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """What both networks make of fixed inputs; the UNet's text comes from the text encoder."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 500, (2, 77), generator=generator)
    text = text_encoder(ids)[0]
    noise = torch.randn(2, 4, 8, 8, generator=generator, dtype=torch.float64)
    return text, unet(noise, torch.tensor([981, 21]), text).sample


def assert_close(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Equal to the rounding of float64; diffusers keeps the pairs in float32, which they are saved in."""
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-9


def assert_same_adapter(got: Adapter, wanted: Adapter) -> None:
    text = {canonical_te_path(path): pair for path, pair in wanted.text_encoder.items()}
    for pairs, expected in ((got.unet, wanted.unet), (got.text_encoder, text)):
        assert pairs.keys() == expected.keys()
        for path, pair in pairs.items():
            assert pair.alpha == expected[path].alpha
            assert torch.equal(pair.down, expected[path].down)
            assert torch.equal(pair.up, expected[path].up)
            lengths = [p.magnitude for p in (pair, expected[path]) if p.magnitude is not None]
            assert len(lengths) in {0, 2}
            assert not lengths or torch.equal(*lengths)


def test_a_saved_adapter_loads_as_it_was(models: Models, tmp_path: Path) -> None:
    adapter = random_adapter(models)
    save_adapter(
        tmp_path, adapter.unet, adapter.text_encoder, {"style": "03", "step": 500, "base_model": "tiny"}
    )
    loaded = load_adapter(tmp_path, models)
    assert_same_adapter(loaded, adapter)
    assert loaded.metadata["style"] == "03"
    assert loaded.metadata["step"] == 500
    assert loaded.metadata["version"]


def test_equal_adapters_are_equal_files(models: Models, tmp_path: Path) -> None:
    adapter = random_adapter(models)
    files = [
        save_adapter(tmp_path / str(i), adapter.unet, {}, {"b": 1, "a": 2}).read_bytes() for i in range(4)
    ]
    assert len(set(files)) == 1


def test_keys_are_those_of_diffusers_and_peft(models: Models, tmp_path: Path) -> None:
    """Origin of the names: what diffusers' own `save_lora_weights` writes for the same targets."""
    adapter = random_adapter(models)
    file = save_adapter(tmp_path, adapter.unet, adapter.text_encoder, {})
    with safe_open(str(file), "pt") as opened:
        keys, header = set(opened.keys()), json.loads(opened.metadata()["lora_adapter_metadata"])
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert {f"unet.{path}.lora_A.weight", f"unet.{path}.lora_B.weight"} <= keys
    assert "text_encoder.text_model.encoder.layers.1.self_attn.q_proj.lora_A.weight" in keys
    assert len(keys) == 2 * (
        16 * 2 * 4 + 2 * 4
    )  # 16 transformer blocks × 2 attentions × 4 targets, 2 text layers
    assert (header["unet.r"], header["unet.lora_alpha"]) == (4, 2.0)


@pytest.mark.parametrize(
    ("rank", "alpha", "text_rank", "text_alpha"),
    [(4, 4.0, 0, 1.0), (4, 1.0, 2, 6.0), (3, 12.0, 5, 0.5)],
    ids=["unet only", "alpha below and above rank", "mixed ranks"],
)
def test_diffusers_and_merge_draw_the_same(
    models: Models,
    pipeline: StableDiffusionPipeline,
    tmp_path: Path,
    rank: int,
    alpha: float,
    text_rank: int,
    text_alpha: float,
) -> None:
    adapter = random_adapter(models, rank, alpha, text_rank, text_alpha)
    save_adapter(tmp_path, adapter.unet, adapter.text_encoder, {"step": 1})
    bare = outputs(models.unet, models.text_encoder)
    pipeline.load_lora_weights(tmp_path)
    theirs = outputs(pipeline.unet, pipeline.text_encoder)
    with merge(models, load_adapter(tmp_path, models)):
        ours = outputs(models.unet, models.text_encoder)
    assert (theirs[1] - bare[1]).abs().max() > 0.05  # the adapter does something
    assert not text_rank or (theirs[0] - bare[0]).abs().max() > 0.05
    assert_close(ours, theirs)


def lengthened(adapter: Adapter) -> Adapter:
    """The adapter with DoRA's lengths, around those of the tiny model's rows."""
    generator = torch.Generator().manual_seed(5)

    def length(pair: LoraPair) -> LoraPair:
        return replace(pair, magnitude=0.3 + torch.rand(pair.up.shape[0], generator=generator))

    unet = {path: length(pair) for path, pair in adapter.unet.items()}
    return Adapter(unet, {path: length(pair) for path, pair in adapter.text_encoder.items()})


def test_dora_files_draw_the_same_in_diffusers_and_load_as_they_were(
    models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    adapter = lengthened(random_adapter(models))
    save_adapter(tmp_path, adapter.unet, adapter.text_encoder, {})
    bare = outputs(models.unet, models.text_encoder)
    pipeline.load_lora_weights(tmp_path)
    theirs = outputs(pipeline.unet, pipeline.text_encoder)
    loaded = load_adapter(tmp_path, models)
    assert_same_adapter(loaded, adapter)
    with merge(models, loaded):
        ours = outputs(models.unet, models.text_encoder)
    assert min((a - b).abs().max() for a, b in zip(theirs, bare, strict=True)) > 0.05
    assert_close(ours, theirs)


def test_dora_in_part_of_a_network_is_not_saved(models: Models, tmp_path: Path) -> None:
    plain = random_adapter(models, text_rank=0).unet
    first, *_ = plain
    mixed = {**plain, first: replace(plain[first], magnitude=torch.ones(plain[first].up.shape[0]))}
    with pytest.raises(ValueError, match="DoRA for a whole network"):
        save_adapter(tmp_path, mixed, {}, {})


def test_ranks_and_alphas_may_differ_inside_a_network(
    models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """Diffusers #14409: without patterns in the header every module gets the commonest scale."""
    unet, encoder = models.unet, models.text_encoder
    unet_pairs = random_pairs(unet, ("to_q",), 4, 2.0) | random_pairs(unet, ("ff.net.0.proj",), 2, 5.0)
    text_pairs = random_pairs(encoder, ("q_proj",), 1, 3.0) | random_pairs(encoder, ("fc1", "fc2"), 3, 1.5)
    save_adapter(tmp_path, unet_pairs, text_pairs, {})
    pipeline.load_lora_weights(tmp_path)
    theirs = outputs(pipeline.unet, pipeline.text_encoder)
    loaded = load_adapter(tmp_path, models)
    assert_same_adapter(loaded, Adapter(unet_pairs, text_pairs))
    with merge(models, loaded):
        ours = outputs(models.unet, models.text_encoder)
    assert_close(ours, theirs)


@pytest.mark.parametrize("dora", [False, True])
def test_scale_is_the_one_of_diffusers(
    dora: bool, models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    adapter = random_adapter(models, text_rank=0)
    if dora:
        adapter = lengthened(adapter)
    save_adapter(tmp_path, adapter.unet, {}, {})
    pipeline.load_lora_weights(tmp_path, adapter_name="style")
    pipeline.set_adapters(["style"], [0.5])
    theirs = outputs(pipeline.unet, pipeline.text_encoder)[1]
    with merge(models, load_adapter(tmp_path, models), 0.5):
        ours = outputs(models.unet, models.text_encoder)[1]
    assert_close([ours], [theirs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_after_a_merge_every_bit_is_back(tiny_sd: Path, dtype: torch.dtype) -> None:
    models = load(ModelSpec(str(tiny_sd)), "cpu", dtype)
    networks = (models.unet, models.text_encoder)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    with merge(models, random_adapter(models), 0.7):
        assert not torch.equal(models.unet.state_dict()[name], before[0][name])
    for network, old in zip(networks, before, strict=True):
        assert all(torch.equal(value, old[key]) for key, value in network.state_dict().items())


def test_a_merge_that_fails_half_way_restores_too(models: Models) -> None:
    good = random_adapter(models, text_rank=0).unet
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before = {k: v.clone() for k, v in models.unet.state_dict().items()}
    bad = dict(good) | {"conv_in": LoraPair(torch.zeros(1, 3), torch.zeros(5, 1), 1.0), path: good[path]}
    with pytest.raises(RuntimeError), merge(models, Adapter(bad)):
        pytest.fail("a wrong shape was merged")
    assert all(torch.equal(v, before[k]) for k, v in models.unet.state_dict().items())


def states(adapter: Adapter, down: str, up: str, text_down: str, text_up: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path, pair in adapter.unet.items():
        state |= {f"unet.{path}{down}": pair.down, f"unet.{path}{up}": pair.up}
    for path, pair in adapter.text_encoder.items():
        name = f"text_encoder.{canonical_te_path(path)}"
        state |= {f"{name}{text_down}": pair.down, f"{name}{text_up}": pair.up}
    return state


def break_crcs(file: Path) -> None:
    """Overwrite the archive's CRCs with zeros, as Jittor leaves them wrong."""
    data = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 14), (b"PK\x01\x02", 16), (b"PK\x07\x08", 4)):
        start = data.find(signature)
        while start >= 0:
            data[start + offset : start + offset + 4] = b"\0\0\0\0"
            start = data.find(signature, start + 4)
    file.write_bytes(bytes(data))


def test_legacy_jittor_bin(models: Models, tmp_path: Path) -> None:
    """Key names and the CRC fault of the Jittor baseline's published files: q, k, v only, alpha = rank."""
    unet = random_pairs(models.unet, ("to_q", "to_k", "to_v"), 4, 4.0)
    text = random_pairs(models.text_encoder, TEXT_TARGETS, 4, 4.0)
    text_ends = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    file = tmp_path / "pytorch_lora_weights.bin"
    torch.save(states(Adapter(unet, text), ".lora.down.weight", ".lora.up.weight", *text_ends), file)
    break_crcs(file)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip()  # the first name whose CRC is wrong
    assert_same_adapter(load_adapter(tmp_path, models), Adapter(unet, text))
    assert_same_adapter(load_adapter(file, models), Adapter(unet, text))


def test_bin_with_code_inside_is_refused(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "pytorch_lora_weights.bin"
    torch.save({"unet.x": Path("/")}, file)
    with pytest.raises(ConfigError, match="tensors only"):
        load_adapter(file, models)


def test_files_written_by_diffusers(
    models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    """Both of diffusers' ways: with the adapters' metadata (alpha kept) and without (alpha = rank)."""
    torch.manual_seed(0)
    kept = {"init_lora_weights": False, "r": 3, "lora_alpha": 12}
    pipeline.unet.add_adapter(LoraConfig(target_modules=list(UNET_TARGETS), **kept))
    pipeline.text_encoder.add_adapter(LoraConfig(target_modules=list(TEXT_TARGETS), **kept))
    theirs = outputs(pipeline.unet, pipeline.text_encoder)
    layers = [
        convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
        for network in (pipeline.unet, pipeline.text_encoder)
    ]
    configs = [network.peft_config["default"].to_dict() for network in (pipeline.unet, pipeline.text_encoder)]
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "with",
        *layers,
        unet_lora_adapter_metadata=configs[0],
        text_encoder_lora_adapter_metadata=configs[1],
    )
    StableDiffusionPipeline.save_lora_weights(tmp_path / "without", *layers)
    loaded = load_adapter(tmp_path / "with", models)
    assert {pair.alpha for pair in [*loaded.unet.values(), *loaded.text_encoder.values()]} == {12.0}
    with merge(models, loaded):
        ours = outputs(models.unet, models.text_encoder)
    assert_close(ours, theirs)
    assert {p.alpha for p in load_adapter(tmp_path / "without", models).unet.values()} == {3.0}


@pytest.mark.parametrize("dora", [False, True])
def test_files_of_peft(dora: bool, models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    """PEFT's own folder, with rank-stabilised scaling (alpha / sqrt r), per-module alphas, and DoRA's lengths."""
    torch.manual_seed(0)
    network = pipeline.unet
    config = LoraConfig(
        r=4, lora_alpha=2, use_rslora=True, init_lora_weights=False, target_modules=["to_q", "to_v"],
        alpha_pattern={"attn2.to_v": 8}, use_dora=dora,
    )  # fmt: skip
    wrapped = get_peft_model(network, config)
    for name, parameter in wrapped.named_parameters():
        if "magnitude" in name:
            parameter.data = parameter.data * torch.linspace(0.5, 1.5, len(parameter))
    theirs = outputs(wrapped, models.text_encoder)[1]
    wrapped.save_pretrained(tmp_path)
    with merge(models, load_adapter(tmp_path, models)):
        ours = outputs(models.unet, models.text_encoder)[1]
    assert_close([ours], [theirs])


def old_processor_state(adapter: Adapter) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for path, pair in adapter.unet.items():
        block, name = path.rsplit(".attn", 1)
        attention, _, projection = name.partition(".")
        old = f"unet.{block}.attn{attention}.processor.{projection.removesuffix('.0')}_lora"
        state |= {f"{old}.down.weight": pair.down, f"{old}.up.weight": pair.up}
    return state


def kohya_state(adapter: Adapter) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    text = {f"lora_te_{canonical_te_path(p)}": pair for p, pair in adapter.text_encoder.items()}
    for path, pair in ({f"lora_unet_{p}": pair for p, pair in adapter.unet.items()} | text).items():
        name = path.replace(".", "_")
        state |= {f"{name}.lora_down.weight": pair.down, f"{name}.lora_up.weight": pair.up}
        state[f"{name}.alpha"] = torch.tensor(pair.alpha)
    return state


def test_processor_style(models: Models, tmp_path: Path) -> None:
    adapter = random_adapter(models, rank=4, alpha=4.0, text_rank=0)
    safetensors.torch.save_file(old_processor_state(adapter), tmp_path / "pytorch_lora_weights.safetensors")
    assert_same_adapter(load_adapter(tmp_path, models), adapter)


def test_kohya_style_and_its_alphas(
    models: Models, pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    adapter = random_adapter(models)
    safetensors.torch.save_file(kohya_state(adapter), tmp_path / "anything.safetensors")
    loaded = load_adapter(tmp_path, models)
    assert_same_adapter(loaded, adapter)
    pipeline.load_lora_weights(tmp_path)  # the same file, understood by diffusers
    theirs = outputs(pipeline.unet, pipeline.text_encoder)
    with merge(models, loaded):
        ours = outputs(models.unet, models.text_encoder)
    assert_close(ours, theirs)


@pytest.fixture
def spoilt(models: Models, tmp_path: Path) -> Path:
    adapter = random_adapter(models, text_rank=0)
    state = states(adapter, ".lora_A.weight", ".lora_B.weight", "", "")
    first = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    state[f"{first}.to_q.hada_w1_a"] = torch.ones(16)  # LoHa
    state[f"{first.replace('attn1', 'attn2')}.to_q.lora_magnitude_vector"] = torch.ones(17)  # of 16 rows
    state["unet.down_blocks.9.attn1.to_q.lora_A.weight"] = torch.ones(4, 16)  # no such module
    state["unet.down_blocks.9.attn1.to_q.lora_B.weight"] = torch.ones(16, 4)
    del state[f"{first}.to_k.lora_B.weight"]
    state[f"{first}.to_v.lora_A.weight"] = torch.ones(4, 17)
    state[f"{first}.to_out.0.lora_A.weight"] = torch.full((4, 16), float("nan"))
    safetensors.torch.save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    return tmp_path


def test_all_faults_of_a_file_in_one_error(models: Models, spoilt: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_adapter(spoilt, models)
    text = str(caught.value)
    assert len(caught.value.faults) == 6
    for part in (
        "hada_w1_a",
        "magnitude (16,)",
        "down_blocks.9.attn1.to_q",
        "up weight is missing",
        "(4, 17)",
        "finite",
    ):
        assert part in text


def test_an_adapter_of_another_model_is_refused_briefly(models: Models, tmp_path: Path) -> None:
    foreign = {
        f"unet.up_blocks.7.attentions.{i}.to_q.lora_{half}.weight": torch.ones(2, 2)
        for i in range(40)
        for half in "AB"
    }
    safetensors.torch.save_file(foreign, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(ConfigError, match="and 32 more") as caught:
        load_adapter(tmp_path, models)
    assert len(caught.value.faults) == 9


@pytest.mark.parametrize("content", [b"", b"no weights", None], ids=["empty", "text", "folder without"])
def test_unreadable_files(models: Models, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="pytorch_lora_weights"):
        load_adapter(tmp_path, models)


def test_nothing_bad_is_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layers"):
        save_adapter(tmp_path, {}, {}, {})
    pairs = {
        "a": LoraPair(torch.full((2, 3), float("inf")), torch.zeros(3, 2), 2.0),
        "b": LoraPair(torch.zeros(2, 3), torch.zeros(3, 1), 2.0),
    }
    with pytest.raises(ValueError, match=r"a: weights are not finite; b: down \(2, 3\)"):
        save_adapter(tmp_path, pairs, {}, {})
    assert not list(tmp_path.iterdir())


def test_text_paths_both_ways(models: Models) -> None:
    for path in ("encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.q_proj"):
        assert canonical_te_path(path) == "text_model.encoder.layers.0.self_attn.q_proj"
        assert memory_te_path(path, flattened=True) == "encoder.layers.0.self_attn.q_proj"
        assert memory_te_path(path, flattened=False) == "text_model.encoder.layers.0.self_attn.q_proj"
