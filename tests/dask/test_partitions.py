"""Three hosts with addresses of their own, in network namespaces of this machine; one of them is cut off for a while.

A command of its own, `make partitions`: it needs the right to make namespaces.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster

from guildhall import Client, Counter, Event, Lock, Pub, Queue, Sub, Variable

pytestmark = pytest.mark.partitions

TTL_S = 4
"""So long the scheduler of these tests waits for a word of a worker before it counts as gone."""


class Network:
    """A bridge, and hosts that hang on it. This process is at the bridge itself."""

    def __init__(self) -> None:
        self._tag = f"gh{os.getpid() % 100000}"
        self._net = f"10.{os.getpid() % 200 + 20}.{os.getpid() // 200 % 250}"
        self._run("link", "add", self._tag, "type", "bridge")
        self._run("addr", "add", f"{self._net}.1/24", "dev", self._tag)
        self._run("link", "set", self._tag, "up")
        self.hosts: list[str] = []

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True)

    def add_host(self) -> str:
        """One more. Returns its address."""
        number = len(self.hosts)
        space, outer, inner = f"{self._tag}-{number}", f"{self._tag}o{number}", f"{self._tag}i{number}"
        address = f"{self._net}.{number + 2}"
        self._run("netns", "add", space)
        self.hosts.append(address)
        self._run("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
        self._run("link", "set", outer, "master", self._tag)
        self._run("link", "set", outer, "up")
        self._run("-n", space, "addr", "add", f"{address}/24", "dev", inner)
        self._run("-n", space, "link", "set", inner, "up")
        self._run("-n", space, "link", "set", "lo", "up")
        return address

    def prefix(self, address: str) -> list[str]:
        """What runs a command at that host."""
        return ["ip", "netns", "exec", f"{self._tag}-{self.hosts.index(address)}"]

    def cut(self, address: str) -> None:
        """Nothing comes from that host, or gets there."""
        self._run("link", "set", f"{self._tag}o{self.hosts.index(address)}", "down")

    def mend(self, address: str) -> None:
        """It is there again."""
        self._run("link", "set", f"{self._tag}o{self.hosts.index(address)}", "up")

    def close(self) -> None:
        for number in range(len(self.hosts)):
            self._run("netns", "del", f"{self._tag}-{number}")
        self._run("link", "del", self._tag)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    if os.getuid() != 0:
        pytest.skip("network namespaces need privileges")
    made = Network()
    yield made
    made.close()


@pytest.fixture
def hosts(network: Network, tmp_path: Path) -> Iterator[tuple[Client, str, str]]:
    """A client, and the addresses of two workers on hosts of their own; the scheduler is on a third."""
    while len(network.hosts) < 3:
        network.add_host()
    at, first, second = network.hosts
    environment = {
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": f"{TTL_S}s",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    }
    with Cluster(tmp_path / "cluster", 0, host=at, prefix=network.prefix(at), environment=environment) as made:
        for host in (first, second):
            made.add_workers(1, host=host, prefix=network.prefix(host))
        with Client(made.address) as client:
            client.wait_for_workers(2, timeout=60)
            places = {host_of(address): address for address in client.nthreads()}
            try:
                yield client, places[first], places[second]
            finally:
                network.mend(first)
                network.mend(second)


def within(seconds: float, look: Callable[[], Any]) -> float:
    """How long it took until that came true."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - began


def host_of(worker: str) -> str:
    return worker.split("//")[1].split(":")[0]


def test_the_locks_of_a_host_that_stays_away_go_to_the_next(
    network: Network, hosts: tuple[Client, str, str], name: str
) -> None:
    """And what it writes late is refused by whoever looks at the fencing token."""
    client, here, away = hosts

    def hold() -> str:
        lock = Lock(name)
        lock.acquire()
        Variable(f"{name} token").set(lock.fencing_token)
        Event(f"{name} held").set()
        time.sleep(3 * TTL_S)
        return "unaware"

    held = client.submit(hold, workers=away)
    assert Event(f"{name} held").wait(timeout=30)
    old: int = Variable(f"{name} token").get()
    network.cut(host_of(away))

    def follow() -> tuple[int | None, bool]:
        with Lock(name) as lock:
            return lock.fencing_token, lock.previous_holder_died

    token, is_after_a_death = client.submit(follow, workers=here).result(timeout=10 * TTL_S)
    assert token is not None
    assert token > old
    assert is_after_a_death
    network.mend(host_of(away))  # Dask ends a worker that comes back so late.
    held.cancel()
    within(30, lambda: list(client.nthreads()) == [here])
    assert Lock(name).acquire(timeout=0), "what it did late did not disturb the hall"


