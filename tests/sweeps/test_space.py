"""Spaces as people write them, against Hydra's own grammar and Optuna's distributions."""

from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jdx.errors import ConfigError
from sweeps.space import parse_space, quoted

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distribution(text: str) -> BaseDistribution:
    return parse_space({}, [f"x={text}"]).dimensions["x"].distribution


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4,8,16", CategoricalDistribution((4, 8, 16))),
        ("choice(a,b)", CategoricalDistribution(("a", "b"))),
        ("true,null,1.5", CategoricalDistribution((True, None, 1.5))),
        ("choice('a b','5')", CategoricalDistribution(("a b", "'5'"))),
        ("'a b','5'", CategoricalDistribution(("'a b'", "'5'"))),
        ("[1,2],[3]", CategoricalDistribution(("[1,2]", "[3]"))),
        ("range(1,10)", IntDistribution(1, 9)),
        ("range(1,10,3)", IntDistribution(1, 7, step=3)),
        ("range(10,0,-5)", IntDistribution(5, 10, step=5)),
        ("range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("shuffle(range(1,4))", None),
        ("interval(1,8)", FloatDistribution(1, 8)),
        ("interval(0.0,1)", FloatDistribution(0, 1)),
        ("tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("int(interval(1.0,8.0))", IntDistribution(1, 8)),
    ],
)
def test_sweeps_become_distributions(text: str, expected: BaseDistribution | None) -> None:
    found = distribution(text)
    if expected is None:
        assert isinstance(found, CategoricalDistribution)
        assert sorted(found.choices, key=str) == [1, 2, 3]
    else:
        assert found == expected


def test_every_malformed_space_is_told_in_one_report() -> None:
    space = {
        "a": "interval(1,",
        "b": "tag(log,interval(0,1.0))",
        "c": "interval(3,1)",
        "d": "tag(log,choice(1,2))",
        "e": "range(5,5)",
        "f": "glob(*)",
        "good": "choice(1,2)",
    }
    with pytest.raises(ConfigError) as caught:
        parse_space(space, [], "nowhere.to.be.found")
    faults = {fault.key: fault.allowed for fault in caught.value.faults}
    assert set(faults) == {"a", "b", "c", "d", "e", "f", "hydra.sweeper.custom_search_space"}
    assert "must start above 0" in faults["b"]
    assert "tag(log" in faults["a"]


def test_command_line_wins_over_the_configured_space() -> None:
    space = parse_space({"a": "choice(1,2)", "b": "interval(0,1.0)", "c": 5}, ["a=7", "b=1,2", "~d", "e=x"])
    assert list(space.dimensions) == ["b"]
    assert space.dimensions["b"].values == (1, 2)
    assert set(space.fixed) == {"a=7", "c=5", "~d", "e=x"}


def test_grid_is_hydras_own() -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    words = ["a=1,2,2", "b=choice(x,y)", "+c=range(0.5,2)", "d='q r',s", "e=5"]
    parsed = OverridesParser.create().parse_overrides(words)
    theirs = {tuple(sorted(point)) for batch in BasicSweeper.split_arguments(parsed, None) for point in batch}
    space = parse_space({}, words)
    ours = [tuple(sorted(space.words(point))) for point in space.combinations()]
    assert len(ours) == len(set(ours)) == 2 * 2 * 2 * 2
    assert {tuple(w.replace("'q r'", "q r") for w in point) for point in ours} == {
        tuple(w.replace("'q r'", "q r") for w in point) for point in theirs
    }
    assert space.is_plain_grid


def test_true_and_one_are_two_values() -> None:
    assert [point["x"] for point in parse_space({}, ["x=1,true,1.0"]).combinations()] == [1, True, 1.0]


def test_grid_over_an_interval_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid needs"):
        parse_space({}, ["x=interval(0,1.5)"]).combinations()


@pytest.mark.parametrize(
    "text", ["plain", "a b", "it's", "5", "true", "null", "x=1", "a,b", "[1]", "", "ö", "\\'"]
)
def test_texts_survive_the_grammar(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


def theirs(config: Any, trial: optuna.Trial) -> None:
    """As hydra-optuna-sweeper calls it."""
    trial.suggest_float("depth", 0, config["top"])


def ours(trial: optuna.Trial, config: Any) -> None:
    """A conditional space."""
    if trial.params["method"] == "a":
        trial.suggest_categorical("only_a", ["two words", None])
    else:
        trial.suggest_int("only_b", 1, 3)


@pytest.mark.parametrize(("name", "keys"), [("ours", {"only_a", "only_b"}), ("theirs", {"depth"})])
def test_hooks_suggest_what_depends(name: str, keys: set[str]) -> None:
    space = parse_space({}, ["method=a,b"], f"{__name__}.{name}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen: set[str] = set()
    for _ in range(12):
        params = space.suggest(study.ask(), {"top": 2.0})
        seen |= params.keys() - {"method"}
        assert ("only_a" in params) == (params["method"] == "a" and name == "ours")
        words = space.words(params)
        assert OverridesParser.create().parse_overrides(words)[0].value() == params["method"]
        if params.get("only_a") == "two words":
            assert "only_a='two words'" in words or "only_a=two words" in words
    assert seen == keys
    assert not space.is_plain_grid


def test_a_key_fixed_and_suggested_is_refused() -> None:
    space = parse_space({}, ["method=b", "m=1,2", "only_b=3"], f"{__name__}.clash")
    with pytest.raises(ConfigError, match="only_b"):
        space.suggest(optuna.create_study().ask(), {})


def clash(trial: optuna.Trial, config: Any) -> None:
    trial.suggest_int("only_b", 1, 3)
