"""Adapters under kohya's names; that diffusers draws the same with them is tests/jdx/test_trial.py's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import safe_open

from jdx.backends.adapter_files import FILE, LoraPair, file_of
from jdx.kohya import main

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
TEXT = "encoder.layers.1.self_attn.q_proj"


def put_adapter(folder: Path, *, dora: bool = False) -> Path:
    """Two layers of ranks 2 and 3, alpha 5."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pairs = {}
    for rank, path in ((2, UNET), (3, TEXT)):
        down, up = (rng.normal(size=size).astype(np.float32) for size in ((rank, 4), (6, rank)))
        pairs[path] = LoraPair(down, up, 5.0, np.ones(6, np.float32) if dora else None)
    tensors, header = file_of({UNET: pairs[UNET]}, {TEXT: pairs[TEXT]}, {"style": "00"})
    safetensors.numpy.save_file(tensors, folder / FILE, header)
    return folder


def test_names_alpha_and_header_are_sd_scripts(tmp_path: Path) -> None:
    put_adapter(tmp_path / "run" / "adapters" / "00")
    put_adapter(tmp_path / "run" / "adapters" / "step_250" / "00")  # a snapshot
    assert main([str(tmp_path / "run")]) == 0
    (file,) = (tmp_path / "run" / "kohya").iterdir()
    assert file.name == "00.safetensors"
    layers = (
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0", 2),
        ("lora_te_text_model_encoder_layers_1_self_attn_q_proj", 3),
    )
    state = safetensors.numpy.load_file(file)
    assert set(state) == {
        f"{name}.{end}" for name, _ in layers for end in ("lora_down.weight", "lora_up.weight", "alpha")
    }
    for name, rank in layers:
        assert state[f"{name}.lora_down.weight"].shape == (rank, 4)
        assert state[f"{name}.lora_up.weight"].shape == (6, rank)
        assert state[f"{name}.alpha"] == 5.0
    with safe_open(file, "np") as opened:
        header = opened.metadata()
    assert (header["ss_network_module"], header["ss_network_alpha"]) == ("networks.lora", "5.0")
    assert header["jdx.style"] == "00"


def test_one_adapter_goes_where_it_is_asked_for_and_nothing_is_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = put_adapter(tmp_path / "07"), tmp_path / "out"
    assert main([str(folder), "--out", str(out)]) == 0
    (out / "07.safetensors").write_text("mine")
    assert main([str(folder), "--out", str(out)]) == 2
    assert "07.safetensors\n      is there: --force" in capsys.readouterr().err
    assert (out / "07.safetensors").read_text() == "mine"
    assert main([str(folder), "--out", str(out), "--force"]) == 0
    assert (out / "07.safetensors").stat().st_size > 100


def test_bfloat16_stays_what_it_is(tmp_path: Path) -> None:
    folder = put_adapter(tmp_path / "00")
    with safe_open(folder / FILE, "pt") as opened:
        header = opened.metadata()
    halves = {name: tensor.bfloat16() for name, tensor in safetensors.torch.load_file(folder / FILE).items()}
    safetensors.torch.save_file(halves, folder / FILE, header)
    assert main([str(folder)]) == 0
    written = safetensors.torch.load_file(folder / "kohya" / "00.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}


def test_what_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "must be the folder of a run that trained LoRA" in capsys.readouterr().err
    dora = put_adapter(tmp_path / "dora", dora=True)
    assert main([str(dora)]) == 2
    assert "lora.dora=false" in capsys.readouterr().err
    (put_adapter(tmp_path / "cut") / FILE).write_bytes(b"half")
    assert main([str(tmp_path / "cut")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/kohya"))
