"""What each style's captions and prompts say: templates, and the tables of words that they name."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

from data.challenge import ChallengeSet, Style
from data.faults import Findings
from data.folders import style_folders
from data.names import same_name
from jdx.backends.base import TokensSpec
from jdx.errors import Fault
from jdx.methods.prompts import placeholders, write
from jdx.schema import StyleWords, TrialConfig
from jdx.tables import DEFAULT, near, style_table, word_table

log = logging.getLogger(__name__)

_Entry = TypeVar("_Entry")


def token_of(config: TrialConfig, style: str) -> TokensSpec | None:
    """The word that a style learns, `<style_NN>`; None when the method has none.

    In lower case, as the tokenizer reads every prompt: diffusers finds no other names in them.
    """
    tokens = config.method.tokens
    if not (tokens.vectors and config.method.train):
        return None
    name = f"<style_{style.lower()}>"
    return TokensSpec(name, tokens.vectors, tokens.init, tokens.lr, tokens.weight_decay, tokens.steps)


class Wording:
    """Captions of training and prompts of drawing, for any style and object of one trial.

    Style ids of a table are found by name, else by number (5 finds "05"); words whatever their case.
    """

    def __init__(self, config: TrialConfig, challenge: ChallengeSet):
        self.config, self.challenge = config, challenge
        self.prompts = config.method.prompts
        self.styles = style_table("method.prompts.styles", self.prompts.styles)
        self.expand = word_table("method.prompts.expand", self.prompts.expand)

    def caption(self, style: str, object: str) -> str:
        """What a reference picture of `object` is told to show while the style is learnt."""
        return self.fill(self._template(style, "train"), style, object)

    def prompt(self, style: str, object: str) -> str:
        """What is drawn for the set's prompt `object`."""
        return self.fill(self._template(style, "generate"), style, object)

    def plain(self, object: str) -> str:
        """The prompt without any style, whose embeddings `method.prompts.origin_scale` mixes in."""
        return self.shared(self.prompts.origin, object)

    def shared(self, template: str, object: str) -> str:
        """A template that all styles share, such as that of class pictures."""
        return write(template, object=object, expansion=self.expansion(object))

    def negative(self, style: str) -> str:
        """The negative prompt of a style."""
        own = self.words(style).negative
        return self.config.sampler.negative_prompt if own is None else own

    def words(self, style: str) -> StyleWords:
        """A style's entry, or the table's default, or nothing."""
        key = self._keys.get(style)
        return StyleWords() if key is None else self.styles[key]

    def expansion(self, object: str) -> str:
        """The entry of a word in `method.prompts.expand`; itself where it has none."""
        known = self.expand.get(object.lower())
        if known is None:
            known = self.expand.get(DEFAULT, "{object}")
            return write(known, object=object)
        return known

    def class_words(self, style: Style) -> tuple[str, ...]:
        """The words whose class pictures a style trains with, lower case, each once; none without class pictures."""
        prior = self.config.method.prior
        if (prior.weight == 0 and prior.fraction is None) or not self.config.method.train:
            return ()
        references = [one.object.lower() for one in style.references] if prior.words != "prompts" else []
        prompts = [one.text.lower() for one in style.prompts] if prior.words != "references" else []
        return tuple(dict.fromkeys([*references, *prompts]))

    def texts(self) -> tuple[str, ...]:
        """Every caption, prompt and negative prompt of the trial, each once."""
        tag = self.config.train.crop.flip_tag
        found: list[str] = []
        for style in self.challenge.styles:
            for template, words in self._said(style):
                found += [self.fill(template, style.id, word) for word in words]
            if tag and self.config.method.train:
                found += [self.caption(style.id, one.object) + tag for one in style.references]
            found += self._negatives(style.id)
        return tuple(dict.fromkeys(found))

    def _said(self, style: Style) -> Iterator[tuple[str, Sequence[str]]]:
        """Every template that the trial fills for a style, with the objects that it is filled with."""
        method, coarse = self.config.method, self.config.method.blend.coarse
        prompts = [prompt.text for prompt in style.prompts]
        references = [reference.object for reference in style.references]
        if method.train:
            yield self._template(style.id, "train"), references
        if classes := self.class_words(style):
            yield method.prior.draw, classes
            yield method.prior.caption, classes
        yield self._template(style.id, "generate"), prompts
        if self.prompts.origin_scale > 0:
            yield self.prompts.origin, prompts
        if method.blend.enabled:
            yield coarse.prompt, prompts
        if method.blend.enabled and coarse.train:
            yield coarse.candidates.prompt, references
            yield coarse.prompt, references

    def _negatives(self, style: str) -> list[str]:
        """The negative prompts of all that is drawn for a style; without guidance they are not looked at."""
        method, coarse = self.config.method, self.config.method.blend.coarse
        found: list[str | None] = []
        if self.config.sampler.guidance_scale > 1.0:
            found += [self.negative(style)]
            found += [self.prompts.origin_negative] if self.prompts.origin_scale > 0 else []
            found += [coarse.negative_prompt] if method.blend.enabled else []
        if method.blend.enabled and coarse.train and coarse.candidates.sampler.guidance_scale > 1.0:
            found += [coarse.candidates.negative_prompt]
        return [text for text in found if text is not None]

    def faults(self) -> list[Fault]:
        """Styles and words that the tables and the set do not agree on; says what has no effect."""
        return [*self._style_faults(), *self._word_faults()]

    def _template(self, style: str, which: str) -> str:
        own = getattr(self.words(style), which)
        template: str = getattr(self.prompts, which) if own is None else own
        return template

    def fill(self, template: str, style: str, object: str) -> str:
        """A template with a style's own words and an object's."""
        words, token = self.words(style), token_of(self.config, style)
        return write(
            template,
            object=object,
            style=style,
            phrase=words.phrase,
            prefix=words.prefix,
            expansion=self.expansion(object),
            token=token.token if token else "",
        )

    @cached_property
    def _keys(self) -> dict[str, str]:
        """{style: its key in the table}."""
        found = {style: _find(style, self.styles) for style in self.challenge.ids}
        default = DEFAULT if DEFAULT in self.styles else None
        return {style: key or default for style, key in found.items() if key or default}  # type: ignore[misc]

    def _style_faults(self) -> list[Fault]:
        if not self.styles:
            return []
        key = "method.prompts.styles"
        there = sorted({*self.challenge.ids, *_all_styles(self.challenge)})
        known = {_find(style, self.styles) for style in there} | {DEFAULT}
        unknown = [name for name in self.styles if name not in known]
        if DEFAULT in self.styles:
            if unknown:
                log.warning(
                    "%s holds %d styles that this set does not: %s", key, len(unknown), _some(unknown)
                )
            return []
        faults = [
            Fault(f"{key}.{name}", "", f"no such style in the set{near(name, there)}") for name in unknown
        ]
        for one in self.challenge.styles:
            style, used = one.id, self._used(one) & {"phrase", "prefix"}
            if used and style not in self._keys:
                names = " and ".join(f"{{{name}}}" for name in sorted(used))
                remedy = (
                    f'no entry, but its templates hold {names}: add one, or one for all others, "{DEFAULT}"'
                )
                faults.append(Fault(f"{key}.{style}", "", remedy))
        if any(words.phrase for words in self.styles.values()) and not any(
            "phrase" in self._used(style) for style in self.challenge.styles
        ):
            log.warning("%s holds phrases, but no template has a place for them: {phrase}", key)
        return faults

    def _word_faults(self) -> list[Fault]:
        if not self.expand:
            return []
        key = "method.prompts.expand"
        wanted = self._expanded()
        if not wanted:
            log.warning("%s has no effect: no template has a place for it: {expansion}", key)
        if DEFAULT in self.expand:
            return []
        lacking = [word for word in wanted if word not in self.expand]
        remedy = f'no entry: add one, or "{DEFAULT}": "{{object}}" to leave such words as they are'
        return [Fault(f"{key}.{word}", "", remedy + near(word, [*self.expand])) for word in lacking]

    def _used(self, style: Style) -> set[str]:
        """The placeholders of the templates that a style needs."""
        return {name for template, _ in self._said(style) for name in placeholders(template)}

    def _expanded(self) -> list[str]:
        """The words of which some template wants the expansion, lower case, each once."""
        said = (pair for style in self.challenge.styles for pair in self._said(style))
        wanted = (words for template, words in said if "expansion" in placeholders(template))
        return list(dict.fromkeys(word.lower() for words in wanted for word in words))


def _find(style: str, table: Iterable[str]) -> str | None:
    """The table's key for a style: the same name, else the same number."""
    names = [name for name in table if name != DEFAULT]
    same = [name for name in names if same_name(name) == same_name(style)]
    if not same and style.isdecimal():
        same = [name for name in names if name.isdecimal() and int(name) == int(style)]
    return same[0] if same else None


def _all_styles(challenge: ChallengeSet) -> list[str]:
    """Styles of the whole set, also those that `data.styles` leaves out."""
    return [folder.name for folder in style_folders(challenge.root, Findings())]


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
