"""Judge sets: the file format, local files, and one error for all that is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import JudgesError, JudgeSpec, load_judges, weights
from evaluation.judges import MINI, ROLES
from evaluation.trunks import ConvTrunk, StageConfig, TrunkConfig, load_trunk, save_trunk
from evaluation.weights import locate
from tests.evaluation.tiny import random_trunk


def _edited(judges: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a judges.json with absolute places and some roles changed."""
    data = json.loads(judges.read_text())
    for role in ROLES:
        for key in ("path", "nouns"):
            if key in data[role]:
                data[role][key] = str(judges.parent / data[role][key])
    for role, change in changes.items():
        data[role] = {**data[role], **change} if isinstance(change, dict) and role in data else change
    path = folder / "judges.json"
    path.write_text(json.dumps(data))
    return path


def test_every_fault_of_a_file_is_listed(tmp_path: Path, tiny_judges: Path) -> None:
    path = _edited(
        tiny_judges,
        tmp_path,
        dino={"kind": "resnet"},
        clip_r={"hub": "some/where"},
        lpips={"head": "uniform"},
        kid={"kind": "trunk"},
    )
    with pytest.raises(JudgesError) as caught:
        JudgeSpec.read(path)
    for part in ("unknown key 'kid'", "kind 'resnet' is not one of hf_vision", "exactly one of", "'head'"):
        assert part in str(caught.value)


def test_names(tmp_path: Path, tiny_judges: Path) -> None:
    assert JudgeSpec.named(tiny_judges).name == "tiny"
    assert JudgeSpec.named(tiny_judges.parent).name == "tiny"
    assert JudgeSpec.named("challenge").clip_r.hub == "openai/clip-vit-large-patch14"
    with pytest.raises(JudgesError, match="give `challenge`, `mini` or the path"):
        JudgeSpec.named("chalenge")
    assert MINI.parts[-5:] == ("data", "mini", "weights", "judges", "judges.json")


def test_missing_files_are_all_named_with_their_options(tmp_path: Path) -> None:
    spec = JudgeSpec.named("challenge").pointed_at({role: tmp_path / role for role in ROLES})
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino" / "config.json").write_text("{}")
    with pytest.raises(JudgesError) as caught:
        locate(spec)
    text = str(caught.value)
    for part in ("dino/model.safetensors is missing", "dino/preprocessor_config.json is missing"):
        assert part in text
    for role in ROLES[1:]:
        assert f"{role}: {tmp_path / role}" in text
        assert f"--{role.replace('_', '-')} PATH" in text


