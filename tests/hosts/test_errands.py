"""What was deferred and dropped is done once, whatever comes between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from faults import Pressed, pressed_everywhere

from guildhall import Hall, Misuse
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


def note(txn: Any, key: bytes) -> None:
    count = int(txn.get(key) or b"0")
    txn.put(key, b"%d" % (count + 1))


def noted(hall: Any, key: bytes) -> int:
    return int(hall.host.read(lambda txn: txn.get(key)) or b"0")


@pytest.mark.parametrize("is_committed", [True, False])
def test_what_is_deferred_is_done_once_when_ctrl_c_comes_at_its_commit(hall: Hall, is_committed: bool) -> None:
    host, store = hall.host, hall.host._store
    assert store is not None
    begin = store._begin
    host.defer(note, b"\xf0one")
    host.defer(note, b"\xf0two")
    store._begin = lambda *args: Pressed(begin(*args), is_committed=is_committed)
    with pytest.raises(KeyboardInterrupt):
        host.flush()
    store._begin = begin
    host.settle()
    assert (noted(hall, b"\xf0one"), noted(hall, b"\xf0two")) == (1, 1)


def test_what_is_deferred_waits_when_the_hall_is_used_inside_of_its_own_operation(hall: Hall) -> None:
    def inside(txn: Any) -> None:
        hall.host.defer(note, b"\xf0one")
        hall.host.flush()

    with pytest.raises(Misuse, match="inside one of its own operations"):
        hall.host.transact(inside)
    hall.host.settle()
    assert noted(hall, b"\xf0one") == 1


def test_an_errand_that_cannot_be_done_does_not_stop_those_behind_it_for_ever(hall: Hall) -> None:
    def refuse(txn: Any) -> None:
        raise Misuse("never")

    hall.host.defer(refuse)
    with pytest.raises(Misuse):
        hall.host.flush()
    hall.host.defer(note, b"\xf0one")
    hall.host.settle()
    assert noted(hall, b"\xf0one") == 1
