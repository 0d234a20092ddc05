"""What every trial of a sweep would stop at: told once, in a trial's words; what depends on the point is left to it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from data.challenge import ChallengeSet, DataError
from jdx import ROOT, preflight, trial, validation
from jdx.errors import ConfigError
from jdx.preflight import EveryTrialError
from jdx.schema import TrialConfig
from tests.configs import compose_plain
from tests.data.sets import make_set

NOWHERE = "/nowhere/at/all"


class Points:
    """Configurations of a sweep's points; counts how many were asked for."""

    def __init__(self, shared: list[str], *own: list[str]):
        self.shared, self.own, self.asked = shared, own or ([],), 0

    def __iter__(self) -> Iterator[DictConfig]:
        for words in self.own:
            self.asked += 1
            yield OmegaConf.create(compose_plain(*self.shared, *words, resolve=False))


@pytest.fixture
def shared(tmp_path: Path) -> list[str]:
    """Settings at which nothing is wrong."""
    root = make_set(tmp_path / "set")
    return ["data=challenge", f"data.root={root}", f"store.root={tmp_path / 'store'}"]


def test_where_all_is_well_one_point_is_enough_and_torch_is_not_imported(shared: list[str]) -> None:
    points = Points(shared, ["lora.rank=4"], ["lora.rank=8"])
    assert preflight.check(points, here=True) == []
    assert points.asked == 1
    code = (
        "import sys; from jdx import preflight; from tests.jdx.test_preflight import Points\n"
        f"print(preflight.check(Points({shared!r}, []), here=True), 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.stdout == "[] False\n", out.stderr


def test_all_faults_of_all_places_are_one_report_in_a_trials_words(shared: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = [
        *(f"data.root={NOWHERE}", f"model.path={NOWHERE}", f"store.root={tmp_path / 'file'}"),
        "evaluation.networks.fid=.",
    ]
    with pytest.raises(EveryTrialError) as caught:
        preflight.check(Points([*shared, *wrong], ["lora.rank=4"], ["lora.rank=8"]), here=True)
    text = str(caught.value)
    assert [fault.key for fault in caught.value.faults] == ["model.path", "evaluation.judges", "store.root"]
    assert "none was started" in text

    config = validation.build(compose_plain(*shared, *wrong))
    with pytest.raises(DataError) as data:
        trial.read_set(config)
    assert str(data.value) in text
    for alone in ("model.path", "evaluation.networks.fid", "store.root"):
        words = [*shared, *(word for word in wrong if word.startswith(f"{alone}="))]
        with pytest.raises(ConfigError) as told:
            trial.run(validation.build(compose_plain(*words, "quiet=true", "tracker=none")), tmp_path / "run")
        assert "\n".join(str(told.value).splitlines()[1:]) in text


def test_faults_of_the_settings_come_first_and_alone(shared: list[str]) -> None:
    words = [*shared, "train.steps=-1", "train.snapshots=[0]", f"model.path={NOWHERE}"]
    with pytest.raises(EveryTrialError) as caught:
        preflight.check(Points(words, ["lora.rank=4"], ["lora.rank=8"]), here=True)
    assert {fault.key for fault in caught.value.faults} == {"train.steps", "train.snapshots.0"}
    with pytest.raises(EveryTrialError, match=r"data\.root = \?\?\?"):
        preflight.check(Points(["data=challenge"], ["lora.rank=4"], ["lora.rank=8"]), here=True)


def test_points_with_faulty_settings_tell_nothing_of_the_rest(shared: list[str]) -> None:
    words = [*shared, f"model.path={NOWHERE}"]
    with pytest.raises(EveryTrialError) as caught:
        preflight.check(Points(words, ["train.steps=-1"], ["train.steps=5"]), here=True)
    assert [fault.key for fault in caught.value.faults] == ["model.path"]


@pytest.mark.parametrize(
    "points",
    [
        [["data.root=/nowhere/1"], ["data.root=/nowhere/2"]],  # each has a fault of its own
        [[f"data.root={NOWHERE}"], []],
        [[f"model.path={NOWHERE}"], []],
        [[f"evaluation.judges={NOWHERE}"], []],
        [["evaluation.networks.fid=."], []],
        [["train.steps=-1"], []],
        [["train.steps=-1"], ["train.steps=-2"]],
        [["train.steps=-1"], [f"model.path={NOWHERE}"], []],
        [["data=sample", "data.root=${hydra:job.num}"]],  # known to the job alone
    ],
)
def test_what_depends_on_the_point_is_left_to_the_trials(shared: list[str], points: list[list[str]]) -> None:
    assert preflight.check(Points(shared, *points), here=True) == []


def test_a_set_is_read_once_for_all_points_that_share_it(
    shared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(config: TrialConfig) -> ChallengeSet:
        read.append(f"{config.data.max_references}")
        return trial.read_set(config)

    monkeypatch.setattr(preflight, "read_set", counted)
    points = [[f"lora.rank={rank}", f"data.max_references={n}"] for n in (1, 2) for rank in (2, 4, 8)]
    words = [*shared, f"data.root={NOWHERE}", f"model.path={NOWHERE}"]
    with pytest.raises(
        EveryTrialError
    ) as caught:  # as many references as there may be: the folder is missing
        preflight.check(Points(words, *points), here=True)
    assert len(caught.value.data) == 1
    assert read == ["1", "2"]


def test_the_sample_set_is_drawn_for_all_trials_but_not_for_those_of_other_machines(tmp_path: Path) -> None:
    root = tmp_path / "sample"
    words = [f"data.root={root}", f"store.root={tmp_path / 'store'}"]
    assert preflight.check(Points(words), here=False) == []
    assert list(tmp_path.iterdir()) == []
    assert preflight.check(Points(words), here=True) == []
    drawn = (root / "00" / "prompt.json").stat()
    trial.read_set(validation.build(compose_plain(*words)))
    assert (root / "00" / "prompt.json").stat() == drawn
    with pytest.raises(EveryTrialError, match="there is no style 7"):
        preflight.check(Points([*words, "data.styles=[7]"]), here=True)


def test_other_machines_may_see_other_disks_but_no_other_settings(shared: list[str], tmp_path: Path) -> None:
    wrong = [f"data.root={NOWHERE}", f"model.path={NOWHERE}", f"sampler.seeds={NOWHERE}"]
    files = [f"evaluation.networks.dino={NOWHERE}", "method.init.picture=gone.png"]
    (said,) = preflight.check(Points([*shared, *wrong, *files]), here=False)
    for part in ("the sweep goes on", "data.root must be", "model.path =", "sampler.seeds =", "gone.png"):
        assert part in said
    assert said.count("dino") == 1  # not again as a judge that is missing
    assert not (tmp_path / "store").exists()
    with pytest.raises(EveryTrialError, match=r"train\.steps"):
        preflight.check(Points([*shared, *wrong, "train.steps=0"]), here=False)
    with pytest.raises(EveryTrialError, match=r"sampler\.seeds"):
        preflight.check(Points([*shared, *wrong]), here=True)


def test_a_disk_that_is_full_for_a_moment_is_no_fault(
    shared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(config: TrialConfig) -> ChallengeSet:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(preflight, "read_set", full)
    assert preflight.check(Points(shared), here=True) == []


def test_another_backends_setup_is_looked_at(shared: list[str], tmp_path: Path) -> None:
    words = [*shared, "backend=jittor", "backend.python=/nowhere/python", f"backend.home={tmp_path}"]
    with pytest.raises(EveryTrialError, match=r"/nowhere/python"):
        preflight.check(Points(words), here=True)