def test_offline_every_network_that_cannot_be_had_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setenv("JDX_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(JudgesError) as caught:
        load_judges("challenge", device="cpu")
    named = ("facebook/dinov2-base", "openai/clip-vit-large-patch14", "RN50.pt", "squeezenet1_1", "inception")
    for name in named:
        assert name in str(caught.value)
    assert str(caught.value).count("no route to host") >= len(named)


def test_a_check_reads_and_fetches_nothing_and_offline_it_tells_what_locate_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_judges: Path
) -> None:
    asked: list[str] = []

    def refuse(*args: object, local_files_only: bool = False, **kwargs: object) -> None:
        asked.extend([] if local_files_only else ["fetch"])
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    for name in ("JDX_WEIGHTS", "HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    challenge = JudgeSpec.named("challenge")
    monkeypatch.setattr("httpx.head", lambda *args, **kwargs: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    weights.check(challenge)
    assert asked == []
    with pytest.raises(JudgesError, match=r"lpips: /nowhere"):
        weights.check(challenge.pointed_at({"lpips": "/nowhere"}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(JudgesError) as told:
        weights.check(challenge)
    with pytest.raises(JudgesError) as caught:
        locate(challenge)
    assert str(told.value) == str(caught.value)

    monkeypatch.setattr("evaluation.weights._known_digest", refuse)
    weights.check(JudgeSpec.named(tiny_judges))


@pytest.mark.parametrize(
    "given", [{}, {"XDG_CACHE_HOME": "~/c"}, {"XDG_CACHE_HOME": "/c"}, {"TORCH_HOME": "~/t"}]
)
def test_torch_hub_is_where_torch_says(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert weights.torch_hub() == Path(torch.hub.get_dir())


def test_downloaded_files_are_found_by_name_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.weights import _from_urls

    monkeypatch.setenv("JDX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "source.pth").write_bytes(b"weights")
    url = (tmp_path / "source.pth").as_uri()
    with pytest.raises(JudgesError, match="0000… was expected"):
        _from_urls((url,), "0000")
    assert not (tmp_path / "weights" / "source.pth").exists()
    found = _from_urls((url,), "")
    assert found.read_bytes() == b"weights"
    (tmp_path / "source.pth").unlink()
    assert _from_urls((url,), "") == found


def test_weights_of_another_network_are_refused(tmp_path: Path, tiny_judges: Path) -> None:
    folder = tmp_path / "trunk"
    save_trunk(random_trunk(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["stages"][0]["channels"] = 9
    (folder / "config.json").write_text(json.dumps(config))
    path = _edited(tiny_judges, tmp_path, fid={"path": str(folder)})
    with pytest.raises(JudgesError, match="weights do not fit ConvTrunk"):
        load_judges(path, device="cpu")


def test_stage_and_device_are_checked(tmp_path: Path, tiny_judges: Path) -> None:
    with pytest.raises(JudgesError, match=r"stage 3 is not one of 0…2"):
        load_judges(_edited(tiny_judges, tmp_path, fid={"stage": 3}), device="cpu")
    with pytest.raises(JudgesError, match="'gpu0' cannot be used"):
        load_judges(tiny_judges, device="gpu0")


def test_options_reach_the_judges(tmp_path: Path, tiny_judges: Path) -> None:
    path = _edited(tiny_judges, tmp_path, fid={"scale": 30.0, "stage": 1}, clip_iqa={"logit_scale": 7.0})
    judges = load_judges(path, device="cpu")
    assert (judges.fid_scale, judges.fid_stage, judges.logit_scale) == (30.0, 1, 7.0)
    assert judges.nouns == ("boat", "cat", "dog", "fish", "house", "key", "moon", "rose")
    a, b = torch.randn(20, 12), torch.randn(20, 12)
    plain = load_judges(tiny_judges, device="cpu")
    assert judges.fid_distance(a, b) == pytest.approx(30 * plain.fid_distance(a, b))
    assert judges.to_json()["settings"] != plain.to_json()["settings"]


def test_digests_follow_the_weights(tmp_path: Path, tiny_judges: Path) -> None:
    save_trunk(ConvTrunk(random_trunk().config), tmp_path / "trunk")
    other = locate(JudgeSpec.named(tiny_judges).pointed_at({"lpips": tmp_path / "trunk"}))
    first = locate(JudgeSpec.named(tiny_judges))
    assert other["lpips"].digest != first["lpips"].digest
    assert other["fid"].digest == first["fid"].digest == first["lpips"].digest


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_trunks_come_back_as_they_were_saved(tmp_path: Path, norm: str) -> None:
    config = TrunkConfig(
        stages=(StageConfig(8, layers=2, stride=1), StageConfig(16, kernel=5)),
        image_size=None,
        norm=norm,
        activation="gelu",
        groups=4,
    )
    trunk = ConvTrunk(config).eval()
    save_trunk(trunk, tmp_path, dtype=torch.float32)
    again = load_trunk(tmp_path)
    x = torch.randn(2, 3, 24, 24)
    assert again.config == config
    assert [tuple(stage.shape) for stage in again(x)] == [(2, 8, 24, 24), (2, 16, 12, 12)]
    assert all(torch.equal(a, b) for a, b in zip(trunk(x), again(x), strict=True))


def test_trunk_configs_are_checked() -> None:
    with pytest.raises(ValueError, match="kernel is odd"):
        StageConfig(8, kernel=4)
    with pytest.raises(ValueError, match=r"stages.*empty.*norm 'layer'.*activation 'tanh'"):
        TrunkConfig(stages=(), norm="layer", activation="tanh")
    with pytest.raises(ValueError, match="unknown keys"):
        TrunkConfig.from_json({"stages": [], "size": 3})


def test_judges_move_with_all_they_have(tiny_judges: Path) -> None:
    judges, meta = load_judges(tiny_judges, device="cpu"), torch.device("meta")
    judges.to(meta)
    for role in judges.digests:
        eye = getattr(judges, role)
        assert eye.device == meta
        held = [*eye.network.parameters(), *eye.network.buffers()]
        assert {tensor.device for tensor in held} == {meta}
    assert {judges.device, judges.clip_r_texts.device, judges.clip_iqa_texts.device} == {meta}
    assert {head.device for head in judges.heads} == {meta}
    for role, texts in (("clip_r", judges.clip_r_texts), ("clip_iqa", judges.clip_iqa_texts)):
        assert texts.model is getattr(judges, role).network  # type: ignore[attr-defined]
