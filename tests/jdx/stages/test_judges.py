"""The judges of many trials in one process: loaded once, as long as they are the same, and off the card between."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import evaluation
from data.challenge import ChallengeSet, Reference, Style
from data.prompts import Prompt
from jdx import validation
from jdx.schema import TrialConfig
from jdx.stages import coarse, judges, score
from tests.configs import compose_plain
from tests.jdx.lab import Lab, challenge, lab

__all__ = ["challenge", "lab"]

CPU, CARD = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def none_are_seated() -> Iterator[None]:
    judges.release()
    yield
    judges.release()


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A note of every loading."""
    notes: list[Any] = []
    load = evaluation.load_judges

    def watched(spec: Any, **settings: Any) -> Any:
        notes.append(settings)
        return load(spec, **settings)

    monkeypatch.setattr(evaluation, "load_judges", watched)
    return notes


def config_of(*overrides: str) -> TrialConfig:
    return validation.build(compose_plain(*overrides))


def test_trials_of_one_process_load_their_judges_once(lab: Lab, loaded: list[Any], tmp_path: Path) -> None:
    lab.run("method=base")
    second, _ = lab.run("method=base", "sampler.steps=3")
    assert len(loaded) == 1
    judges.release()
    alone, _ = lab.run("method=base", "sampler.steps=3", f"store.root={tmp_path / 'another'}")
    assert len(loaded) == 2
    assert alone.final_score == second.final_score
    lab.run("method=base", "evaluation.fid_resize=antialias")
    assert len(loaded) == 3


def test_coarse_branch_and_score_share_their_judges(lab: Lab, loaded: list[Any]) -> None:
    lab.run("method=blend", "method.blend.coarse.train=true")
    assert len(loaded) == 1


def test_other_weights_are_other_judges(
    tiny_judges: Path, loaded: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "judges"
    shutil.copytree(tiny_judges.parent, own)
    config = config_of(f"evaluation.judges={own / tiny_judges.name}", "backend.device=cpu")
    first = judges.seated(config)
    assert judges.seated(config) is first
    file = evaluation.JudgeSpec.named(own / tiny_judges.name).dino.path
    assert file is not None
    weights = load_file(file / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, file / "model.safetensors")
    assert judges.seated(config) is not first
    assert len(loaded) == 2


def test_judges_rest_while_a_coarse_branch_is_trained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(coarse, "resting", lambda: note_of(seen, judges.resting()))
    monkeypatch.setattr(score, "awake", lambda: seen.append("awake"))
    lab.run("method=blend", "method.blend.coarse.train=true")
    assert seen[:3] == ["choosing", "rest", "awake"]


@contextmanager
def note_of(seen: list[str], block: AbstractContextManager[None]) -> Iterator[None]:
    seen.append("choosing")
    with block:
        yield
    seen.append("rest")


class OnCard(SimpleNamespace):
    """Judges that only remember where they are."""

    device: torch.device
    full = False

    def to(self, device: torch.device) -> None:
        if self.full and device == CARD:
            raise torch.cuda.OutOfMemoryError("no room")
        self.device = device


def test_judges_leave_their_card_when_a_trial_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_judges", lambda *_, **__: OnCard(device=CARD))
    config = config_of("evaluation=mini")

    def fails() -> None:
        with judges.resting():
            judges.seated(config)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    first = judges._seat[0].judges
    assert first.device == CPU
    judges.awake()
    assert first.device == CARD
    with judges.resting():
        assert judges.seated(config) is first
    assert first.device == CPU
    assert judges.seated(config).device == CARD


def test_judges_that_find_no_room_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load_judges", lambda *_, **__: OnCard(device=CARD))
    config = config_of("evaluation=mini")
    with judges.resting():
        first: Any = judges.seated(config)
    first.full = True
    with pytest.raises(torch.cuda.OutOfMemoryError):
        judges.seated(config)
    assert judges.seated(config) is not first


@pytest.mark.parametrize(
    ("settings", "cards", "device"),
    [
        (("backend=jittor", "backend.device=cuda"), 0, "cpu"),
        (("backend=jittor", "backend.device=cuda:1"), 1, "cpu"),
        (("backend=jittor", "backend.device=cuda:1"), 2, "cuda:1"),
        (("backend=jittor", "backend.device=cpu"), 1, "cpu"),
        (("backend=jittor", "backend.device=auto"), 0, "auto"),
        (("backend=torch", "backend.device=cuda"), 0, "cuda"),  # which the backend refuses at once
    ],
)
def test_judges_score_on_the_cpu_where_only_jittor_has_a_card(
    settings: tuple[str, ...],
    cards: int,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    config = config_of(*settings)
    assert judges.judges_device(config) == device
    judges.say_device(config)
    asked = settings[1].partition("=")[2]
    said = [f"this one has no {asked} (backend=jittor does)"] if device != asked else []
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


@pytest.mark.parametrize(
    ("prompts", "references", "said"),
    [
        (1, 4, "1 prompt and 4 reference pictures in all"),
        (5, 1, "5 prompts and 1 reference picture in all"),
        (2, 2, ""),
    ],
)
def test_a_set_too_small_for_a_final_score_is_told_before(
    prompts: int, references: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    some = (Reference(Path("cat.png"), "cat"),) * references, (Prompt("0", "cat"),) * prompts
    challenge = ChallengeSet(Path(), (Style("00", *some),))
    judges.say_unscorable(config_of("evaluation.judges=none"), challenge)
    assert not caplog.messages
    judges.say_unscorable(config_of(), challenge)
    assert [message.endswith(said) for message in caplog.messages] == [True] * bool(said)
