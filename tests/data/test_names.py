import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.names import MAX_PROMPT_LENGTH, file_name_fault, object_word, prompt_fault, same_name


@pytest.mark.parametrize(
    ("stem", "word"),
    [
        # stems of the contest's sets (trailing underscores are in the originals)
        ("wallet_", "wallet"),
        ("cypress_tree", "cypress tree"),
        ("woman_playing_basketball", "woman playing basketball"),
        ("cactus_made", "cactus made"),
        ("t-shirt", "t-shirt"),
        ("__a__b  c ", "a b c"),
        ("Ice cream", "Ice cream"),
        ("_", ""),
    ],
)
def test_object_word_of_known_stems(stem: str, word: str) -> None:
    assert object_word(stem) == word


@given(st.text(st.characters(exclude_characters="/\0"), max_size=40))
def test_object_word_is_clean_and_stable(stem: str) -> None:
    word = object_word(stem)
    assert "_" not in word
    assert not re.search(r"\s\s", word)
    assert word == word.strip()
    assert object_word(word) == word  # nothing is left to clean
    # only underscores and white space go: letters, digits and hyphens stay in order
    assert re.sub(r"\s", "", word) == re.sub(r"[\s_]", "", stem)


@given(st.lists(st.text("abc-XYZ09", min_size=1, max_size=8), min_size=1, max_size=5))
def test_object_word_undoes_the_underscores_of_a_caption(words: list[str]) -> None:
    assert object_word("_".join(words)) == " ".join(words)


@pytest.mark.parametrize(
    "text", ["Cat", "Ice cream", "T-shirt", "Käse", "a" * MAX_PROMPT_LENGTH, "猫" * 83, "St. B"]
)
def test_usable_prompts(text: str) -> None:
    assert prompt_fault(text) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a/b", "slash"),
        ("a\\b", "slash"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("\ud800", "control"),
        (".cat", "dot"),
        ("cat ", "space"),
        (" cat", "space"),
        ("a" * (MAX_PROMPT_LENGTH + 1), "101 characters"),
        ("猫" * 84, "256 bytes"),  # 84 × 3 + len(".png")
    ],
)
def test_unusable_prompts(text: str, why: str) -> None:
    fault = prompt_fault(text)
    assert fault is not None
    assert why in fault


@given(st.text(max_size=30).filter(lambda text: prompt_fault(text) is None))
def test_a_usable_prompt_is_one_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("prompt")
    (folder / f"{text}.png").touch()
    assert [path.name for path in folder.iterdir()] == [f"{text}.png"]


def test_names_that_one_file_system_takes_for_the_same() -> None:
    assert same_name("Cat") == same_name("cAT")
    assert same_name("Café") == same_name("Cafe\u0301")
    assert same_name("cat") != same_name("cats")


def test_dots_only_are_no_folder_names() -> None:
    assert file_name_fault("..") is not None
