"""What all stages of a trial share, and the one way in which a stage uses the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from data.challenge import ChallengeSet, Style
from jdx.backends.base import Backend, ModelSpec
from jdx.beside import beside
from jdx.errors import ConfigError, NotMadeError
from jdx.progress import Progress
from jdx.schema import TrialConfig
from jdx.stages.wording import Wording, token_of
from jdx.store import Store, key_of
from jdx.tracking.base import Tracker

Publish = Callable[[str, Path], None]
PUBLISHERS = 4
"""Threads that put finished folders into the store: their digests, and flushes that a disk takes together."""
SETTINGS = {
    "unet.targets": "lora.unet.targets",
    "text_encoder.targets": "lora.text_encoder.targets",
    "styleid.layers": "method.styleid.layers",
    "blend.c2f.layers": "method.blend.c2f.layers",
    "blend.f2c.layers": "method.blend.f2c.layers",
    "tokens.token": "method.tokens",
    "tokens.init": "method.tokens.init",
    "tokens.vectors": "method.tokens.vectors",
}
"""The settings behind the backend's names."""


@dataclass
class Bench:
    """One trial's tools. `identity` is what every stage's result depends on: backend, precision and base weights."""

    config: TrialConfig
    challenge: ChallengeSet
    backend: Backend
    store: Store
    progress: Progress
    tracker: Tracker
    model: ModelSpec
    identity: Mapping[str, str]
    made: dict[str, dict[str, int]] = field(default_factory=dict)  # stage -> {"made": n, "reused": n}
    looked: list[bool] = field(default_factory=list)  # filled when `look_ahead` found nothing
    kept: dict[str, Any] = field(default_factory=dict)  # what is loaded once for all parts of the trial
    fixed_seeds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of `sampler.seeds`
    whole: ChallengeSet | None = None  # all of the trial's styles, where `challenge` holds some of them
    dry: bool = False  # only to see whether the store has everything: a stage that would compute raises

    @cached_property
    def wording(self) -> Wording:
        """What captions and prompts say."""
        return Wording(self.config, self.challenge)

    def count(self, stage: str, made: int, reused: int) -> None:
        """Remember how much of a stage was new, for the record of the run."""
        tally = self.made.setdefault(stage, {"made": 0, "reused": 0})
        tally["made"] += made
        tally["reused"] += reused

    def look_ahead(self) -> None:
        """Once, before the first stage that computes: are all modules there that later stages will name?

        Not at the start of every trial: the libraries that know take seconds to import, and a trial whose
        stages are all in the store never needs them. Raises: ConfigError with every unknown name; NotMadeError on
        a dry bench.
        """
        if self.dry:
            raise NotMadeError
        if self.looked:
            return
        lora, method = self.config.lora, self.config.method
        networks = {"unet": lora.unet, "text_encoder": lora.text_encoder} if method.train else {}
        targets = {name: network.targets for name, network in networks.items() if network.rank}
        if method.train and method.blend.enabled and method.blend.coarse.train:
            targets["text_encoder"] = lora.text_encoder.targets
        layers = {"styleid": method.styleid.layers} if method.styleid.enabled else {}
        if method.blend.enabled:
            layers |= {"blend.c2f": method.blend.c2f.layers, "blend.f2c": method.blend.f2c.layers}
        whole = self.whole or self.challenge
        tokens = [spec for style in whole.ids if (spec := token_of(self.config, style))]
        faults = self.backend.name_faults(self.model, targets, layers, tokens)
        if faults:
            raise ConfigError([replace(fault, key=SETTINGS[fault.key]) for fault in faults])
        self.backend.say_long_prompts(self.model, Wording(self.config, whole).texts(), tokens)
        self.looked.append(True)

    @property
    def places(self) -> dict[str, int]:
        """{style: its place in the whole set}, which names it in a sweep's comparisons."""
        return {style: place for place, style in enumerate(self.challenge.ids)}

    def part(self, styles: Collection[str]) -> Bench:
        """The same bench for some of the styles; what it counts is counted here."""
        some = tuple(style for style in self.challenge.styles if style.id in styles)
        whole = self.whole or self.challenge
        return replace(self, challenge=replace(self.challenge, styles=some), whole=whole)

    def style(self, style: str) -> Style:
        """The style with this id."""
        return next(one for one in self.challenge.styles if one.id == style)


def make(
    bench: Bench,
    stage: str,
    version: int,
    contents: Mapping[str, Mapping[str, Any]],
    build: Callable[[list[str], Path, Publish], None],
    *,
    model: bool = True,
) -> dict[str, Path]:
    """Return a finished folder per name, building only those that the store lacks.

    contents: {name: all that can change its result}. build(names, workspace, publish) makes the missing ones and
    calls publish(name, folder) for each, which takes the folder away in a thread while build goes on. A name that
    build does not publish is absent from the result.
    model: whether the stage computes with the model, whose identity is then part of the key.
    """
    identity = bench.identity if model else {}
    full = {name: {"version": version, **identity, **content} for name, content in contents.items()}
    keys = {name: key_of(content) for name, content in full.items()}
    missing = [name for name, key in keys.items() if bench.store.find(stage, key) is None]
    if missing:
        if bench.dry:
            raise NotMadeError
        if model:
            bench.look_ahead()
        with (
            bench.store.locked(stage, [keys[name] for name in missing], stage),
            bench.store.workspace() as work,
        ):
            # Another process may have made some while we waited for the lock.
            missing = [name for name in missing if bench.store.find(stage, keys[name]) is None]

            with beside(PUBLISHERS, f"publishing {stage}") as others:

                def publish(name: str, folder: Path) -> None:
                    key, content = keys[name], full[name]
                    others.do(partial(bench.store.publish, folder, stage, key, name=name, content=content))

                if missing:
                    build(missing, work, publish)
    bench.count(stage, len(missing), len(keys) - len(missing))
    found = {name: bench.store.find(stage, key) for name, key in keys.items()}
    return {name: path for name, path in found.items() if path is not None}
