"""Numbers in sentences."""

import pytest

from jdx.words import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "style", "0 styles"), (1, "style", "1 style"), (2, "entry", "2 entries"), (3, "day", "3 days")],
)
def test_nouns_follow_their_number(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text
