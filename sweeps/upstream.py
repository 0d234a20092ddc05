"""Settings as hydra-optuna-sweeper takes them, put into ours; what cannot be is a fault that says what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jdx.errors import Fault
from sweeps.space import quoted, spelt

SPACE = "hydra.sweeper.search_space"
STORAGE = "hydra.sweeper.storage"
MOTPE = {"motpe", "MOTPESampler", "optuna.samplers.MOTPESampler"}
"""Gone from Optuna: its TPE sampler weighs several objectives itself."""
RENAMED = {"n_ehvi_candidates": "n_ei_candidates"}
RDB = "RDBStorage"
OURS = "null is SQLite in the sweep's folder, postgresql://user@host/database a server"
DIRECTION = "hydra-optuna-sweeper minimizes unless told otherwise, and this sweep has direction=maximize"


class Translation:
    """The settings in our words, what was changed about them, and what is wrong with them."""

    def __init__(self, given: Mapping[str, Any]):
        self.settings = dict(given)
        self.notes: list[str] = []
        self.faults: list[Fault] = []
        self._search_space()
        self._storage()
        self._sampler()

    @property
    def is_foreign(self) -> bool:
        """Whether the settings were written for hydra-optuna-sweeper."""
        return bool(self.notes)

    def _search_space(self) -> None:
        """`search_space`, the name and form of `params` in 1.1."""
        space = self.settings.pop("search_space", None)
        if not space:
            return
        if self.settings.get("params"):
            self.notes.append(f"{SPACE} is not used: hydra.sweeper.params is given, which wins")
        elif not isinstance(space, Mapping):
            self.faults.append(
                Fault(SPACE, repr(space), "write hydra.sweeper.params={KEY: 'choice(a,b)', ...}")
            )
        else:
            words = {str(key): self._word(str(key), one) for key, one in space.items()}
            self.settings["params"] = {key: word for key, word in words.items() if word is not None}
            shown = ", ".join(f"{key}: {word}" for key, word in self.settings["params"].items())
            self.notes.append(f"{SPACE} is read as hydra.sweeper.params: {{{shown}}}")

    def _word(self, key: str, told: Any) -> str | None:
        """{type: float, low: 0, high: 1} as interval(0.0,1.0)."""
        try:
            return _written(told)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
            remedy = f"{reason}; write hydra.sweeper.params: {{{key}: 'choice(a,b)'}}, range(1,9,2), interval(0.1,1.0)"
            self.faults.append(Fault(f"{SPACE}.{key}", repr(told), remedy))
            return None

    def _storage(self) -> None:
        """A storage to be made by Optuna's class: our own is made from its URL."""
        given = self.settings.get("storage")
        if not isinstance(given, Mapping):
            return
        rest = {str(key): value for key, value in given.items() if value is not None}
        target = str(rest.pop("_target_", "")).rpartition(".")[2]
        for key in ("_convert_", "_recursive_", "_partial_"):
            rest.pop(key, None)
        url, engine = rest.pop("url", None), rest.pop("engine_kwargs", {})
        self.settings["storage"] = None
        if target != RDB or not isinstance(url, str):
            self.faults.append(Fault(STORAGE, repr(dict(given)), f"write a URL or null: {OURS}"))
            return
        self.settings |= {"storage": url, "storage_engine": engine}
        self.notes.append(f"{STORAGE} is read as {STORAGE}={_without_password(url)}")
        if rest:
            remedy = f"drop it: the controller follows its trials itself; write {STORAGE}=URL"
            self.faults += [Fault(f"{STORAGE}.{key}", repr(value), remedy) for key, value in rest.items()]

    def _sampler(self) -> None:
        sampler = self.settings.get("sampler")
        target = sampler.get("_target_") if isinstance(sampler, Mapping) else sampler
        if not isinstance(target, str) or target not in MOTPE:
            return
        rest = sampler if isinstance(sampler, Mapping) else {}
        kept = {RENAMED.get(str(key), str(key)): value for key, value in rest.items()}
        self.settings["sampler"] = kept | {"_target_": "optuna.samplers.TPESampler"}
        self.notes.append(
            "sampler motpe became tpe: Optuna's TPE sampler weighs several objectives itself since its version 2.9"
        )


def _written(told: Any) -> str:
    """A distribution of 1.1's form in Hydra's grammar. Raises: KeyError, TypeError, ValueError."""
    if not isinstance(told, Mapping):
        raise TypeError("is no mapping with a type")
    kind = getattr(told["type"], "name", str(told["type"]))
    if kind == "categorical":
        if not told["choices"]:
            raise ValueError("choices are empty")
        words = [quoted(one) if isinstance(one, str) else spelt(one) for one in told["choices"]]
        return (
            ",".join(words) if len(words) > 1 else f"choice({words[0]})"
        )  # choice(a,null) is none of Hydra's
    if kind not in {"int", "float"}:
        raise ValueError(f"type {kind} is none of categorical, int, float")
    number = int if kind == "int" else float
    low, high, step = number(told["low"]), number(told["high"]), told.get("step")
    if told.get("log"):
        inner = f"tag(log,interval({low},{high}))"
    elif step is not None and (kind == "float" or step != 1):
        beyond = 1 if kind == "int" else float(step) / 2  # Hydra's range ends before its end
        return f"range({low},{high + beyond},{number(step)})"
    else:
        inner = f"interval({low},{high})"
    return f"int({inner})" if kind == "int" else inner


def _without_password(url: str) -> str:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "the URL given"
