"""The shipped weights: whole, small, open offline, and as good as their report says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from data.mini import export
from data.mini.quality import DEMANDS, WEIGHTS, Judges, drawings, histogram, some_objects
from data.mini.vae import round_trip
from data.mini.world import HELD_OUT, NAMED_STYLES, OBJECTS, PLAIN, caption

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(WEIGHTS / "judges", CPU)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(WEIGHTS / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_files_are_those_that_were_measured() -> None:
    assert export.check_sums(WEIGHTS) == []


def test_weights_are_small_and_float16() -> None:
    files = export.shipped_files(WEIGHTS)
    assert sum(f.stat().st_size for f in files) <= export.LIMIT_BYTES
    for file in (f for f in files if f.suffix == ".safetensors"):
        with safe_open(file, "pt") as weights:
            kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 (no mapping)
        assert kinds == {"F16"}, file


def test_report_meets_the_demands() -> None:
    report = json.loads((WEIGHTS / "quality.json").read_text())
    assert report["missed"] == {}
    assert all(report[key] >= least for key, least in DEMANDS.items())


def test_opens_without_network_in_float32() -> None:
    # In a process of its own: the environment variable is read when huggingface_hub is imported.
    code = f"""if True:
        import os, socket
        os.environ["HF_HUB_OFFLINE"] = "1"
        def refuse(*_, **__): raise AssertionError("the network was used")
        socket.socket.connect = refuse
        from diffusers import StableDiffusionPipeline
        from transformers import AutoModel, CLIPModel
        pipe = StableDiffusionPipeline.from_pretrained({str(WEIGHTS / "model")!r})
        clip = CLIPModel.from_pretrained({str(WEIGHTS / "judges" / "clip")!r})
        dino = AutoModel.from_pretrained({str(WEIGHTS / "judges" / "dino")!r})
        print(*(str(m.dtype) for m in (pipe.unet, pipe.vae, pipe.text_encoder, clip, dino)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torch.float32"] * 5


def test_looks_like_sd21(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.set_alpha_to_one is False
    assert pipeline.scheduler.config.steps_offset == 1
    names = dict(pipeline.unet.named_modules())
    assert all(f"up_blocks.{b}.attentions.{a}" in names for b in (1, 2, 3) for a in (0, 1, 2))
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings


def test_base_draws_what_the_judge_recognises(pipeline: StableDiffusionPipeline, judges: Judges) -> None:
    objects = some_objects(8, 5)
    names = [None, *NAMED_STYLES]
    prompts = [caption(o, names[i % 5]) for i, o in enumerate(objects)]
    noise = [torch.Generator().manual_seed(i) for i in range(8)]
    images = pipeline(
        prompts, generator=noise, num_inference_steps=12, guidance_scale=3.0, output_type="np"
    ).images
    ranks = judges.ranks((images * 255).round().astype(np.uint8), objects)
    assert (ranks == 0).mean() >= 7 / 8


def test_judge_reads_drawings_also_in_styles_it_never_saw(judges: Judges) -> None:
    objects = some_objects(60, 6)
    assert (judges.ranks(drawings(PLAIN, objects, 1), objects) == 0).mean() >= 0.95
    for style in HELD_OUT.values():
        assert (judges.ranks(drawings(style, objects[:20], 2), objects[:20]) < 5).mean() >= 0.9
    assert {o.lower() for o in OBJECTS} <= set(judges.nouns)


def test_autoencoder_keeps_the_colours_of_a_held_out_style(pipeline: StableDiffusionPipeline) -> None:
    # Chalk: .946 in the report over 24 drawings.
    true = drawings(HELD_OUT["chalk"], some_objects(6, 7), 3)
    back = round_trip(pipeline.vae, torch.from_numpy(true)).numpy()
    assert histogram(back, true) >= 0.85


def test_good_pictures_beat_spoilt_ones(judges: Judges) -> None:
    true = drawings(PLAIN, some_objects(8, 8), 4)
    noise = np.random.default_rng(0).normal(0, 90, true.shape)
    spoilt = np.clip(true + noise, 0, 255).astype(np.uint8)
    assert judges.quality(true) > judges.quality(spoilt) + 0.3


def test_one_style_is_closer_to_itself_than_to_another(judges: Judges) -> None:
    a, b = (drawings(HELD_OUT[name], some_objects(8, 9), 5) for name in ("chalk", "embroidery"))
    vectors = judges.style_vectors(a), judges.style_vectors(b)
    assert (vectors[0][:4] @ vectors[0][4:].T).mean() > (vectors[0][:4] @ vectors[1][4:].T).mean() + 0.2
    assert judges.distance(a[:4], a[4:]) < judges.distance(a[:4], b[4:]) - 0.1


def test_latents_have_unit_variance(pipeline: StableDiffusionPipeline) -> None:
    pictures = np.concatenate(
        [drawings(s, some_objects(3, i), 6) for i, s in enumerate(NAMED_STYLES.values())]
    )
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = pipeline.vae.encode(x).latent_dist.mode() * pipeline.vae.config.scaling_factor
    assert float(z.std()) == pytest.approx(1, abs=0.25)
    assert float(z.mean().abs()) < 0.3


def test_weights_folder_is_inside_the_package() -> None:
    assert (WEIGHTS / "model" / "model_index.json").is_file()
    assert Path(export.__file__).parent / "weights" == WEIGHTS
