"""Two clients in one process: a future stands for its own result, or is refused."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from guildhall import Client, Future, Misuse, TimedOut, Unpicklable, Variable, as_completed, get_client, wait


@pytest.fixture(scope="module")
def other() -> Iterator[Client]:
    with Client(n_workers=1) as made:
        yield made


class Pair(NamedTuple):
    first: Any
    second: Any


def both(one: Client, other: Client) -> tuple[Future, Future]:
    """Futures that have the same number in their halls."""
    while True:
        mine, theirs = one.submit(abs, -1), other.submit(abs, -2)
        if mine._oid == theirs._oid:
            return mine, theirs
        behind = one if mine._oid < theirs._oid else other
        behind.gather(behind.map(abs, [0]))


def test_results_come_from_the_hall_of_each_future(client: Client, other: Client) -> None:
    mine, theirs = both(client, other)
    assert client.gather([mine, theirs, mine]) == [1, 2, 1]
    assert other.gather([mine, theirs, mine]) == [1, 2, 1]
    assert other.gather(Pair(mine, theirs)) == Pair(1, 2)
    assert wait([mine, theirs]).done == {mine, theirs}


def test_a_future_of_another_client_is_refused(client: Client, other: Client) -> None:
    mine, theirs = both(client, other)
    variable = Variable("v", client=other)
    for call in (
        lambda: other.submit(abs, mine),
        lambda: other.submit(abs, [{"x": mine}]),
        lambda: variable.set(mine),
        lambda: other.scatter({"x": (mine,)}),
        lambda: other.submit(lambda: mine),
        lambda: next(as_completed([mine, theirs])),
        lambda: wait([mine, theirs], return_when="FIRST_COMPLETED"),
    ):
        with pytest.raises((Misuse, Unpicklable), match=r"another client|more than one client"):
            call()


def test_cancelling_reaches_the_hall_of_each_future(client: Client, other: Client) -> None:
    mine, theirs = (one.submit(abs, one.submit(pow, 2, 10_000_000)) for one in (client, other))
    client.cancel([mine, theirs])
    assert mine.cancelled()
    assert theirs.cancelled()


def test_the_client_in_a_task_knows_how_many_work(client: Client) -> None:
    assert client.submit(lambda: get_client().ncores()).result() == client.nthreads()
    assert list(client.nthreads().values()) == [1, 1]


def test_a_cell_run_again_attaches_to_the_cluster_that_it_started_and_the_last_one_ends_it() -> None:
    first = Client()
    second = Client()
    try:
        assert second.cluster is first.cluster
        first.close()
        assert second.submit(abs, -1).result() == 1
        Variable("v").set(1)
    finally:
        second.close()
    assert not second.cluster._is_open
    with Client() as third:
        assert third.cluster is not second.cluster
        assert third.submit(abs, -1).result() == 1


def test_a_client_with_arguments_has_its_own_cluster_except_at_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(n_workers=1) as first:
        with Client(n_workers=1) as second:
            assert second.cluster is not first.cluster
        monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
        with Client(n_workers=1) as third, Client(n_workers=2) as fourth:
            assert third.cluster is first.cluster is not fourth.cluster
        assert first.submit(abs, -1).result() == 1


def test_closing_the_older_of_two_clients_leaves_the_newer_as_the_default() -> None:
    with Client() as first, Client(n_workers=1), Client() as third:
        third.close()
        assert Client.current().cluster is not first.cluster
        Variable("v").set(1)
        with pytest.raises(TimedOut):
            Variable("v", client=first).get(timeout=0)
