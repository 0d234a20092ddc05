"""One adapter over all styles ("packing"): it learns every style's references, told apart by their captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

from jdx.backends.base import AdapterSpec
from jdx.errors import Fault
from jdx.stages.bench import Bench

JOINT = "joint"
"""The joint adapter's name where a style's id would stand: in the run folder, the losses and the draws."""


def joined(
    specs: Mapping[str, AdapterSpec], prior_moments: Mapping[str, tuple[Path, ...]]
) -> tuple[dict[str, AdapterSpec], dict[str, tuple[Path, ...]]]:
    """The joint adapter of all styles, and its class pictures; it visits all styles equally often."""
    spec = replace(
        next(iter(specs.values())),
        style=JOINT,
        sources=tuple(specs),
        captions=tuple(chain.from_iterable(one.captions for one in specs.values())),
        prior_captions=tuple(chain.from_iterable(one.prior_captions for one in specs.values())),
    )
    folders = tuple(chain.from_iterable(prior_moments.get(style, ()) for style in specs))
    return {JOINT: spec}, {JOINT: folders} if folders else {}


def joint_faults(bench: Bench) -> list[Fault]:
    """Sets over which there can be no joint adapter."""
    if not bench.config.lora.joint:
        return []
    styles = bench.challenge.ids
    faults = []
    if len(styles) < 2:
        remedy = f"this trial has only style {', '.join(styles)}: lora.joint=false trains the same"
        faults.append(Fault("lora.joint", "true", remedy))
    if JOINT in styles:
        remedy = f"a style is called {JOINT!r}, which is the joint adapter's own name: rename its folder"
        faults.append(Fault("lora.joint", "true", remedy))
    return faults + _wording_faults(bench)


def _wording_faults(bench: Bench) -> list[Fault]:
    """Styles that the captions or the prompts do not tell apart: the adapter would draw a mixture for all of them."""
    faults = []
    for name, say in (("train", bench.wording.caption), ("generate", bench.wording.prompt)):
        said: dict[str, list[str]] = {}
        for style in bench.challenge.ids:
            said.setdefault(say(style, "thing"), []).append(style)
        for text, styles in said.items():
            if len(styles) > 1:
                remedy = (
                    f"is the same for styles {', '.join(styles)}, which share one adapter: name the {{style}}"
                )
                faults.append(Fault(f"method.prompts.{name}", repr(text), remedy))
    return faults
