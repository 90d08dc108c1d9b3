"""What a notebook shows of clients, clusters and futures: how they stand now."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from faults import eventually

import guildhall
from guildhall import Client, Hall, LocalCluster, aio, get_client
from guildhall.hosts import current


def fail() -> None:
    raise LookupError("<b>no</b> such thing")


def test_futures_show_how_they_stand(client: Client, tmp_path: Path) -> None:
    done = client.submit(abs, -1)
    done.result(20)
    assert "<td" in done._repr_html_()
    assert done.key in done._repr_html_()
    assert "finished" in done._repr_html_()
    assert "bytes" in done._repr_html_()
    large = client.scatter(b"x" * 1_000_000)
    assert "a blob" in large._repr_html_()
    failed = client.submit(fail)
    failed.exception(20)
    assert "LookupError: &lt;b&gt;no&lt;/b&gt; such thing" in failed._repr_html_()
    go = tmp_path / "go"
    running = [client.submit(_wait_for, str(go)) for _ in range(2)]
    assert eventually(lambda: all("a worker has it" in future._repr_html_() for future in running))
    waiting = client.submit(abs, 1)
    assert "no worker has it yet" in waiting._repr_html_()
    waiting.cancel()
    assert "cancelled" in waiting._repr_html_()
    go.touch()
    client.gather(running)


def _wait_for(path: str) -> None:
    while not os.path.exists(path):
        pass


def test_clients_and_clusters_show_their_load_and_their_end(tmp_path: Path) -> None:
    cluster = LocalCluster(1)
    go = tmp_path / "go"
    with cluster, Client(cluster) as client:
        running = client.submit(_wait_for, str(go))
        others = client.map(abs, range(5))
        for shown in (cluster, client):
            text = shown._repr_html_()
            assert "Workers" in text
            assert cluster.host.directory in text
            assert eventually(lambda shown=shown: ">5<" in shown._repr_html_() and ">1<" in shown._repr_html_())
        go.touch()
        running.result(20)
        assert client.gather(others) == [0, 1, 2, 3, 4]
        pid = client.submit(os.getpid).result(20)
        assert str(pid) in cluster._repr_html_()
        client.submit(os._exit, 3).exception(30)
        assert "exit code 3" in cluster._repr_html_()
        assert "worker session" in client.submit(_in_a_task).result(20)
    assert "closed" in cluster._repr_html_()
    assert "closed" in client._repr_html_()


def _in_a_task() -> str:
    return get_client()._repr_html_()


NAME = "a<b>&"
MAKERS: dict[str, tuple[Any, ...]] = {
    "Variable": (NAME,), "Counter": (NAME,), "Event": (NAME,), "Queue": (NAME,), "PriorityQueue": (NAME + "p",),
    "Lock": (NAME,), "RLock": (NAME,), "RWLock": (NAME,), "Semaphore": (NAME, 2), "MultiLock": ([NAME, "c"],),
    "Barrier": (NAME, 2), "Latch": (NAME, 3), "Condition": (NAME,), "Election": (NAME,), "RateLimiter": (NAME, 5, 1),
    "Pub": (NAME,), "Sub": (NAME,),
}  # fmt: skip


def made(module: Any, kind: str, hall: Any = None) -> Any:
    first, *rest = MAKERS[kind]
    if kind == "Condition":
        return module.Condition(name=first, hall=hall)
    return getattr(module, kind)(first, *rest, hall=hall)


@pytest.mark.parametrize("module", [guildhall, aio], ids=["threads", "asyncio"])
@pytest.mark.parametrize("kind", MAKERS)
def test_every_primitive_shows_itself_unused_and_when_its_hall_is_closed(module: Any, kind: str) -> None:
    with guildhall.open() as hall:
        handle = made(module, kind, hall)
        page = handle._repr_html_()
        assert f"<caption>guildhall {kind}</caption>" in page
        assert "a&lt;b&gt;&amp;" in page
        assert "<b>" not in page
        assert "cannot be seen" not in page
        assert repr(handle).startswith(f"<{kind} 'a<b>&")
        assert "cannot be seen" not in repr(handle)
    assert "is closed" in handle._repr_html_()
    assert "is closed" in repr(handle)


@pytest.mark.parametrize(
    "kind", sorted(MAKERS.keys() - {"Sub", "Queue", "PriorityQueue"})
)  # Those need a hall at once.
def test_a_look_at_a_handle_without_a_hall_opens_none(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUILDHALL", str(tmp_path / "state"))
    monkeypatch.setattr(current, "now", None)  # Other tests' clients may be open.
    handle = made(guildhall, kind)
    assert "no hall" in repr(handle)
    assert "no hall" in handle._repr_html_()
    assert not (tmp_path / "state").exists()


def used(hall: Hall) -> dict[str, tuple[Any, str, str]]:
    """Handles in some state, what their line says of it and what their page does."""
    pid = os.getpid()
    has = {kind: made(guildhall, kind, hall) for kind in MAKERS}
    has["Variable"].set(7)
    has["Counter"].add(5)
    has["Event"].set()
    has["Queue"].put_many([1, 2, 3])
    has["PriorityQueue"].put(1)
    for kind in ("Lock", "RLock", "Semaphore", "MultiLock"):
        has[kind].acquire()
    has["RWLock"].read().__enter__()
    has["Latch"].count_down()
    has["Election"].campaign()
    has["RateLimiter"].acquire()
    has["Pub"].put(1)
    held = f"(pid {pid})"
    told = {
        "Variable": ("version", "<td"), "Counter": ("value 5", ">5<"), "Event": (": set", "yes"),
        "Queue": ("size 3", ">3<"), "PriorityQueue": ("size 1", ">1<"), "Lock": (held, held), "RLock": (held, held),
        "Semaphore": (held, held), "MultiLock": (held, "of &#x27;a&lt;b"), "RWLock": ("to read", "to read"),
        "Latch": ("left 2", ">2<"), "Election": (str(pid), str(pid)), "RateLimiter": ("gone 1", ">1<"),
        "Pub": ("published 1", ">1<"), "Sub": ("lag 1", ">1<"), "Barrier": ("parties 2", ">2<"),
        "Condition": ("lock", "Waiting"),
    }  # fmt: skip
    return {kind: (has[kind], *told[kind]) for kind in MAKERS}


def test_every_primitive_shows_its_state(hall: Hall) -> None:
    for kind, (handle, line, page) in used(hall).items():
        assert line in repr(handle), kind
        assert page in handle._repr_html_(), kind


def test_who_waits_is_shown(hall: Hall) -> None:
    lock = guildhall.Lock("busy", hall=hall)
    lock.acquire()

    def take_turn() -> None:
        with guildhall.Lock("busy", hall=hall):
            pass

    threads = [threading.Thread(target=take_turn) for _ in range(12)]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: ", 12 waiting>" in repr(lock))
        page = lock._repr_html_()
        assert page.count("session") == 1 + 10
        assert "and 2 more" in page
    finally:
        lock.release()
        for thread in threads:
            thread.join(20)


def test_futures_executors_and_clusters_of_a_closed_client_show_themselves() -> None:
    client = Client(n_workers=1)
    done, executor = client.submit(abs, -1), client.get_executor()
    actor = client.submit(list, [1], actor=True).result(20)
    assert "at home" in actor._repr_html_()
    assert "list" in actor._repr_html_()
    assert "takes calls" in executor._repr_html_()
    watch = guildhall.Variable("watched").watch()
    assert repr(watch) == "<Watch of variable 'watched': given up to version 0>"
    watch.close()
    assert "closed" in repr(watch)
    done.result(20)
    client.close()
    assert done.key in repr(done)
    assert "lost" in done._repr_html_()
    assert "closed" in repr(executor)
    assert "closed" in executor._repr_html_()
    assert "lost" in actor._repr_html_()
    assert "closed" in client.cluster._repr_html_()
