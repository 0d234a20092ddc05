"""Cached features: whole files, nothing stale, and no pass that was made before."""

import threading
from pathlib import Path

import pytest
import torch

from evaluation import ScoreOptions, load_judges, score_folders
from evaluation.cache import FeatureCache, default_cache_dir, feature_key
from evaluation.files import write_atomic
from tests.evaluation.tiny import picture

Folders = tuple[Path, Path]


def test_what_is_put_is_got(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    key = feature_key("a", "b")
    assert cache.get(key) is None
    cache.put(key, {"row": torch.arange(3.0)})
    found = cache.get(key)
    assert found is not None
    assert torch.equal(found["row"], torch.arange(3.0))


def test_keys_do_not_run_together() -> None:
    assert feature_key("ab", "c") != feature_key("a", "bc")


def test_damaged_files_count_as_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    key = feature_key("a")
    cache.put(key, {"row": torch.ones(2)})
    path = next(tmp_path.rglob("*.features"))
    whole = path.read_bytes()
    for damaged in (whole[:20], whole[:-4] + bytes(4), b""):
        path.write_bytes(damaged)
        assert cache.get(key) is None
    cache.put(key, {"row": torch.ones(2)})
    assert cache.get(key) is not None


def test_switched_off_it_writes_nothing(tmp_path: Path) -> None:
    cache = FeatureCache(None)
    cache.put("k", {"row": torch.ones(1)})
    assert cache.get("k") is None


def test_a_folder_that_cannot_be_written_warns_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("x")
    cache = FeatureCache(tmp_path / "file")
    for _ in range(2):
        cache.put("kk", {"row": torch.ones(1)})
    assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


def test_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDX_CACHE", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/features")
    monkeypatch.delenv("JDX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert default_cache_dir() == Path("/elsewhere/jdx/features")


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path, stop, seen = tmp_path / "f", threading.Event(), set()
    contents = [bytes([65 + i]) * 200_000 for i in range(3)]
    write_atomic(path, contents[0])

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        write_atomic(path, contents[i % 3])
    stop.set()
    reader.join()
    assert seen <= set(contents)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_second_run_makes_no_pass_over_references(
    tmp_path: Path, tiny_judges: Path, challenge_set: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ScoreOptions(cache=tmp_path / "cache", device="cpu")
    first = load_judges(tiny_judges, device="cpu")
    one = score_folders(*challenge_set, first, options)
    assert first.passes == {"dino": 12, "clip_r": 6, "clip_iqa": 6, "lpips": 12, "fid": 12}
    second = load_judges(tiny_judges, device="cpu")
    monkeypatch.setattr(type(second.clip_r_texts), "encode", None)
    two = score_folders(*challenge_set, second, options)
    assert second.passes == dict.fromkeys(second.passes, 6)
    assert two.to_json() == one.to_json()


def test_changed_pictures_networks_and_variants_are_not_confused(
    tmp_path: Path, tiny_judges: Path, challenge_set: Folders
) -> None:
    cached = ScoreOptions(cache=tmp_path / "cache", device="cpu")
    plain = ScoreOptions(cache=None, device="cpu")
    corrected = ScoreOptions(cache=tmp_path / "cache", histogram="corrected", device="cpu")
    before = score_folders(*challenge_set, tiny_judges, cached)
    picture(999, 48).save(challenge_set[1] / "00" / "images" / "ref0.png")
    after = score_folders(*challenge_set, tiny_judges, cached)
    assert after.final_score != before.final_score
    assert after.final_score == pytest.approx(score_folders(*challenge_set, tiny_judges, plain).final_score)
    uncached = ScoreOptions(cache=None, histogram="corrected", device="cpu")
    one = score_folders(*challenge_set, tiny_judges, corrected)
    other = score_folders(*challenge_set, tiny_judges, uncached)
    assert one.metrics == pytest.approx(other.metrics)
    assert one.metrics["hist"] != after.metrics["hist"]