def test_a_short_absence_is_noticed_by_nobody(network: Network, hosts: tuple[Client, str, str], name: str) -> None:
    client, here, away = hosts

    def hold() -> str:
        with Lock(name):
            Event(f"{name} held").set()
            Event(f"{name} go on").wait(timeout=60)
        return "let go in time"

    def count() -> int:
        return [Counter(name).add(1) for _ in range(50)][-1]

    held = client.submit(hold, workers=away)
    assert Event(f"{name} held").wait(timeout=30)
    counting = client.submit(count, workers=away)
    network.cut(host_of(away))
    assert not Lock(name).acquire(timeout=TTL_S / 4)
    network.mend(host_of(away))
    assert not Lock(name).acquire(timeout=0)
    Event(f"{name} go on").set()
    assert held.result(timeout=30) == "let go in time"
    assert client.submit(lambda: Lock(name).acquire(timeout=5), workers=here).result(timeout=30)
    counting.result(timeout=30)
    assert Counter(name).get() == 50, "what was sent again was applied once"


def test_items_in_the_hands_of_a_host_that_stays_away_are_given_again(
    network: Network, hosts: tuple[Client, str, str], name: str
) -> None:
    client, here, away = hosts
    queue = Queue(name)
    queue.put_many(range(3))

    def take() -> None:
        with Queue(name).take():
            Event(f"{name} taken").set()
            time.sleep(3 * TTL_S)

    taken = client.submit(take, workers=away)
    assert Event(f"{name} taken").wait(timeout=30)
    network.cut(host_of(away))
    got = client.submit(lambda: [Queue(name).get(timeout=60) for _ in range(3)], workers=here)
    assert sorted(got.result(timeout=60)) == [0, 1, 2]
    taken.cancel()


def listen(name: str) -> list[int]:
    """In a worker: all numbers until a negative one."""
    with Sub(name) as sub:
        Event(f"{name} listens").set()
        heard = []
        while (number := sub.get(timeout=120)) >= 0:
            heard.append(number)
        return heard


def tell(name: str, seconds: float) -> int:
    """In a worker: numbers, for so long. How many there were."""
    pub, number, until = Pub(name), 0, time.monotonic() + seconds
    Event(f"{name} listens").wait(timeout=60)
    while time.monotonic() < until:
        pub.put(number)
        number += 1
        time.sleep(0.001)
    pub.put(-1)
    return number


def test_messages_between_workers_outlast_a_short_cut(
    network: Network, hosts: tuple[Client, str, str], name: str
) -> None:
    """Whether it is the publisher that is cut off, or the subscriber: none is lost, none comes twice."""
    client, here, away = hosts
    for number, (publisher, subscriber) in enumerate(((away, here), (here, away))):
        topic = f"{name}{number}"
        heard = client.submit(listen, topic, workers=subscriber)
        sent = client.submit(tell, topic, 3.0, workers=publisher)
        assert Event(f"{topic} listens").wait(timeout=30)
        time.sleep(0.5)
        network.cut(host_of(away))
        time.sleep(TTL_S / 4)
        network.mend(host_of(away))
        assert heard.result(timeout=60) == list(range(sent.result(timeout=60)))


def test_a_subscriber_that_stays_away_holds_no_publisher_up(
    network: Network, hosts: tuple[Client, str, str], name: str
) -> None:
    client, here, away = hosts
    lost = client.submit(listen, name, workers=away)
    assert Event(f"{name} listens").wait(timeout=30)
    mine = Sub(name)
    network.cut(host_of(away))

    def put() -> None:
        pub = Pub(name)
        for number in range(40):
            pub.put((number, bytes(1 << 20)))

    client.submit(put, workers=here).result(timeout=10 * TTL_S)
    assert [mine.get(timeout=30)[0] for _ in range(40)] == list(range(40))
    network.mend(host_of(away))
    lost.cancel()
    within(30, lambda: Pub(name).statistics().subscribers == 1)
