"""What an earlier trial made is taken from the store, and gives the same as made anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from jdx.backends import stops
from jdx.store import Store
from tests.jdx.lab import Lab, challenge, lab, made, pixels

__all__ = ["challenge", "lab"]


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


def test_settings_without_effect_make_nothing_again(lab: Lab) -> None:
    lab.run("sampler.guidance_scale=1.0")
    idle = ("optim.text_encoder.lr=0.5", "lora.text_encoder.alpha=3.0", "sampler.negative_prompt=blurry")
    _, run = lab.run("sampler.guidance_scale=1.0", *idle)
    assert all(count["made"] == 0 for count in made(run).values())
    _, run = lab.run("sampler.guidance_scale=3.0", "sampler.negative_prompt=blurry")
    _, run = lab.run("sampler.guidance_scale=3.0", "sampler.negative_prompt=dull")
    assert made(run)["generate"]["made"] == 2
