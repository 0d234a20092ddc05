"""Executors by name; YAML, record and words agree."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from jdx import ROOT
from jdx.errors import ConfigError, Fault
from launcher.cluster_settings import RaySettings, SlurmSettings
from launcher.factory import build, make_executor
from launcher.gpu_pool import GpuPool
from launcher.settings import JobSettings, PoolSettings


def test_the_yaml_of_the_pool_is_its_defaults() -> None:
    content = yaml.safe_load((ROOT / "conf" / "launcher" / "gpu_pool.yaml").read_text())
    assert content == {"name": "gpu_pool", **asdict(JobSettings()), **asdict(PoolSettings())}
    launch = build(content)
    assert (launch.name, launch.job, launch.own) == ("gpu_pool", JobSettings(), PoolSettings())


def test_jobs_that_share_a_card_ask_for_a_part_of_it() -> None:
    assert build({"name": "gpu_pool", "jobs_per_gpu": 4}).job.gpus == 0.25
    assert build({"name": "gpu_pool", "gpus_per_trial": 2}).job.gpus == 2.0
    assert build({"name": "gpu_pool", "gpus_per_trial": 0}).job.gpus == 0.0


def test_the_pool_is_made_from_settings(tmp_path: Path) -> None:
    executor = make_executor({"name": "gpu_pool", "leases": str(tmp_path / "leases"), "cpu_slots": 3})
    assert isinstance(executor, GpuPool)
    assert executor.settings.cpu_slots == 3
    executor.close(kill=True)


def test_only_what_starts_jobs_on_this_machine_is_here() -> None:
    hydra = {name: {"name": "hydra", "launcher": name} for name in ("basic", "joblib", "submitit_slurm")}
    settings = [{"name": "gpu_pool"}, *hydra.values(), {"name": "slurm"}, {"name": "ray"}]
    assert [build(one).is_here for one in settings] == [True, True, True, False, False, False]


def test_every_fault_is_told_at_once() -> None:
    wrong = {"name": "gpu_pool", "jobs_per_gpu": 0, "cpu_slot": 2, "idle_seconds": "soon"}
    with pytest.raises(ConfigError) as caught:
        build(wrong)
    keys = {fault.key for fault in caught.value.faults}
    assert keys == {"launcher.jobs_per_gpu", "launcher.cpu_slot", "launcher.idle_seconds"}
    assert "did you mean cpu_slots?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "setting", "value", "allowed"),
    [
        ("gpu_pool", "jobs_per_gpu", 0, "must be greater than or equal to 1"),
        ("gpu_pool", "cpu_slots", 1.5, "must be a whole number, written without point or exponent"),
        ("gpu_pool", "idle_seconds", "soon", "must be a number, such as 0.5 or 1e-4"),
        ("gpu_pool", "warm", "yes", "must be true or false"),
        ("slurm", "setup", "module load cuda", "must be a list in brackets, such as [a,b]"),
        ("slurm", "options", [1], "must be a mapping in braces, such as {a: b}"),
    ],
)
def test_faults_are_told_in_the_words_of_all_settings(
    name: str, setting: str, value: object, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build({"name": name, setting: value})
    assert caught.value.faults == (Fault(f"launcher.{setting}", repr(value), allowed),)


def test_a_value_that_fits_none_of_several_types_is_told_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"name": "slurm", "options": {"exclude": ["node7"]}})
    (fault,) = caught.value.faults
    assert fault.key == "launcher.options.exclude"
    assert fault.allowed.count("; or ") == 3


def test_contradicting_settings_are_told() -> None:
    with pytest.raises(ConfigError, match="set one of them to 1"):
        build({"name": "gpu_pool", "gpus_per_trial": 2, "jobs_per_gpu": 2})


def test_an_unknown_executor_gets_the_list() -> None:
    with pytest.raises(ConfigError, match=r"gpu_pool, slurm, hydra, ray; did you mean gpu_pool\?"):
        build({"name": "gpupool"})
    with pytest.raises(ConfigError, match=r"gpu_pool, slurm, hydra, ray$"):
        build({"name": "kubernetes"})


@pytest.mark.parametrize(("name", "record"), [("slurm", SlurmSettings), ("ray", RaySettings)])
def test_the_yaml_of_a_cluster_is_its_defaults(name: str, record: type[Any]) -> None:
    content = yaml.safe_load((ROOT / "conf" / "launcher" / f"{name}.yaml").read_text())
    launch = build(content)
    assert (launch.name, launch.own) == (name, record())
    assert set(content) == {"name", *asdict(JobSettings()), *asdict(record())}


def test_faults_of_cluster_settings_are_told_at_once() -> None:
    wrong = {"name": "slurm", "time_min": 0, "mem_gb": -1.0, "partitions": "gpu", "setup": "module load cuda"}
    with pytest.raises(ConfigError) as caught:
        build(wrong)
    keys = {fault.key for fault in caught.value.faults}
    assert keys == {"launcher.time_min", "launcher.mem_gb", "launcher.partitions", "launcher.setup"}
    assert "did you mean partition?" in str(caught.value)
