"""What a notebook shows of clients, clusters and futures: how they stand now."""

from __future__ import annotations

import os
from pathlib import Path

from faults import eventually

from guildhall import Client, LocalCluster, get_client


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
