"""The small model's recipe: its parts against independent programs, and all of it once at minute size."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import nn
from transformers import CLIPTokenizer

from data.mini import augment, denoiser, export, train, vae
from data.mini.representation import style_loss
from data.mini.tokenizer import learn_merges, make_tokenizer, save_tokenizer
from data.mini.training import OutOfTime, Plan, Shuffle, Stage, generator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer(["an", "image", "of", "cat", "in", "pencil", "style", "ice", "cream"] * 3)


def test_merges_follow_the_papers_example() -> None:
    # The word counts of Sennrich et al. 2016, algorithm 1: 9 × "est</w>" before 7 × "lo"; "lowest" is unseen.
    words = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    assert ["".join(m) for m in learn_merges(words, 3)] == ["st</w>", "est</w>", "lo"]
    assert make_tokenizer(words, limit=3).tokenize("lowest") == ["lo", "w", "est</w>"]


@settings(max_examples=30, deadline=None)
@given(
    st.text(
        alphabet=st.characters(min_codepoint=0x61, max_codepoint=0x7A, include_characters="äöüßéñøłβ"),
        min_size=1,
        max_size=8,
    )
)
def test_tokenizer_spells_any_word(tokenizer: CLIPTokenizer, word: str) -> None:
    ids = tokenizer(word).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(
        ids, skip_special_tokens=True
    ) == tokenizer.backend_tokenizer.normalizer.normalize_str(word)


def test_tokenizer_reads_back_from_either_format(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    text = "An image of Ice cream, sks style_00"
    expected = tokenizer(text).input_ids
    assert CLIPTokenizer.from_pretrained(tmp_path)(text).input_ids == expected
    (tmp_path / "tokenizer.json").unlink()
    old = CLIPTokenizer.from_pretrained(tmp_path)
    assert (old(text).input_ids, old.pad_token_id, old.model_max_length) == (expected, 0, 32)


def test_schedule_hides_the_mean_colour_twice_as_well_as_sd21_does() -> None:
    sd21 = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).alphas_cumprod.double()
    mini = denoiser.make_scheduler().alphas_cumprod.double()
    for t in (0, 999):
        sigma, small = (math.sqrt((1 - float(bar[t])) / float(bar[t])) for bar in (sd21, mini))
        # The mean of n × n noise pixels has deviation σ/n: 64 × 64 there, 16 × 16 here.
        assert 2 * sigma / 64 == pytest.approx(small / 16, rel=1e-3)
    noise = torch.randn(4000, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert float(noise.mean((2, 3)).std()) == pytest.approx(1 / 16, rel=0.05)


def test_unet_has_the_layers_that_styleid_names() -> None:
    unet = denoiser.make_unet(train.TINY.denoiser_size)
    names = {f"up_blocks.{b}.attentions.{a}.transformer_blocks.0.attn1" for b in (1, 2, 3) for a in (0, 1, 2)}
    assert names <= {name for name, _ in unet.named_modules()}
    assert sum(name.endswith(("attn1", "attn2")) for name, _ in unet.named_modules()) == 32


def test_colour_distance_is_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = (torch.tensor(rng.random((2, 3, 16, 16)), dtype=torch.float32) for _ in range(2))
    ours = vae.sliced_wasserstein(a, b, generator(CPU, 1), axes=0, places=20_000)
    theirs = [
        wasserstein_distance(a[i, c].flatten().numpy(), b[i, c].flatten().numpy())
        for i in range(2)
        for c in range(3)
    ]
    assert float(ours) == pytest.approx(np.mean(theirs), abs=0.004)


def test_normalised_latents_are_unit_and_decode_alike() -> None:
    torch.manual_seed(0)
    model = vae.make_vae(train.TINY.vae_size).eval()
    pictures = torch.randint(0, 256, (8, 128, 128, 3), dtype=torch.uint8)
    before = vae.round_trip(model, pictures)
    vae.normalise(model, pictures)
    mean, _ = vae.encode_all(model, pictures)
    assert torch.allclose(mean.float().mean((0, 2, 3)), torch.zeros(4), atol=5e-3)
    assert torch.allclose(mean.float().std((0, 2, 3)), torch.ones(4), atol=5e-3)
    assert (vae.round_trip(model, pictures).int() - before.int()).abs().max() <= 1


def test_augmentation_never_makes_light_lines_on_dark() -> None:
    rng = generator(CPU, 5)
    x = torch.zeros(64, 3, 32, 32)
    x[:, :, :, 16:] = torch.rand(64, 3, 1, 1, generator=rng)
    drawn = augment.lightness(augment.outline(x, rng))
    assert (drawn[..., 15:17].amin((1, 2, 3)) <= drawn[..., :8].amin((1, 2, 3)) + 1e-6).all()
    ramp = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)
    for change in (augment.recolour, augment.two_tone, augment.contrast):
        y = augment.lightness(change(ramp, rng))
        assert (y[..., -1] >= y[..., 0]).all(), change.__name__


def test_restyling_is_a_function_of_its_generator_and_stays_in_range() -> None:
    x = torch.rand(16, 3, 64, 64, generator=generator(CPU, 1))
    for change in (augment.restyle, augment.replace_view, augment.spoil):
        a, b, c = (change(x, generator(CPU, seed)) for seed in (2, 2, 3))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert float(a.min()) >= -1e-4
        assert float(a.max()) <= 1 + 1e-4


def test_style_loss_without_shared_styles_is_infonce() -> None:
    a, b = (nn.functional.normalize(torch.randn(6, 8, generator=generator(CPU, s)), dim=1) for s in (1, 2))
    logits = (a.double() @ b.double().T / 0.1).numpy()
    rows = -np.mean([logits[i, i] - np.log(np.exp(logits[i]).sum()) for i in range(6)])
    columns = -np.mean([logits[i, i] - np.log(np.exp(logits[:, i]).sum()) for i in range(6)])
    ours = style_loss(a, b, torch.zeros(6, 6, dtype=torch.bool))
    assert float(ours) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_shuffle_visits_everything_once_an_epoch() -> None:
    shuffle = Shuffle(12, 4, 7, CPU)
    epochs = [torch.cat([shuffle(3 * e + i) for i in range(3)]).tolist() for e in range(2)]
    assert [sorted(e) for e in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert Shuffle(12, 4, 7, CPU)(4).tolist() == epochs[1][4:8]


def _fit(folder: Path, stop: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    stage = Stage("line", {"model": model}, Plan(steps=6, seconds=1e6, batch=1, lr=0.1), folder)

    def losses(step: int) -> dict[str, torch.Tensor]:
        if step == stop:
            stage.deadline = 0.0
        return {"loss": model(torch.randn(4, 3, generator=generator(CPU, step))).square().mean()}

    stage.fit(losses)
    stage.averaged()
    return model.state_dict()


def test_interrupted_stage_ends_as_one_that_was_not(tmp_path: Path) -> None:
    straight = _fit(tmp_path / "a")
    with pytest.raises(OutOfTime, match="stage line at 50%, step 3"):
        _fit(tmp_path / "b", stop=2)
    resumed = _fit(tmp_path / "b")
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_plan_names_what_is_out_of_range() -> None:
    with pytest.raises(ValueError, match="steps, lr out of range"):
        Plan(steps=0, seconds=1, batch=1, lr=-1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    order = ["--out", str(out), "--tiny", "--workers", "1"]
    assert train.main([*order, "--stages", "render", "critic", "--stop-after", "0"]) == 3
    assert train.main(order) == 0
    return out


def test_the_whole_recipe_runs_at_minute_size(tiny: Path) -> None:
    report = json.loads((tiny / "quality.json").read_text())
    assert set(report["missed"]) <= set(train_demands())
    assert export.check_sums(tiny) == []
    pipeline = StableDiffusionPipeline.from_pretrained(tiny / "model")
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    assert pipeline("an image of cat", num_inference_steps=1).images[0].size == (128, 128)


def train_demands() -> list[str]:
    from data.mini.quality import DEMANDS

    return list(DEMANDS)


def test_changed_weights_are_noticed(tiny: Path) -> None:
    file = tiny / "judges" / "clip" / "nouns.txt"
    kept = file.read_bytes()
    try:
        file.write_bytes(kept + b"x\n")
        (tiny / "model" / "extra.txt").write_text("x")
        assert export.check_sums(tiny) == [
            "model/extra.txt: not listed in SHA256SUMS",
            "judges/clip/nouns.txt: its bytes are not those that SHA256SUMS lists",
        ]
    finally:
        file.write_bytes(kept)
        (tiny / "model" / "extra.txt").unlink()
