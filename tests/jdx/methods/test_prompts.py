"""Words of prompts: forms of the object, articles by sound, and embeddings between two prompts."""

import pytest
import torch

from jdx.methods.prompts import interpolate, placeholders, with_article, write


def test_forms_of_the_object() -> None:
    template = "{object}|{Object}|{a_object}|{style}|{prefix}|{phrase}|{expansion}|{token}"
    text = write(
        template,
        object="Ice cream",
        style="07",
        prefix="one ",
        phrase="neon",
        expansion="dessert",
        token="<x>",
    )
    assert text == "ice cream|Ice cream|an ice cream|07|one |neon|dessert|<x>"
    assert placeholders(template) == {
        "object", "Object", "a_object", "style", "prefix", "phrase", "expansion", "token",
    }  # fmt: skip


# Cambridge Dictionary's examples of words whose article does not follow their first letter, and contest words.
@pytest.mark.parametrize(
    ("article", "words"),
    [
        (
            "an",
            "owl|umbrella|eagle|ice cream|orange|octopus|onion|airport|opera|hour|honest man|heir|uncle|unlit lamp",
        ),
        (
            "a",
            "dolphin|house|hospital|university|unicorn|uniform|European|one-way street|ukulele|user|UFO|utensil",
        ),
    ],
)
def test_article_follows_the_sound(article: str, words: str) -> None:
    for word in words.split("|"):
        assert with_article(word) == f"{article} {word}"


def test_interpolation_runs_from_the_styled_prompt_to_the_plain_one() -> None:
    styled, plain = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(interpolate(styled, plain, 0.0), styled)
    assert torch.equal(interpolate(styled, plain, 1.0), plain)
    assert torch.allclose(interpolate(styled, plain, 0.25), torch.lerp(styled, plain, 0.25))
    assert interpolate(2.0, 4.0, 0.25) == 2.5
