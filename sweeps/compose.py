"""A trial's configuration from its point: as Hydra composes it, and quickly where a point only sets values."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

Plain = dict[str, Any]


class Composer:
    """Composes trials' configurations for one sweep; returns plain dicts, interpolations as they are written.

    Hydra reads every file of conf/ for every trial, a tenth of a second. Where a point only gives other values to
    settings that are there (no groups, no additions), the configuration without the point is composed once and the
    values are put in. The first such result is compared with Hydra's own; if they differ, Hydra composes all.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, fixed: Sequence[str]):
        self._loader, self._config, self._fixed = loader, config, list(fixed)
        self._base: DictConfig | None = None
        self._plain: Plain = {}
        self._quick: bool | None = None  # None = not tried yet
        self._typed: list[Override] = []
        self._places: dict[str, Any] = {}

    def __call__(self, point: Sequence[str]) -> Plain:
        """The configuration of the fixed overrides and of a point's. Raises: what Hydra raises."""
        if self._quick is False:
            return self._whole(point)
        quick = self._put_in(point)
        if quick is None:
            return self._whole(point)
        if self._quick is None:
            whole = self._whole(point)
            self._quick = _text(quick) == _text(whole)
            return whole
        return quick

    def _whole(self, point: Sequence[str]) -> Plain:
        config = self._loader.load_sweep_config(self._config, [*self._fixed, *point])
        return _plain(config)

    def _put_in(self, point: Sequence[str]) -> Plain | None:
        """The base with the point's values; None when the point is more than values."""
        if self._base is None:
            self._base = self._loader.load_sweep_config(self._config, self._fixed)
            self._plain = _plain(self._base)
            self._typed = OverridesParser.create().parse_overrides(self._plain["hydra"]["overrides"]["task"])
        parser = OverridesParser.create()
        overrides = parser.parse_overrides(list(point))
        if not all(self._is_value(override) for override in overrides):
            return None
        plain = copy.deepcopy(self._plain)
        for override in overrides:
            *path, last = override.key_or_group.split(".")
            node = plain
            for part in path:
                node = node[part]
            node[last] = override.value()
        hydra = plain["hydra"]
        hydra["overrides"]["task"] += [str(override.input_line) for override in overrides]
        naming = hydra["job"]["config"]["override_dirname"]
        hydra["job"]["override_dirname"] = get_overrides_dirname(
            [*self._typed, *overrides], naming["exclude_keys"], naming["item_sep"], naming["kv_sep"]
        )
        return plain

    def _is_value(self, override: Override) -> bool:
        if override.type is not OverrideType.CHANGE or override.package or override.is_hydra_override():
            return False
        key = override.key_or_group
        if key not in self._places:
            self._places[key] = self._place(key)
        place = self._places[key]
        if isinstance(override.value(), dict) or place is None:
            return False
        return (
            isinstance(override.value(), list) if OmegaConf.is_list(place) else not OmegaConf.is_dict(place)
        )

    def _place(self, key: str) -> Any:
        """The node that a value of this key would replace; None where Hydra has to look at it.

        Asking for a group reads the folders of conf/, so it is done once per key.
        """
        path, _, last = key.rpartition(".")
        if self._loader.get_group_options(key):
            return None
        assert self._base is not None
        parent = OmegaConf.select(self._base, path) if path else self._base
        # A typed parent would convert and check the value, which is left to it.
        there = isinstance(parent, DictConfig) and OmegaConf.get_type(parent) is dict and last in parent
        return parent._get_node(last) if there else None


def _plain(config: DictConfig) -> Plain:
    plain: Any = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    return dict(plain)


def _text(plain: Mapping[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, default=repr)


def has_text_keys(value: Any) -> bool:
    """Whether JSON keeps a configuration as it is: its keys are all texts."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and has_text_keys(one) for key, one in value.items())
    return all(map(has_text_keys, value)) if isinstance(value, list) else True
