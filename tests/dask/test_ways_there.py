"""Ways to a cluster, and clusters that cannot be used."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import distributed
import pytest
from clusters import Cluster

import guildhall
from guildhall import Broken, Client, Event, HallRefused, Lock, Misuse, Pub, Queue, Sub, Variable, aio, get_client
from guildhall.engine.dask import INSTALL

FAKE = """
import importlib.abc, importlib.util, sys

class Nowhere(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "guildhall":
            raise ModuleNotFoundError("No module named 'guildhall'", name="guildhall")

sys.meta_path.insert(0, Nowhere())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "guildhall" else find(name, package)
"""


# -- ways to a cluster ------------------------------------------------------------------------------------------------


def test_an_existing_client_of_dask_is_used_and_left_open(cluster: Cluster, name: str) -> None:
    with distributed.Client(cluster.address, set_as_default=False) as native:
        with Client(native) as client:
            Variable(name).set(4)
            assert client.submit(lambda: Variable(name).get() + 1).result(timeout=30) == 5
        assert native.submit(abs, -1).result() == 1


def test_an_existing_cluster_is_used(name: str) -> None:
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as local,
        Client(local) as client,
    ):
        assert client.cluster is local

        def under_lock(x: int) -> int:
            with Lock(name):
                return int(get_client().submit(abs, -x).result())

        assert client.gather(client.map(under_lock, range(5))) == list(range(5))


def test_the_address_may_be_in_the_environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GUILDHALL", cluster.address)
    with Client(n_workers=4) as client:  # What a cluster is started with changes nothing.
        client.wait_for_workers(2, timeout=60)
        Variable(name).set(1)
    script = f"from guildhall import Variable; print(Variable({name!r}).get())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert told.stdout == "1\n", told.stderr


def test_a_client_by_keyword_and_its_unknown_options(cluster: Cluster) -> None:
    with Client(address=cluster.address, timeout=20) as client:
        assert client.submit(abs, -1).result(timeout=30) == 1
    with pytest.raises(TypeError, match="colour"):
        Client(cluster.address, colour="red")
    with pytest.raises(TypeError):
        Client(7)


def test_a_hall_there_may_be_opened_without_a_client(cluster: Cluster, client: Client, name: str) -> None:
    with guildhall.open(cluster.address) as hall:
        Queue(name, hall=hall).put(5)
        assert client.submit(lambda: Queue(name).get()).result(timeout=30) == 5
        assert hall.snapshot().sessions
    with pytest.raises(Misuse, match="closed"):
        Queue(name, hall=hall).put(5)


def test_coroutines_wait_there_too(client: Client, name: str) -> None:
    async def increment() -> None:
        async with aio.Lock(name):
            variable = aio.Variable(name)
            await variable.set(await variable.get() + 1)

    async def many() -> None:
        await asyncio.gather(*(increment() for _ in range(10)))

    Variable(name).set(0)
    tasks = client.map(lambda _: asyncio.run(many()), range(3))
    asyncio.run(many())
    client.submit(many).result(timeout=60)
    client.gather(tasks)
    assert Variable(name).get() == 50


def test_several_clients_of_one_cluster_share_its_hall(cluster: Cluster, name: str) -> None:
    with Client(cluster.address) as one, Client(cluster.address) as other:
        assert one.host.session != other.host.session
        with Lock(name, hall=one):
            assert not Lock(name, hall=other).acquire(timeout=0.05)
        Queue(name, hall=one).put(other.submit(abs, -3))
        assert Queue(name, hall=other).get().result() == 3


def test_two_clusters_side_by_side(cluster: Cluster, other_cluster: Cluster, name: str) -> None:
    with Client(cluster.address) as here, Client(other_cluster.address) as there:
        Variable(name, hall=here).set("here")
        Variable(name, hall=there).set("there")

        def look() -> object:
            return Variable(name).get()

        assert here.submit(look).result(timeout=30) == "here"
        assert there.submit(look).result(timeout=30) == "there"
        future = here.submit(abs, -1)
        with pytest.raises(Misuse, match="another client"):
            there.submit(str, [future])
        with pytest.raises(guildhall.Unpicklable, match="another client"):
            Variable(name, hall=there).set(future)


def test_a_client_on_this_machine_beside_one_of_a_cluster(cluster: Cluster, client: Client, name: str) -> None:
    with Client(n_workers=1) as local:
        Variable(name).set("local")
        assert local.submit(lambda: Variable(name).get()).result(timeout=30) == "local"
        with pytest.raises(Misuse, match="another client"):
            local.submit(str, client.submit(abs, -1))
    Variable(name).set("far")
    assert client.submit(lambda: Variable(name).get()).result(timeout=30) == "far"


# -- clusters that cannot be used -------------------------------------------------------------------------------------


def test_nobody_answers() -> None:
    with pytest.raises(Broken, match=r"cluster tcp://127.0.0.1:9.*no scheduler"):
        Client("tcp://127.0.0.1:9", timeout=1)


@pytest.fixture
def without_guildhall(tmp_path: Path) -> Path:
    (tmp_path / "fake.py").write_text(FAKE)
    return tmp_path / "fake.py"


def test_a_scheduler_without_guildhall(tmp_path: Path, without_guildhall: Path) -> None:
    options = ("--preload", str(without_guildhall))
    said = r"scheduler at tcp://.* cannot import guildhall .*pip install 'guildhall\[dask\]=="
    with Cluster(tmp_path / "cluster", 0, scheduler_options=options) as made, pytest.raises(HallRefused, match=said):
        Client(made.address)


def test_workers_without_guildhall(tmp_path: Path, without_guildhall: Path) -> None:
    options = ("--preload", str(without_guildhall))
    with Cluster(tmp_path / "cluster", 1, worker_options=options, has_nannies=False) as made:
        with distributed.Client(made.address, set_as_default=False) as native:
            native.wait_for_workers(1, timeout=60)
        with pytest.raises(HallRefused, match=r"worker at tcp.*pip install 'guildhall\[dask\]=="):
            Client(made.address)


def test_a_worker_without_guildhall_that_joins_later_says_what_to_install(
    tmp_path: Path, without_guildhall: Path
) -> None:
    """And ends, before a task of ours could end it. Those that are there go on."""
    with Cluster(tmp_path / "cluster", 1, has_nannies=False) as made, Client(made.address) as client:
        client.wait_for_workers(1, timeout=60)
        late = made.add_workers(1, options=("--preload", str(without_guildhall)))
        assert late.wait(timeout=60) != 0
        assert f"this worker cannot import guildhall, which clients of its cluster use: run {INSTALL}" in made.log()
        assert client.submit(abs, -1).result(timeout=30) == 1


def test_a_worker_with_another_version_that_joins_later_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text("import guildhall.engine.dask as dask\ndask.VERSION = '0.0.1'\n")
    with Cluster(tmp_path / "cluster", 1, has_nannies=False) as made, Client(made.address) as client:
        client.wait_for_workers(1, timeout=60)
        late = made.add_workers(1, options=("--preload", str(tmp_path / "old.py")))
        assert late.wait(timeout=60) != 0
        assert "this worker has guildhall 0.0.1, its scheduler and clients have" in made.log()


def test_a_scheduler_with_another_version(tmp_path: Path) -> None:
    other = tmp_path / "guildhall-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: guildhall\nVersion: 0.0.1\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    said = r"has guildhall 0\.0\.1, this process has.*pip install"
    with Cluster(tmp_path / "cluster", 0, environment=environment) as made, pytest.raises(HallRefused, match=said):
        Client(made.address)


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority of our own and a certificate that it signed."""
    place = tmp_path_factory.mktemp("tls")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=guildhall-tests",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=localhost",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -out cert.pem -days 2",
    ):
        subprocess.run(["openssl", *command.split()], cwd=place, check=True, capture_output=True)
    return place


