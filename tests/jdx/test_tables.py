"""Tables of words: read from wherever they are given, refused whole with every fault."""

import json
from pathlib import Path

import pytest

from evaluation.clip_r import read_nouns
from evaluation.judges import NOUNS
from jdx.errors import ConfigError
from jdx.tables import DEFAULT, shipped, style_table, word_table

KEY = "method.prompts.styles"


def faults_of(given: object, tmp_path: Path, suffix: str = ".yaml") -> dict[str, str]:
    path = tmp_path / f"table{suffix}"
    path.write_text(given if isinstance(given, str) else json.dumps(given), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        style_table(KEY, str(path))
    return {fault.key: fault.allowed for fault in caught.value.faults}


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_file_and_mapping_say_the_same(tmp_path: Path, suffix: str) -> None:
    table = {"00": {"phrase": "neon"}, "5": {"negative": ""}}
    (tmp_path / f"t{suffix}").write_text(json.dumps(table))
    read = style_table(KEY, str(tmp_path / f"t{suffix}"))
    assert read == style_table(KEY, table)
    assert (read["00"].phrase, read["00"].negative, read["5"].negative) == ("neon", None, "")


def test_numbers_as_names_are_names(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("5: {phrase: a}\n08: {phrase: b}\n")
    assert set(style_table(KEY, str(tmp_path / "t.yaml"))) == {"5", "08"}


def test_every_fault_of_a_table_is_told(tmp_path: Path) -> None:
    faults = faults_of({"00": {"phase": "neon"}, "01": {"negative": 3}, "02": "neon"}, tmp_path)
    assert set(faults) == {f"{KEY}.00.phase", f"{KEY}.01.negative", f"{KEY}.02"}
    assert "no such setting" in faults[f"{KEY}.00.phase"]
    assert "must be a text" in faults[f"{KEY}.01.negative"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[1]", "a list"),
        ("", "empty"),
        ("yes: {phrase: a}", "quotes"),
        ("a: 2026-01-01", "JSON"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    assert any(words in allowed for allowed in faults_of(text, tmp_path).values())


def test_unknown_name_gets_those_that_come_with_jdx() -> None:
    with pytest.raises(ConfigError, match="did you mean hypernyms") as caught:
        word_table("method.prompts.expand", "hyponyms")
    assert all(name in str(caught.value) for name in shipped())


def test_words_are_found_whatever_their_case() -> None:
    assert word_table("k", {"Cat": "cat, pet"}) == {"cat": "cat, pet"}
    with pytest.raises(ConfigError, match="twice"):
        word_table("k", {"Cat": "a", "cat": "b"})
    with pytest.raises(ConfigError, match="a_object"):
        word_table("k", {DEFAULT: "{word}"})


def test_every_contest_word_has_its_kind() -> None:
    table = word_table("method.prompts.expand", "hypernyms")
    nouns = set(read_nouns(NOUNS))
    assert table.keys() - {DEFAULT} == nouns
    for noun in nouns:
        assert table[noun].startswith(noun)
        assert len(table[noun]) > len(noun)
