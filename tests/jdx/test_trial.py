"""One trial from end to end, on a tiny Stable Diffusion and tiny judges in the real formats."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.numpy import load_file

from jdx import submit, trial, validation
from jdx.backends import stops
from jdx.errors import ConfigError
from jdx.stages import adapt
from jdx.store import Store
from tests.configs import compose_plain
from tests.data.sets import make_style, noise
from tests.jdx.test_configs import CHOICES

Metrics = dict[str, Any]
STYLES = ("00", "05")


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two styles with three references and two prompts each."""
    root = tmp_path_factory.mktemp("set")
    for style in STYLES:
        make_style(root / style, pictures=(), prompts={"0": "Dog", "1": "Ice cream"})
        for number, name in enumerate(("cat", "wallet_", "ice_cream")):
            noise(72, 10 * int(style) + number).save(root / style / "images" / f"{name}.png")
    return root


class Lab:
    """Runs trials that share a store, and counts nothing twice."""

    def __init__(self, root: Path, *settings: str):
        self.root, self.settings, self.runs = root, settings, 0

    def run(self, *overrides: str) -> tuple[trial.TrialResult, Path]:
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        config = validation.build(
            compose_plain(*self.settings, f"store.root={self.root / 'store'}", *overrides)
        )
        return trial.run(config, folder), folder


@pytest.fixture
def lab(
    tmp_path: Path, challenge: Path, tiny_sd: Path, tiny_judges: Path, monkeypatch: pytest.MonkeyPatch
) -> Lab:
    monkeypatch.setenv("JDX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Lab(
        tmp_path,
        "data=challenge", f"data.root={challenge}", f"model.path={tiny_sd}", "model.resolution=64",
        f"evaluation.judges={tiny_judges}", "tracker=none", "train.steps=4", "train.checkpoint_every=0",
        "train.crop.variants=2", "train.log_every=2", "sampler.steps=2", "lora.rank=2", "quiet=true",
        "backend.device=cpu", "sampler.guidance_scale=7.5", "optim.unet.lr=0.01",
        "method.blend.coarse.steps=2", "method.blend.coarse.candidates.per_reference=2",
        "method.blend.coarse.candidates.keep=1", "method.blend.coarse.candidates.sampler.steps=2",
    )  # fmt: skip


def pixels(folder: Path) -> dict[str, Any]:
    return {
        p.relative_to(folder).as_posix(): np.asarray(Image.open(p)) for p in sorted(folder.rglob("*.png"))
    }


def made(folder: Path) -> dict[str, dict[str, int]]:
    stages: dict[str, dict[str, int]] = json.loads((folder / "trial.json").read_text())["stages"]
    return stages


def test_trial_leaves_all_that_is_promised(lab: Lab, tiny_sd: Path) -> None:
    result, run = lab.run()
    metrics: Metrics = json.loads((run / "metrics.json").read_text())
    assert result.final_score == metrics["final_score"]
    assert metrics["complete"] is True
    assert set(metrics["styles"]) == set(STYLES)
    assert set(metrics["styles"]["00"]["pictures"]) == {"Dog", "Ice cream"}
    assert sorted(pixels(run / "images")) == [f"{s}/{p}.png" for s in STYLES for p in ("Dog", "Ice cream")]
    assert pixels(run / "images")["00/Dog.png"].shape == (64, 64, 3)
    seeds = json.loads((run / "seeds.json").read_text())
    assert set(seeds["05"]) == {"Dog", "Ice cream"}
    with (run / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["style"], row["step"]) for row in rows] == [(s, n) for s in STYLES for n in ("2", "4")]
    assert (run / "report.html").stat().st_size > 1000
    assert result.report == run / "report.html"
    assert list((lab.root / "store" / ".work").iterdir()) == []
    about = json.loads((run / "trial.json").read_text())
    assert (about["data"]["styles"], about["data"]["prompts"], about["sweep"]) == (2, 4, None)
    assert all("fid_without" in style for style in metrics["styles"].values())


