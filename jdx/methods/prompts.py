"""Words: from templates and object words to the prompts of training and drawing."""

from __future__ import annotations


def write(template: str, *, object: str, style: str) -> str:
    """Fill a template, `an image of {object} in style_{style}`; the object's words are used in lower case.

    File names of references are lower case and the contest's prompts are capitalised ("Ice cream"); CLIP's tokenizer
    lowers both, so the case makes no difference to the model, but equal prompts get equal store keys.
    """
    return template.format(object=object.lower(), style=style)
