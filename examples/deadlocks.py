"""Waits in a circle end with an error that names it. Runs by itself and checks itself: python examples/deadlocks.py"""

from __future__ import annotations

import time
from typing import Any

from guildhall import Client, DeadlockError, Event, Lock, MultiLock, Variable, get_client


def transfer(source: str, target: str) -> str:
    """Takes two locks one after the other, each caller in its own order: sooner or later two cross."""
    with Lock(source):
        Event(f"{source} is held").set()
        Event(f"{target} is held").wait()
        with Lock(target):
            return "done"


def two_that_cross(client: Client) -> None:
    """One is told who holds what, and gives back what it held; the other goes on."""
    calls = [client.submit(transfer, "mine", "yours"), client.submit(transfer, "yours", "mine")]
    errors = [error for call in calls if (error := call.exception()) is not None]
    assert len(errors) == 1
    assert isinstance(errors[0], DeadlockError)
    print(errors[0])
    for link in errors[0].circle:
        print(f"  process {link.pid}, {link.agent}: waits for {link.waits_for}")


def transfer_at_once(source: str, target: str) -> str:
    with MultiLock([source, target]):
        time.sleep(0.01)
        return "done"


def transfer_in_order(source: str, target: str) -> str:
    first, second = sorted((source, target))
    with Lock(first), Lock(second):
        time.sleep(0.01)
        return "done"


def two_that_do_not(client: Client) -> None:
    """Both at once, or always in the same order."""
    for function in (transfer_at_once, transfer_in_order):
        calls = client.map(function, ["mine", "yours"] * 5, ["yours", "mine"] * 5)
        assert client.gather(calls) == ["done"] * 10


def wait_for_myself() -> Any:
    return Variable("the future").get().result()


def a_task_that_waits_for_itself(client: Client) -> None:
    future = client.submit(wait_for_myself)
    Variable("the future").set(future)
    try:
        future.result()
    except DeadlockError as error:
        print(error)
    else:
        raise AssertionError("it cannot have a result")


def under_the_lock() -> str:
    with Lock("report"):
        return "written"


def report(waits_inside: bool) -> str:
    with Lock("report"):
        future = get_client().submit(under_the_lock)
        if waits_inside:
            return str(future.result())
    return str(future.result())


def a_lock_around_a_result(client: Client) -> None:
    """Who waits for a task while it holds what the task needs is in a circle of two."""
    assert isinstance(client.submit(report, waits_inside=True).exception(), DeadlockError)
    assert client.submit(report, waits_inside=False).result() == "written"


def patience(client: Client) -> None:
    """A wait with a timeout is let be: it ends by itself."""
    with Lock("busy"):
        assert Lock("busy").acquire(timeout=0.1) is False


if __name__ == "__main__":
    with Client(n_workers=2) as client:
        two_that_cross(client)
        two_that_do_not(client)
        a_task_that_waits_for_itself(client)
        a_lock_around_a_result(client)
        patience(client)
    print("deadlocks: all as said")
