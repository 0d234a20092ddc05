"""Numbers in sentences; commands that a shell reads as they were meant."""

import shlex
import subprocess

import pytest

from jdx.words import counted, typed


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "style", "0 styles"), (1, "style", "1 style"), (2, "entry", "2 entries"), (3, "day", "3 days")],
)
def test_nouns_follow_their_number(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


WORDS = [
    "lora.rank=4",
    "data.styles=[00]",
    "layers=['7','8']",
    "a b",
    "x='$HOME'",
    "it's `pwd`",
    """both='"'""",
    "é's!",
    "",
]


def test_commands_are_read_back_by_a_shell() -> None:
    assert shlex.split(typed(WORDS)) == WORDS
    done = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {typed(WORDS)}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == WORDS


def test_lists_of_texts_can_be_read_by_people_too() -> None:
    assert typed(["layers=['7','8']", "x=1"]) == "\"layers=['7','8']\" x=1"
