"""A Ray cluster of its own for tests: a head that runs nothing and two nodes, all on this machine.

Fixture (offered to every test by tests/conftest.py): `ray_cluster`, one cluster per session and process; programs find
it by `RAY_ADDRESS`, which the fixture sets.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STORE = 80 * 1024**2
"""Bytes of each node's object store: the least that Ray accepts, more or less."""


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    return "" if importlib.util.find_spec("ray") else "Ray is not installed (pip install 'jdx[ray]')"


class RayServer:
    """A cluster whose nodes come and go; `with RayServer() as server: ...`. Each node has four CPUs and two `slot`s."""

    def __init__(self) -> None:
        # A socket's path may have 107 bytes; Ray appends some eighty.
        self.folder = tempfile.TemporaryDirectory(prefix="jdxray", dir="/tmp", ignore_cleanup_errors=True)
        # Also where Ray notes the machine's current cluster: not ours, for anybody else on it.
        os.environ.update(RAY_TMPDIR=self.folder.name, RAY_USAGE_STATS_ENABLED="0")
        from ray.cluster_utils import Cluster

        (Path(self.folder.name) / "ray").mkdir()
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add_node({"slot": 2.0, "one": 1.0}), self.add_node({"slot": 2.0})]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add_node(self, resources: dict[str, float], gpus: int = 0) -> Any:
        """gpus: pretended ones."""
        return self.cluster.add_node(
            num_cpus=4, num_gpus=gpus, object_store_memory=STORE, resources=resources
        )

    def kill_node(self, node: Any) -> None:
        """As when its power fails: no farewell."""
        self.cluster.remove_node(node, allow_graceful=False)

    def wait_for(self, name: str, amount: float, limit: float = 180.0) -> None:
        """Until this much of a resource is known to be free."""
        import ray

        deadline = time.monotonic() + limit
        while (free := ray.available_resources()).get(name, 0.0) < amount:
            assert time.monotonic() < deadline, free
            time.sleep(0.1)

    def wait_until_free(self, limit: float = 180.0) -> None:
        """Until no actor holds anything; ended ones are noticed with a delay."""
        import ray

        if ray.is_initialized():
            self.wait_for("slot", 4.0, limit)

    def __enter__(self) -> RayServer:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        self.cluster.shutdown()
        self.folder.cleanup()


@pytest.fixture(scope="session")
def ray_server() -> Iterator[RayServer]:
    """A running cluster shared by the tests of this process."""
    if reason := missing():
        pytest.skip(reason)
    with pytest.MonkeyPatch.context() as patch, RayServer() as server:
        patch.setenv("RAY_ADDRESS", server.address)
        yield server


@pytest.fixture
def ray_cluster(ray_server: RayServer) -> Iterator[RayServer]:
    """The cluster, free at the start; actors that a test leaves behind are ended."""
    import ray
    from ray.util import list_named_actors

    ray_server.wait_until_free()
    yield ray_server
    for actor in list_named_actors(all_namespaces=True) if ray.is_initialized() else ():
        ray.kill(ray.get_actor(**actor))
