"""Where a hall may be: in this very process, behind TLS, on the scheduler's disk, in a scheduler that loads it."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from clusters import Cluster
from distributed import Client, LocalCluster
from distributed.security import Security
from far import Far
from faults import eventually

import guildhall
from guildhall import Lock, Misuse, Queue, Variable
from guildhall.hosts import current, dask
from guildhall.hosts.dask.link import DirectLink


def add_one() -> int:
    with Lock("l"):
        value = Variable("v")
        value.set(value.get() + 1)
        return int(value.get())


def test_a_scheduler_in_this_process_needs_no_socket() -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
        guildhall.Hall(dask.connect(client)) as hall,
    ):
        current.add_default(hall.host)
        try:
            assert isinstance(hall.host.link, DirectLink)
            Variable("v").set(0)
            assert sorted(client.gather([client.submit(add_one, pure=False) for _ in range(10)])) == list(range(1, 11))
            queue, got = Queue("q"), []
            thread = threading.Thread(target=lambda: got.append(queue.get(timeout=10)))
            thread.start()
            queue.put("from the main thread")
            thread.join()
            assert got == ["from the main thread"]
        finally:
            current.remove_default(hall.host)


def test_two_processes_meet_behind_tls(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=dask"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    parts = {
        f"tls_{who}_{what}": path
        for who in ("scheduler", "worker", "client")
        for what, path in (("key", key), ("cert", certificate))
    }
    security = Security(tls_ca_file=certificate, require_encryption=True, **parts)
    with (
        LocalCluster(n_workers=1, protocol="tls://", security=security, dashboard_address=None) as cluster,
        Client(cluster, security=security) as client,
        guildhall.Hall(dask.connect(client)) as hall,
    ):
        Variable("v", hall=hall).set(41)
        assert client.submit(add_one, pure=False).result(timeout=30) == 42


def test_a_hall_on_the_schedulers_disk_is_there_when_another_scheduler_takes_it_up(tmp_path: Path) -> None:
    first = Far(str(tmp_path / "hall"))
    host = first.host()
    hall = guildhall.Hall(host)
    Variable("v", hall=hall).set("kept")
    large = bytes(range(256)) * 20_000  # 5 MB: in several parts.
    Variable("large", hall=hall).set(large)
    Variable("overwritten", hall=hall).set(bytes(100_000))
    Variable("overwritten", hall=hall).set(None)
    host.lay("1-00", [memoryview(bytes(100_000))])  # It never comes to belong to anything.
    Queue("q", hall=hall).put_many([1, 2])
    assert Lock("l", hall=hall).acquire()
    assert Queue("q", hall=hall).get() == 1
    first.close()
    second = Far(str(tmp_path / "hall"))
    with guildhall.Hall(second.host()) as hall:
        assert Variable("v", hall=hall).get() == "kept"
        assert Variable("large", hall=hall).get() == large
        assert hall.snapshot().blobs.count == 1, "what belongs to nobody is gone"
        Variable("large", hall=hall).delete()
        assert eventually(lambda: hall.snapshot().blobs.count == 0)
        assert Queue("q", hall=hall).get(batch=True) == [1, 2], "that the first had arrived went with the scheduler"
        assert Lock("l", hall=hall).acquire(timeout=1), "who held it is dead"
    second.close()
    host.link._drop()
    host._sweeper.close()


def test_a_large_value_is_no_way_out_of_the_halls_directory(tmp_path: Path) -> None:
    far = Far(str(tmp_path / "hall"))
    with guildhall.Hall(far.host()) as hall:
        for name in ("../outside", "/tmp/outside", "..", "a/b", ""):
            with pytest.raises(Misuse, match="no name"):
                hall.host.lay(name, [memoryview(b"x")])
    far.close()
    assert not (tmp_path / "hall" / "outside").exists()


def test_a_preloaded_hall_is_there_before_anybody_connects(tmp_path: Path) -> None:
    with Cluster(tmp_path, 0) as cluster, Client(cluster.address) as client:
        assert client.run_on_scheduler(lambda dask_scheduler: "guildhall" in dask_scheduler.extensions)
        with guildhall.Hall(dask.connect(client)) as hall:
            Variable("v", hall=hall).set(1)
            assert Variable("v", hall=hall).get() == 1


def test_a_scheduler_without_guildhall_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "guildhall.py").write_text("raise ModuleNotFoundError(\"No module named 'guildhall'\")\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    with (
        Cluster(tmp_path / "cluster", 0, scheduler_options=(), environment=environment) as cluster,
        Client(cluster.address) as client,
        pytest.raises(guildhall.HallRefused, match="not installed where the"),
    ):
        dask.connect(client)


def test_a_snapshot_tells_what_is_in_a_hall_that_is_far(hall: guildhall.Hall) -> None:
    Variable("v", hall=hall).set(bytes(200_000))
    Queue("q", hall=hall).put(1)
    with Lock("l", hall=hall):
        seen = hall.snapshot()
    assert {"variable", "queue", "lock"} <= seen.things.keys()
    assert (seen.blobs.count, len(seen.sessions)) == (1, 1)
    assert seen.as_dict()["path"] == "far"