def test_tls(tmp_path: Path, certificates: Path, name: str) -> None:
    files = {part: str(certificates / f"{part}.pem") for part in ("ca", "cert", "key")}
    security = distributed.Security(
        tls_ca_file=files["ca"],
        tls_client_cert=files["cert"],
        tls_client_key=files["key"],
        require_encryption=True,
    )
    options = ("--tls-ca-file", files["ca"], "--tls-cert", files["cert"], "--tls-key", files["key"])
    with Cluster(tmp_path / "cluster", 1, protocol="tls", options=options, has_nannies=False) as made:
        assert made.address.startswith("tls://")
        with pytest.raises(OSError, match="cluster tls://"):
            Client(made.address, timeout=2)
        with Client(made.address, security=security) as client:
            Variable(name).set(client.submit(abs, -2))

            def look() -> int:
                with Lock(name):
                    return int(Variable(name).get().result())

            assert client.submit(look).result(timeout=60) == 2
            made.add_workers(1)
            client.wait_for_workers(2, timeout=60)
            here, there = client.nthreads()

            def hear() -> list[int]:
                sub = Sub(name)
                Event(name).set()
                return [sub.get(timeout=60) for _ in range(1_000)]

            def put() -> None:
                Event(name).wait(timeout=60)
                for number in range(1_000):
                    Pub(name).put(number)

            heard = client.submit(hear, workers=here)
            client.submit(put, workers=there).result(timeout=60)
            assert heard.result(timeout=60) == list(range(1_000)), "from worker to worker, too"
