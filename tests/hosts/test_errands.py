"""What was deferred and dropped is done once, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from faults import pressed_everywhere

from guildhall import Hall
from guildhall.primitives import values
from guildhall.primitives.values import FINISHED

KEY = b"\xfe"


def add(txn: Any, amount: int) -> None:
    txn.put(KEY, (total(txn) + amount).to_bytes(8, "big"))


def total(txn: Any) -> int:
    return int.from_bytes(txn.get(KEY) or b"", "big")


def test_ctrl_c_anywhere_in_a_flush_loses_nothing_and_does_nothing_twice(hall: Hall) -> None:
    host = hall.host

    def case() -> tuple[Callable[[], Any], Callable[[str], None]]:
        host.transact(lambda txn: txn.delete(KEY))
        oid = host.new_object()
        host.transact(values.make, oid, FINISHED, b"data")
        for number in range(3):
            host.defer(add, 10**number)
        host.drop(oid)

        def call() -> None:
            host.flush()

        def check(where: str) -> None:
            host.flush()
            assert host.read(total) == 111, where
            assert host.read(values.look, oid) is None, where

        return call, check

    assert pressed_everywhere(case) > 20


def test_an_errand_that_fails_does_not_stop_the_next_ones(hall: Hall) -> None:
    def fail(txn: Any) -> None:
        raise ZeroDivisionError

    hall.host.defer(fail)
    with pytest.raises(ZeroDivisionError):
        hall.host.flush()
    hall.host.defer(add, 1)
    hall.host.flush()
    assert hall.host.read(total) == 1
