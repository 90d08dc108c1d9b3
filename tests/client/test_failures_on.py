"""A failure reaches all that depend on it, with the first cause and the way it came."""

from __future__ import annotations

import operator

import pytest

from guildhall import Client, KilledWorker


def inverse(x: float) -> float:
    return 1 / x


def double(x: float) -> float:
    return 2 * x


def total(*xs: float) -> float:
    return sum(xs)


def test_the_first_cause_arrives_with_the_chain_that_it_came_along(client: Client) -> None:
    gate = client.submit(abs, 0)
    last = client.submit(total, client.submit(double, client.submit(inverse, gate)), 1.0)
    with pytest.raises(ZeroDivisionError) as error:
        last.result()
    assert "raised in inverse, which double depends on, which total depends on" in error.value.__notes__
    assert "1 / x" in (last.traceback() or "")


def test_what_depends_on_a_task_that_has_failed_fails_at_once_and_says_so(client: Client) -> None:
    failed = client.submit(inverse, 0)
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert not getattr(failed.exception(), "__notes__", [""])[-1].startswith("raised in")
    late = client.submit(total, [failed])
    assert isinstance(late.exception(), ZeroDivisionError)
    assert late.exception().__notes__[-1] == "raised in another task, which total depends on"  # type: ignore[union-attr]


def test_a_long_chain_keeps_its_beginning(client: Client) -> None:
    future = client.submit(inverse, client.submit(abs, 0))
    for _ in range(300):
        future = client.submit(double, future)
    with pytest.raises(ZeroDivisionError) as error:
        future.result()
    assert error.value.__notes__[-1].startswith("raised in inverse, which double depends on")
    assert len(error.value.__notes__[-1]) < 10_000


def test_a_killed_worker_is_told_along_the_chain(client: Client) -> None:
    import os

    last = client.submit(operator.neg, client.submit(os._exit, 3))
    with pytest.raises(KilledWorker, match="_exit") as error:
        last.result(timeout=60)
    assert "raised in _exit, which neg depends on" in error.value.__notes__
    assert last.traceback() is None