def test_saved_adapter_draws_our_picture_in_a_plain_pipeline(lab: Lab, tiny_sd: Path) -> None:
    settings = ("lora.text_encoder.rank=1", "optim.text_encoder.lr=0.01", "lora.unet.alpha=3.0")
    _, run = lab.run(*settings, "sampler.guidance_scale=7.5")
    seed = json.loads((run / "seeds.json").read_text())["00"]["Dog"]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    common = {"num_inference_steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64, "output_type": "np"}
    prompt = "an image of dog in style_00"

    def draw() -> Any:
        return pipeline(prompt, generator=torch.Generator("cpu").manual_seed(seed), **common).images[0] * 255

    plain = draw()
    pipeline.load_lora_weights(run / "adapters" / "00")
    ours = pixels(run / "images")["00/Dog.png"].astype(float)
    assert np.abs(draw() - ours).max() < 1.0  # rounding to 8 bits
    assert np.abs(plain - ours).max() > 5.0  # the adapter does change the picture


def test_learnt_word_draws_our_picture_in_a_plain_pipeline(lab: Lab, tiny_sd: Path) -> None:
    settings = ("method=textual_inversion", "lora.rank=0", "method.tokens.vectors=2", "method.tokens.lr=0.5")
    _, run = lab.run(*settings, "method.tokens.init=e", "train.snapshots=[2]")
    folder = run / "adapters" / "00"
    assert [path.name for path in folder.iterdir()] == ["learned_embeds.safetensors"]
    assert (run / "adapters" / "step_2" / "05" / "learned_embeds.safetensors").is_file()
    seed = json.loads((run / "seeds.json").read_text())["00"]["Dog"]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_textual_inversion(folder, weight_name="learned_embeds.safetensors", local_files_only=True)

    def draw(prompt: str) -> Any:
        generator = torch.Generator("cpu").manual_seed(seed)
        common = {"num_inference_steps": 2, "guidance_scale": 7.5, "height": 64, "width": 64}
        return pipeline(prompt, generator=generator, output_type="np", **common).images[0] * 255

    ours = pixels(run / "images")["00/Dog.png"].astype(float)
    assert np.abs(draw("an image of dog in the style of <style_00>") - ours).max() < 1.0
    assert np.abs(draw("an image of dog in the style of e e") - ours).max() > 3.0


def test_enhancer_is_trained_once_kept_and_drawn_with_on_the_branches_asked_for(lab: Lab) -> None:
    settings = ("method=vae_enhancer", "method.enhancer.weight=2.0", "method.enhancer.zero=first")
    _, one = lab.run(*settings, "sampler.negative_prompt=blur", "train.snapshots=[2]")
    files = {"pytorch_lora_weights.safetensors", "vae_enhancer.safetensors"}
    assert {path.name for path in (one / "adapters" / "00").iterdir()} == files
    assert {path.name for path in (one / "adapters" / "step_2" / "05").iterdir()} == files
    _, both = lab.run(*settings, "sampler.negative_prompt=blur", "method.enhancer.branches=both")
    stages = json.loads((both / "trial.json").read_text())["stages"]
    assert (stages["train"]["made"], stages["generate"]["reused"]) == (0, 0)
    a, b = pixels(one / "images"), pixels(both / "images")
    assert all(np.abs(a[name].astype(float) - b[name]).max() > 3.0 for name in a)


def test_enhancer_alone_needs_no_adapter(lab: Lab) -> None:
    _, run = lab.run("method=vae_enhancer", "lora.rank=0")
    assert [path.name for path in (run / "adapters" / "00").iterdir()] == ["vae_enhancer.safetensors"]


def test_a_word_that_cannot_be_learnt_is_told_before_training(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"method\.tokens\.init = '<\|endoftext\|>'"):
        lab.run("method=textual_inversion", "method.tokens.init='<|endoftext|>'")


def test_second_run_makes_nothing_again_and_gives_the_same(lab: Lab) -> None:
    first, one = lab.run()
    second, two = lab.run("backend.micro_batch=1", "tags=[again]")
    assert all(count["made"] == 0 for count in made(two).values())
    assert first.final_score == second.final_score
    ours, theirs = pixels(one / "images"), pixels(two / "images")
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_guidance_redraws_without_training_again(lab: Lab) -> None:
    lab.run("sampler.guidance_scale=2.0")
    _, run = lab.run("sampler.guidance_scale=3.0")
    assert made(run)["train"] == {"made": 0, "reused": 2}
    assert made(run)["generate"] == {"made": 2, "reused": 0}


def test_more_steps_go_on_from_the_shorter_run_exactly(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stops, "RESTART_SECONDS", 0.0)
    _, short = lab.run("train.steps=3")
    _, longer = lab.run("train.steps=6", "train.checkpoint_every=2")
    _, straight = lab.run("train.steps=6", f"store.root={lab.root / 'other'}")
    a, b = (pixels(run / "images") for run in (longer, straight))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    # the restart points in between are gone, what the first run asked for is kept
    store = Store(lab.root / "store")
    recipes = {path.name for path in (store.root / "train").iterdir()}
    assert {tuple(store.parts("train", recipe)) for recipe in recipes} == {("0000003", "0000006")}
    assert short.is_dir()


def test_snapshots_of_one_run_equal_runs_of_their_own(lab: Lab) -> None:
    _, run = lab.run("train.steps=4", "train.snapshots=[2]")
    _, own = lab.run("train.steps=2", f"store.root={lab.root / 'other'}")
    name = "pytorch_lora_weights.safetensors"
    snapshot = load_file(run / "adapters" / "step_2" / "00" / name)
    separate = load_file(own / "adapters" / "00" / name)
    assert snapshot.keys() == separate.keys()
    assert all(np.array_equal(snapshot[key], separate[key]) for key in snapshot)


def test_style_is_the_same_alone_and_in_company(lab: Lab) -> None:
    _, both = lab.run()
    _, alone = lab.run("data.styles=[5]", f"store.root={lab.root / 'other'}")
    a, b = pixels(both / "images")["05/Dog.png"], pixels(alone / "images")["05/Dog.png"]
    assert (
        np.abs(a.astype(int) - b.astype(int)).max() <= 1
    )  # kernels may round differently at another batch size


def test_seeds_file_fixes_single_pictures(lab: Lab) -> None:
    _, run = lab.run("method=base")
    (lab.root / "seeds.json").write_text(json.dumps({"00": {"Dog": 7}}))
    _, fixed = lab.run("method=base", f"sampler.seeds={lab.root / 'seeds.json'}")
    assert json.loads((fixed / "seeds.json").read_text())["00"]["Dog"] == 7
    a, b = pixels(run / "images"), pixels(fixed / "images")
    assert not np.array_equal(a["00/Dog.png"], b["00/Dog.png"])
    assert np.array_equal(a["00/Ice cream.png"], b["00/Ice cream.png"])


@pytest.mark.parametrize(
    "method", ["base", "prior", "average", "blend", "styleid", "styleid_db", "dreambooth_ti", "vae_enhancer"]
)
def test_every_method_runs(lab: Lab, method: str) -> None:
    extra = [
        "method.prior.per_word=1",
        "method.prior.sampler.steps=2",
        "method.styleid.steps=3",
        "sampler.steps=4",
    ]
    result, run = lab.run(f"method={method}", *extra)
    assert result.final_score is not None
    assert len(pixels(run / "images")) == 4
    assert (run / "content").is_dir() == method.startswith("styleid")
    assert (run / "adapters").is_dir() == (method not in {"base", "styleid"})


@pytest.mark.parametrize(
    "choice", [choice for choice in CHOICES if not choice.startswith(("method=", "data=", "backend=j"))]
)
def test_every_config_runs(lab: Lab, choice: str) -> None:
    """Methods and the Jittor backends have tests of their own, and `data=challenge` is what all of these read."""
    styles = list(STYLES) if "joint" in choice else ["00"]  # a joint adapter needs two
    settings = ("sampler.steps=3", "train.steps=2", "data.max_prompts=1")
    result, run = lab.run(choice, *settings, f"data.styles={[int(style) for style in styles]}")
    assert list(pixels(run / "images")) == [f"{style}/Dog.png" for style in styles]
    # one picture has no covariance, so there is no FID and no final score, but all the rest
    assert (result.final_score is None) == (len(styles) == 1)
    assert result.metrics["styles"]["00"]["n_pictures"] == 1


def test_style_that_leaves_the_finite_numbers_is_dropped_and_named(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(bench: Any, prior: Any) -> Any:
        specs = adapt.adapter_specs(bench, prior)
        return specs | {"05": replace(specs["05"], unet_lr=1e38)}

    monkeypatch.setattr(trial, "adapter_specs", poisoned)
    result, run = lab.run("train.steps=8")
    assert set(result.failed) == {"05"}
    assert sorted({name[:2] for name in pixels(run / "images")}) == ["00"]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["complete"] is False
    assert metrics["failed_styles"] == ["05"]


def test_references_are_scored_as_they_were_trained_on(lab: Lab, challenge: Path, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    shutil.copytree(challenge, root)
    images = root / "00" / "images"
    deep = np.random.default_rng(0).integers(0, 65536, (72, 72), dtype=np.uint16)
    Image.fromarray(deep).save(images / "deep.png")  # 16 bits a pixel
    clear = Image.open(images / "cat.png").convert("RGBA")
    clear.putalpha(Image.new("L", clear.size, 0))
    clear.save(images / "cat.png")
    result, _ = lab.run(f"data.root={root}", "method=base")
    white = noise(72, 0)
    white.paste("white", (0, 0, 72, 72))
    white.save(images / "cat.png")
    same, _ = lab.run(f"data.root={root}", "method=base")
    assert result.final_score is not None
    assert result.final_score == same.final_score


def test_faults_of_model_and_judges_are_told_before_any_work(lab: Lab, tmp_path: Path, tiny_sd: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_sd, broken)
    shutil.rmtree(broken / "unet")
    with pytest.raises(ConfigError) as caught:
        lab.run(f"model.path={broken}", "evaluation.networks.dino=.")
    text = str(caught.value)
    assert "unet" in text
    assert "dino" in text
    assert not (lab.root / "store" / "encode").exists()


def test_modules_that_the_model_lacks_are_told_before_any_work(lab: Lab) -> None:
    names = ("lora.unet.targets=[to_q,to_x]", "lora.text_encoder.rank=1", "lora.text_encoder.targets=[k]")
    with pytest.raises(ConfigError) as caught:
        lab.run("method=styleid_db", "method.prior.weight=1", "method.styleid.layers=['7','99']", *names)
    assert {(fault.key, fault.value) for fault in caught.value.faults} == {
        ("lora.unet.targets", "to_x"),
        ("lora.text_encoder.targets", "k"),
        ("method.styleid.layers", "99"),
    }
    assert {path.name for path in (lab.root / "store").iterdir() if path.is_dir()} <= {".work", ".locks"}
    # what is switched off may be called anything
    lab.run("method=base", "method.styleid.layers=['99']", *names)


def test_blended_layers_that_the_model_lacks_are_told_before_any_work(lab: Lab) -> None:
    with pytest.raises(ConfigError) as caught:
        lab.run("method=blend", "method.blend.c2f.layers=['4','16']", "method.blend.f2c.layers=[up_blocks.0]")
    assert {(fault.key, fault.value) for fault in caught.value.faults} == {
        ("method.blend.c2f.layers", "16"),
        ("method.blend.f2c.layers", "up_blocks.0"),
    }
    assert "up_blocks.1.attentions.0" in str(caught.value)
    assert not (lab.root / "store" / "encode").exists()


def test_blending_draws_again_without_training_again(lab: Lab) -> None:
    _, plain = lab.run("sampler.steps=4")
    _, blended = lab.run("method=blend", "sampler.steps=4", "method.name=dreambooth")
    assert made(blended)["train"] == {"made": 0, "reused": 2}
    assert made(blended)["generate"] == {"made": 2, "reused": 0}
    a, b = (pixels(run / "images") for run in (plain, blended))
    assert not any(np.array_equal(a[name], b[name]) for name in a)


def test_snapshot_asked_for_later_trains_no_further_than_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jdx.backends.torch.backend import TorchBackend

    jobs: list[Any] = []
    train = TorchBackend.train

    def watched(self: TorchBackend, job: Any, *rest: Any) -> Any:
        jobs.append((job.start_step, job.snapshots))
        return train(self, job, *rest)

    monkeypatch.setattr(TorchBackend, "train", watched)
    lab.run("train.steps=6")
    _, run = lab.run("train.steps=6", "train.snapshots=[2]")
    assert jobs == [(0, (6,)), (0, (2,))]
    assert (run / "adapters" / "step_2" / "00").is_dir()


def test_damaged_entries_are_made_again_and_give_the_same(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    _, one = lab.run()
    store = lab.root / "store"
    next(store.glob("generate/*/Dog.png")).unlink()
    next(store.glob("encode/*/moments.safetensors")).write_bytes(b"")
    next(store.glob("train/*/*/state.safetensors")).write_bytes(b"cut")
    _, two = lab.run()
    assert caplog.text.count("is damaged") == 3
    again = {stage: count["made"] for stage, count in made(two).items()}
    assert {stage: again[stage] for stage in ("encode", "train", "generate")} == dict.fromkeys(
        ("encode", "train", "generate"), 1
    )
    ours, theirs = pixels(one / "images"), pixels(two / "images")
    assert ours.keys() == theirs.keys()
    # trained alone this time: kernels may round differently at another batch size
    assert all(np.abs(ours[name].astype(int) - theirs[name]).max() <= 1 for name in ours)
    changed = {name.split("/")[0] for name in ours if not np.array_equal(ours[name], theirs[name])}
    assert again["score"] == len(changed)  # what is drawn to the bit is not scored again


def test_run_folder_used_again_holds_one_trial_only(lab: Lab) -> None:
    lab.run("method=base")
    lab.runs = 0
    _, run = lab.run("method=base", "data.styles=[05]")
    assert sorted(pixels(run / "images")) == ["05/Dog.png", "05/Ice cream.png"]
    assert sorted(pixels(run / "earlier" / "1" / "images"))[0] == "00/Dog.png"
    assert json.loads((run / "trial.json").read_text())["config"]["data"]["styles"] == ["05"]


def test_seeds_that_name_nothing_are_said(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({"00": {"Dog": 7, "Dgo": 8}, "5": {"Dog": 9}}))
    lab.run("method=base", f"sampler.seeds={seeds}")
    assert "1 prompts that this trial does not draw: 00/Dgo" in caplog.text
    assert "1 styles that this trial does not draw: 5" in caplog.text


def test_faults_of_a_seeds_file_are_told_before_any_work(lab: Lab) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({"00": {"Dog": -7}}))
    with pytest.raises(ConfigError, match=r"whole number(.|\n)*dino|dino(.|\n)*whole number"):
        lab.run(f"sampler.seeds={seeds}", "evaluation.networks.dino=.")
    assert not (lab.root / "store" / "encode").exists()


def test_two_styles_with_the_same_pictures_to_draw(lab: Lab) -> None:
    seeds = lab.root / "seeds.json"
    seeds.write_text(json.dumps({style: {"Dog": 7, "Ice cream": 8} for style in STYLES}))
    _, run = lab.run("method=base", f"sampler.seeds={seeds}")
    drawn = pixels(run / "images")
    assert len(drawn) == 4
    assert np.array_equal(drawn["00/Dog.png"], drawn["05/Dog.png"])


def test_names_as_long_as_a_file_can_have(lab: Lab) -> None:
    word, style = "狗" * 83, "风" * 85  # 249 bytes and .png; 255 bytes
    root = lab.root / "long"
    make_style(root / style, pictures=(), prompts={"0": word})
    noise(72, 1).save(root / style / "images" / "cat.png")
    settings = (f"data.root={root}", "method=prior", "method.init.picture=average", "method.prior.per_word=1")
    _, run = lab.run(
        *(f"{k}='{v}'" for k, _, v in (s.partition("=") for s in settings[:1])),
        *settings[1:],
        "method.prior.sampler.steps=2",
        "evaluation.judges=none",
    )
    assert list(pixels(run / "images")) == [f"{style}/{word}.png"]


def test_scorer_that_cannot_score_is_a_failed_attempt(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluation
    from evaluation.pictures import PictureError
    from jdx.errors import BackendError

    def fail(*_: Any) -> Any:
        raise PictureError("Dog.png: not a readable picture")

    monkeypatch.setattr(evaluation.Scorer, "marks", fail)
    with pytest.raises(BackendError, match=r"scoring: Dog\.png"):
        lab.run("method=base")


def test_settings_without_effect_make_nothing_again(lab: Lab) -> None:
    lab.run("sampler.guidance_scale=1.0")
    idle = ("optim.text_encoder.lr=0.5", "lora.text_encoder.alpha=3.0", "sampler.negative_prompt=blurry")
    _, run = lab.run("sampler.guidance_scale=1.0", *idle)
    assert all(count["made"] == 0 for count in made(run).values())
    _, run = lab.run("sampler.guidance_scale=3.0", "sampler.negative_prompt=blurry")
    _, run = lab.run("sampler.guidance_scale=3.0", "sampler.negative_prompt=dull")
    assert made(run)["generate"]["made"] == 2


def test_sample_set_in_a_folder_of_others_is_a_fault_of_the_setting(lab: Lab) -> None:
    (lab.root / "mine").mkdir()
    (lab.root / "mine" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"data\.root"):
        lab.run("data=sample", f"data.root={lab.root / 'mine'}")


def test_a_joint_adapter_draws_every_style(lab: Lab) -> None:
    """One entry in the store, one folder, one loss; every style's pictures are drawn with it."""
    _, run = lab.run("lora=joint", "lora.rank=3", "train.batch_size=2")
    assert [path.name for path in (run / "adapters").iterdir()] == ["joint"]
    assert made(run)["train"] == {"made": 1, "reused": 0}
    assert made(run)["encode"] == {"made": 2, "reused": 0}
    with (run / "losses.csv").open() as file:
        assert {row["style"] for row in csv.DictReader(file)} == {"joint"}
    _, own = lab.run("train.batch_size=2")
    assert made(own)["encode"] == {"made": 0, "reused": 2}
    a, b = (pixels(folder / "images") for folder in (run, own))
    assert a.keys() == b.keys()
    assert not any(np.array_equal(a[name], b[name]) for name in a)
    assert submit.main([str(run), "--size", "64"]) == 0
    # the run's own file draws its pictures again, seeds read back
    _, again = lab.run(
        "lora=joint", "lora.rank=3", "train.batch_size=2", f"sampler.seeds={run / 'seeds.json'}"
    )
    assert made(again)["train"] == {"made": 0, "reused": 1}
    assert all(np.array_equal(one, a[name]) for name, one in pixels(again / "images").items())


def test_groups_of_styles_share_the_joint_adapter(lab: Lab) -> None:
    _, whole = lab.run("lora=joint")
    _, parts = lab.run("lora=joint", "group_size=1", f"store.root={lab.root / 'other'}")
    assert made(parts)["train"] == {"made": 1, "reused": 0}
    a, b = (pixels(folder / "images") for folder in (whole, parts))
    assert all(np.array_equal(a[name], b[name]) for name in a)


def test_one_style_has_no_joint_adapter_and_several_must_be_told_apart(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="only style 05"):
        lab.run("lora=joint", "data.styles=['05']")
    with pytest.raises(ConfigError, match="the same for styles 00, 05") as caught:
        lab.run("lora=joint", "method.prompts.train='a {object}'", "method.prompts.generate='an {object}'")
    assert [fault.key for fault in caught.value.faults] == ["method.prompts.train", "method.prompts.generate"]
    assert not (lab.root / "store" / "encode").exists()


def test_styleblend_from_end_to_end(lab: Lab, tiny_sd: Path) -> None:
    """Learnt word, UNet adapter, coarse branch on chosen candidates; each branch's part changes the pictures."""
    recipe = (
        "experiment=styleblend",
        "sampler.steps=5",
        "train.steps=2",
        "data.styles=[5]",
        "method.blend.coarse.lr=0.05",
    )
    _, run = lab.run(*recipe)
    files = sorted(p.relative_to(run / "adapters").as_posix() for p in (run / "adapters" / "05").rglob("*.*"))
    lora, word = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
    assert files == sorted([f"05/{lora}", f"05/{word}", f"05/coarse/{lora}"])
    assert {key.split(".")[0] for key in load_file(run / "adapters" / "05" / lora)} == {"unet"}
    assert {key.split(".")[0] for key in load_file(run / "adapters" / "05" / "coarse" / lora)} == {
        "text_encoder"
    }
    assert made(run)["kept"] == {"made": 1, "reused": 0}
    base = pixels(run / "images")
    for change in (
        "method.blend.coarse.train=false",
        "method.blend.enabled=false",
        "method.blend.c2f.share=0.2",
    ):
        _, other = lab.run(*recipe, change)
        assert made(other)["train"]["made"] == 0
        drawn = pixels(other / "images")
        assert drawn.keys() == base.keys()
        assert not any(np.array_equal(drawn[name], base[name]) for name in base), change
