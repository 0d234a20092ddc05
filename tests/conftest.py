"""Fixtures that more than one folder of tests uses; built once a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from _pytest.terminal import TerminalReporter

from tests import order
from tests.servers.chromium import browser, chromium
from tests.servers.postgres import postgres_server, postgres_url
from tests.servers.ray import ray_cluster, ray_server
from tests.servers.slurm import slurm, slurm_server

__all__ = [
    "browser",
    "chromium",
    "postgres_server",
    "postgres_url",
    "ray_cluster",
    "ray_server",
    "slurm",
    "slurm_server",
    "tiny_sd",
    "tiny_sd_eps",
]

# On tensors this small a second thread wins nothing, and on a busy machine OpenMP's threads spin waiting for
# each other: the same test took 1.6 s with one thread and 38 s with two. What tests start is told the same.
os.environ["OMP_NUM_THREADS"] = "1"
import torch  # it reads the number above when it is imported

# Triton decides when it is first imported, by diffusers say, whether kernels are compiled or interpreted. Decided here
# and not for the whole package: most processes that tests start (jobs of tests/launcher/jobs.py) need no PyTorch.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# No deadlines, which a busy machine misses, and the same examples in every run.
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return order.workers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.in_order(items)


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    reports = [
        report
        for group in terminalreporter.stats.values()
        for report in group
        if isinstance(report, pytest.TestReport)
    ]
    if config.getoption("numprocesses", None) and (long := order.become_long(reports)):
        terminalreporter.section("long files that tests/order.py does not let begin early")
        terminalreporter.write_line("\n".join(long))


@pytest.fixture(scope="session", autouse=True)
def own_leases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Cards and CPU slots are leased machine-wide: tests must not wait for each other's, nor for a user's."""
    before = os.environ.get("JDX_LEASES")
    os.environ["JDX_LEASES"] = str(tmp_path_factory.mktemp("leases"))
    yield
    if before is None:
        del os.environ["JDX_LEASES"]
    else:
        os.environ["JDX_LEASES"] = before


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random-weight Stable Diffusion with v-prediction, as SD 2.1. Read only."""
    from tests.tiny_sd import build_tiny_sd

    return build_tiny_sd(tmp_path_factory.mktemp("tiny_sd") / "v")


@pytest.fixture(scope="session")
def tiny_sd_eps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights told to predict the noise, as SD 1.x and SD 2.1 base. Read only."""
    from tests.tiny_sd import build_tiny_sd

    return build_tiny_sd(tmp_path_factory.mktemp("tiny_sd") / "eps", prediction_type="epsilon")
