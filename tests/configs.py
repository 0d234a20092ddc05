"""Compose the real configuration, as the command line does."""

from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import jdx.train  # registers the resolver that the configuration uses
from jdx import ROOT

assert jdx.train


def compose_plain(*overrides: str, resolve: bool = True) -> dict[str, Any]:
    """The composed configuration as nested dicts, interpolations resolved or as they are written."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    plain = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}
