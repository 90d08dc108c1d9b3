"""Functions called when futures end."""

from __future__ import annotations

import logging
import threading

import pytest
from faults import eventually

from guildhall import Client, Event, Future


def test_every_callback_is_called_once_from_one_other_thread(client: Client) -> None:
    seen: list[tuple[Future, int]] = []
    futures = client.map(abs, range(500))
    for future in futures:
        for _ in range(2):
            future.add_done_callback(lambda f: seen.append((f, threading.get_ident())))
    assert eventually(lambda: len(seen) == 1000)
    assert {f.result() for f, _ in seen} == set(range(500))
    assert threading.get_ident() not in {thread for _, thread in seen}
    assert not [t for t in threading.enumerate() if t.name == "guildhall-callbacks"] or eventually(
        lambda: not [t for t in threading.enumerate() if t.name == "guildhall-callbacks"]
    )


def test_callbacks_of_futures_that_end_later_fail_or_are_cancelled_are_called(client: Client) -> None:
    statuses: list[str] = []
    event = Event("callbacks go")
    waiting = client.submit(event.wait, 30)
    failing = client.submit(lambda: 1 / 0)
    cancelled = client.submit(Event("never").wait, 30)
    for future in (waiting, failing, cancelled):
        future.add_done_callback(lambda f: statuses.append(f.status))
    assert eventually(lambda: statuses == ["error"])
    cancelled.cancel()
    assert eventually(lambda: statuses == ["error", "cancelled"])
    event.set()
    assert eventually(lambda: statuses == ["error", "cancelled", "finished"])
    Event("never").set()


def test_a_callback_that_raises_is_logged_and_the_others_are_called(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Future] = []
    future = client.submit(abs, -1)

    def fail(_: Future) -> None:
        raise LookupError("in the callback")

    with caplog.at_level(logging.ERROR, "guildhall"):
        future.add_done_callback(fail)
        future.add_done_callback(seen.append)
        assert eventually(lambda: seen == [future])
    assert "in the callback" in caplog.text


def test_a_callback_may_add_another(client: Client) -> None:
    seen: list[int] = []

    def again(future: Future) -> None:
        seen.append(future.result())
        if len(seen) < 5:
            client.submit(abs, len(seen)).add_done_callback(again)

    client.submit(abs, 0).add_done_callback(again)
    assert eventually(lambda: seen == [0, 1, 2, 3, 4])
