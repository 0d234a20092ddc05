"""What is wrong with the words of a trial: templates that cannot be filled, and tables that cannot be read."""

from __future__ import annotations

from jdx.errors import ConfigError, Fault
from jdx.methods.prompts import OBJECT_FORMS, placeholders
from jdx.schema import Prompts, StyleWords, TrialConfig
from jdx.tables import style_table, word_table

STYLE_PLACES = (*OBJECT_FORMS, "style", "prefix", "phrase", "expansion")
"""What templates of all of a style's prompts may hold."""
TOKEN_PLACES = (*STYLE_PLACES, "token")
"""What a style's own captions and prompts may hold."""
OBJECT_PLACES = (*OBJECT_FORMS, "expansion")
"""What templates may hold that all styles share. One of these must be in a template that is drawn."""


def prompt_faults(trial: TrialConfig) -> list[Fault]:
    """Every fault of the templates and tables of a trial's prompts."""
    prompts, prior = trial.method.prompts, trial.method.prior
    tables, faults = _tables(prompts)
    styled = {
        "method.prompts.train": prompts.train,
        "method.prompts.generate": prompts.generate,
        "method.blend.coarse.prompt": trial.method.blend.coarse.prompt,
    }
    for style, words in tables.items():
        own = {"train": words.train, "generate": words.generate}
        styled |= {f"method.prompts.styles.{style}.{k}": text for k, text in own.items() if text is not None}
    shared = {
        "method.prior.draw": prior.draw,
        "method.prior.caption": prior.caption,
        "method.blend.coarse.candidates.prompt": trial.method.blend.coarse.candidates.prompt,
        "method.prompts.origin": prompts.origin,
    }
    for key, text in styled.items():
        coarse = (
            key == "method.blend.coarse.prompt"
        )  # written for a text encoder that has not learnt the word
        faults += _template_faults(key, text, STYLE_PLACES if coarse else TOKEN_PLACES)
    faults += [f for key, text in shared.items() for f in _template_faults(key, text, OBJECT_PLACES)]
    faulty = {fault.key for fault in faults}
    right = {key: text for key, text in (styled | shared).items() if key not in faulty}
    faults += [fault for key, text in right.items() for fault in _place_faults(prompts, key, text)]
    return faults + [
        fault
        for key, text in right.items()
        if key.endswith((".train", ".generate"))
        for fault in _token_faults(trial, key, text)
    ]


def _token_faults(trial: TrialConfig, key: str, template: str) -> list[Fault]:
    """A caption or prompt that says a word that is not learnt, or does not say the one that is."""
    vectors, says = trial.method.tokens.vectors, "token" in placeholders(template)
    if says and not (vectors and trial.method.train):
        what = "{token} stands for a learnt word: method.tokens.vectors=1 with method.train=true"
        return [Fault(key, repr(template), what)]
    if vectors and trial.method.train and not says:
        what = f"does not say {{token}}, the word that method.tokens.vectors = {vectors} learns: add it, or 0 vectors"
        return [Fault(key, repr(template), what)]
    return []


def _tables(prompts: Prompts) -> tuple[dict[str, StyleWords], list[Fault]]:
    """The styles' words, and what is wrong with both tables."""
    faults: list[Fault] = []
    styles: dict[str, StyleWords] = {}
    try:
        styles = style_table("method.prompts.styles", prompts.styles)
    except ConfigError as error:
        faults += error.faults
    try:
        word_table("method.prompts.expand", prompts.expand)
    except ConfigError as error:
        faults += error.faults
    return styles, faults


def _place_faults(prompts: Prompts, key: str, template: str) -> list[Fault]:
    """A template that draws the same for every word, or that names words of a table that is not there."""
    used, faults = placeholders(template), []
    drawn = not key.endswith((".train", ".caption"))
    if drawn and not used & {*OBJECT_PLACES}:
        names = ", ".join(f"{{{name}}}" for name in OBJECT_PLACES)
        what = f"without {{object}} every word would draw the same thing: use one of {names}"
        faults.append(Fault(key, repr(template), what))
    tables = {"prefix": "styles", "phrase": "styles", "expansion": "expand"}
    for name in sorted(used & tables.keys()):
        table = tables[name]
        if getattr(prompts, table) is None:
            what = f"{{{name}}} stands for words of a table: give method.prompts.{table}"
            faults.append(Fault(key, repr(template), what))
    return faults


def _template_faults(key: str, template: str, known: tuple[str, ...]) -> list[Fault]:
    valid = ", ".join(f"{{{word}}}" for word in known)
    try:
        used = placeholders(template)
    except ValueError as error:
        return [Fault(key, repr(template), f"not a template: {error}; valid placeholders are {valid}")]
    return [
        Fault(key, repr(template), f"unknown placeholder {{{field}}}; valid are {valid}")
        for field in sorted(used - set(known))
    ]
