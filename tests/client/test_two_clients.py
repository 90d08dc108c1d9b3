"""Two clients in one process: a future stands for its own result, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from guildhall import Client, Future, Misuse, Unpicklable, Variable, as_completed, get_client, wait


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
    assert client.submit(lambda: get_client().ncores()).result() == 2
