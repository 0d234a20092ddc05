"""A set put together from styles' marks, which may have been on disk, is the set scored in one go."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation import Scorer, StyleMarks, report_of
from evaluation.clip_r import cosines, probability
from evaluation.errors import ScoreError
from evaluation.judges import JudgeSpec
from evaluation.scorer import ScoreOptions
from evaluation.weights import identity
from tests.evaluation.tiny import picture

PLAIN = ScoreOptions(cache=None)


@pytest.fixture(scope="module")
def scorer(tiny_judges: Path) -> Scorer:
    return Scorer(tiny_judges, PLAIN)


def marks(scorer: Scorer, seed: int) -> StyleMarks:
    pictures = {name: picture(seed + i) for i, name in enumerate(("Cat", "Ice cream"))}
    return scorer.marks(f"s{seed}", pictures, [picture(50), picture(51)])


def test_marks_read_back_give_the_same_report_to_the_last_bit(
    scorer: Scorer, tiny_judges: Path, tmp_path: Path
) -> None:
    found = {str(seed): marks(scorer, seed) for seed in (0, 20)}
    for style, one in found.items():
        one.write(tmp_path / style)
    read = {style: StyleMarks.read(tmp_path / style) for style in found}
    whole = Scorer(tiny_judges, PLAIN)
    for seed in (0, 20):
        pictures = {name: picture(seed + i) for i, name in enumerate(("Cat", "Ice cream"))}
        whole.add_style(str(seed), pictures, [picture(50), picture(51)])
    assert report_of(read).to_json() == whole.result().to_json()
    assert scorer.styles == {}  # marking adds nothing


def test_marks_of_other_judges_are_not_mixed(scorer: Scorer) -> None:
    one = marks(scorer, 0)
    with pytest.raises(ScoreError, match="b were marked by other judges"):
        report_of({"a": one, "b": replace(one, variants={"histogram": "corrected", "fid_resize": "tf1"})})


def test_probability_is_clips_own_softmax() -> None:
    """Against the formula of CLIP's paper (figure 3): softmax of the scaled cosines."""
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    own, texts = rows[0], rows[1:]
    logits = 30 * np.array([float(t @ own / (t.norm() * own.norm())) for t in texts])
    shares = np.exp(logits) / np.exp(logits).sum()
    near = cosines(own, texts)
    for i, name in enumerate("abcd"):
        assert probability(near, "abcd", name, 30.0) == pytest.approx(shares[i], rel=1e-5)


def test_similarities_are_cosines_in_the_order_given(scorer: Scorer) -> None:
    references = [picture(51), picture(50), picture(3)]
    rows = scorer.similarities({"Cat": picture(3), "Dog": picture(50)}, references)
    assert [row.index(max(row)) for row in rows.values()] == [2, 1]
    assert rows["Cat"][2] == pytest.approx(1.0, abs=1e-6)
    mean = scorer.marks("s", {"Cat": picture(3)}, references).score.dino
    assert np.mean(rows["Cat"]) == pytest.approx(mean, abs=1e-6)


def test_identity_changes_with_networks_and_words(tiny_judges: Path, tmp_path: Path) -> None:
    spec = JudgeSpec.named(tiny_judges)
    first = identity(spec)
    assert first == identity(JudgeSpec.named(tiny_judges))
    (tmp_path / "nouns.txt").write_text("Dog\nCat\n")
    other = replace(spec, clip_r=replace(spec.clip_r, options={"nouns": tmp_path / "nouns.txt"}))
    assert identity(other)["clip_r"] != first["clip_r"]
    assert identity(other)["dino"] == first["dino"]
    assert identity(replace(spec, fid=replace(spec.fid, options={"stage": 1})))["fid"] != first["fid"]


def test_identity_tells_a_tokenizers_folder_by_its_files(tiny_judges: Path, tmp_path: Path) -> None:
    spec = JudgeSpec.named(tiny_judges)

    def counted(folder: Path) -> object:
        named = replace(spec, clip_iqa=replace(spec.clip_iqa, options={"tokenizer": folder}))
        return identity(named)["clip_iqa"]["options"]["tokenizer"]

    clip, copy = tiny_judges.parent / "clip", tmp_path / "copy"
    shutil.copytree(clip, copy)
    assert counted(copy) == counted(clip)
    (copy / "tokenizer_config.json").write_text("{}")
    assert counted(copy) != counted(clip)
