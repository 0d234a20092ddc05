"""Compose the real configuration, as the command line does."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

import jdx.train  # registers the resolver that the configuration uses
from jdx import ROOT

assert jdx.train


def compose_plain(*overrides: str, resolve: bool = True) -> dict[str, Any]:
    """The composed configuration as nested dicts, interpolations resolved or as they are written.

    Hydra reads all files for each composition, 0.15 s. Here they are read once for each choice of files; values are
    put in as Hydra does it, by the same function.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = [override for override in parsed if _is_value(override)]
    config = copy.deepcopy(_chosen(tuple(str(one.input_line) for one in parsed if one not in values)))
    ConfigLoaderImpl._apply_overrides_to_config(values, config)
    plain = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _is_value(override: Override) -> bool:
    """Whether an override sets a value of jdx's own; others choose files, or are Hydra's to judge."""
    key = override.key_or_group
    file = (ROOT / "conf" / key).is_dir() and not isinstance(override.value(), dict)
    return not (file or override.package or key.startswith("hydra") or override.is_sweep_override())


@cache
def _chosen(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=list(overrides))
