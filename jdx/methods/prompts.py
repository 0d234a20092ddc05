"""Words: from templates and object words to the prompts of training and drawing, and prompts half-way between two."""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # a wrong template is told before torch has loaded
    from torch import Tensor

OBJECT_FORMS = ("object", "Object", "a_object")
"""How a template can name the object: `ice cream`, `Ice cream`, `an ice cream`."""

# By sound, not by letter: "a unicorn", "an hour".
_SOUNDS_LIKE_CONSONANT = re.compile(r"eu|ewe|one\b|once\b|uni(?!n|m)|uk|us[aeu]|ut[eio]|ubi|uri|ufo")
_SILENT_H = re.compile(r"heir|honest|honou?r|hour")
_Text = TypeVar("_Text", "Tensor", float)


def write(
    template: str,
    *,
    object: str,
    style: str = "",
    phrase: str = "",
    prefix: str = "",
    expansion: str = "",
    **more: str,
) -> str:
    """Fill a template such as `an image of {a_object} in style_{style}, {phrase}`.

    {object} is the object's words in lower case, {Object} the same with a capital first letter, {a_object} with its
    article. File names of references are lower case and the contest's prompts are capitalised ("Ice cream"); CLIP's
    tokenizer lowers both, so the case makes no difference to the model, but equal prompts get equal store keys.
    {style} is the style's id, {prefix} and {phrase} its words in `method.prompts.styles`, {expansion} the object's
    entry in `method.prompts.expand`. more: values of further placeholders.
    """
    words = object.lower()
    forms = {"object": words, "Object": words[:1].upper() + words[1:], "a_object": with_article(words)}
    fixed = {"style": style, "phrase": phrase, "prefix": prefix, "expansion": expansion}
    return template.format(**forms, **fixed, **more)


def placeholders(template: str) -> set[str]:
    """The names in braces of a template. Raises: ValueError where it is none."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


def with_article(words: str) -> str:
    """`a dolphin`, `an owl`, `an hour`, `a unicorn`; plurals and materials too get one, as in StyleBlend's prompts."""
    first = words.lower()
    vowel = first[:1] in "aeiou" and not _SOUNDS_LIKE_CONSONANT.match(first)
    return f"{'an' if first and (vowel or _SILENT_H.match(first)) else 'a'} {words}"


def interpolate(styled: _Text, plain: _Text, s: float) -> _Text:
    """Embeddings half-way to a plain prompt (pad-pad-eos, JDiffArtFlow `origin_scale`): (1 - s)·E(styled) + s·E(plain).

    styled, plain: (..., tokens, width), or numbers. s in [0, 1].
    """
    return (1 - s) * styled + s * plain
