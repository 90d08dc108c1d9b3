"""One cluster for all tests of the session, its scheduler and workers processes of their own; and halls that are far.

The tests of handles are beside the client; here they run again, over a hall that is far.

Those come first, by the names of the files: a circle through plain holds is told only while no other thread of the
process could help, and clients of distributed leave threads behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed")

import guildhall
from guildhall import Client

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1] / "client"))

from clusters import Cluster
from far import Far


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def other_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One without our preload: the hall is attached by the first client."""
    with Cluster(tmp_path_factory.mktemp("other"), 1, scheduler_options=()) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.address) as made:
        made.wait_for_workers(2, timeout=60)
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return f"{request.node.name}-{os.urandom(4).hex()}"


@pytest.fixture
def far() -> Iterator[Far]:
    made = Far()
    yield made
    made.close()


@pytest.fixture
def hall(far: Far) -> Iterator[guildhall.Hall]:
    """In place of the embedded one: a process at a hall that is far."""
    with guildhall.Hall(far.host()) as made:
        yield made
