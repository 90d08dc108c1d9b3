"""What only the embedded store must do: grow, be full, fork, be shared."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from faults import Pressed, pressed_everywhere

from guildhall.errors import StoreFull
from guildhall.store import lmdb as lmdb_store
from guildhall.store.lmdb import LmdbStore
from guildhall.store.transaction import Waiter


def put(txn: Any, key: bytes, value: bytes) -> None:
    txn.put(key, value)


def told_and_there(txn: Any, round_number: int, child: int) -> tuple[int, int]:
    """The last number a process told, and how many of its records are there."""
    last = txn.get(b"last-%d-%d" % (round_number, child))
    return int(last or -1), len(list(txn.scan(b"%d-%d-" % (round_number, child))))


def fill(store: LmdbStore) -> int:
    """Put records until there is no room. Returns how many fitted."""
    for number in range(100_000):
        try:
            store.transact(put, b"k%06d" % number, b"x" * 3000)
        except StoreFull:
            return number
    raise AssertionError("it never gets full")


def clear(txn: Any, prefix: bytes) -> None:
    for key, _ in txn.scan(prefix):
        txn.delete(key)


def test_a_full_file_system_is_an_error_and_the_store_works_after_deleting(small_tmpfs: Path) -> None:
    LmdbStore.create(str(small_tmpfs), in_memory=True)
    store = LmdbStore(str(small_tmpfs), in_memory=True)
    for _ in range(3):
        kept = fill(store)
        assert kept > 300
        for number in range(kept):
            assert store.transact(lambda txn, n=number: txn.delete(b"k%06d" % n))
    store.transact(put, b"again", b"y")
    store.close()


def test_processes_that_grow_one_store_under_kills_lose_nothing(tmp_path: Path) -> None:
    directory = Path(os.environ["GUILDHALL_HOME"]) / f"grow-{os.urandom(4).hex()}"
    directory.mkdir()
    LmdbStore.create(str(directory), in_memory=True)
    store = LmdbStore(str(directory), in_memory=True)
    for round_number in range(10):
        children = []
        for child in range(3):
            pid = os.fork()
            if not pid:
                number = 0
                while True:
                    store.transact(put, b"%d-%d-%06d" % (round_number, child, number), b"x" * 30_000)
                    store.transact(put, b"last-%d-%d" % (round_number, child), b"%d" % number)
                    number += 1
            children.append(pid)
        time.sleep(0.15)
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for child in range(3):
            last, count = store.read(told_and_there, round_number, child)
            assert count - 1 in (last, last + 1)
        store.transact(clear, b"%d-" % round_number)
    store.close()


def test_a_bell_that_several_share_is_rung_once(tmp_path: Path) -> None:
    LmdbStore.create(str(tmp_path), in_memory=False)
    rung: list[tuple[int, int]] = []
    store = LmdbStore(
        str(tmp_path), in_memory=False, ring=lambda one: rung.append((one.session, one.bell)), remove=lambda blob: None
    )
    waiters = [Waiter(1, 1, 7), Waiter(2, 2, 7), Waiter(1, 3, 7), Waiter(1, 4, 8), Waiter(2, 5, 7)]

    def wake(txn: Any) -> None:
        txn.put(b"k", b"")
        for waiter in waiters:
            txn.wake(waiter)

    store.transact(wake)
    assert rung == [(1, 7), (2, 7), (1, 8)]
    store.close()


def test_ctrl_c_right_behind_a_commit_still_rings_and_removes(tmp_path: Path) -> None:
    """And it is known that nothing was undone."""
    LmdbStore.create(str(tmp_path), in_memory=False)
    rung: list[Waiter] = []
    removed: list[str] = []
    store = LmdbStore(str(tmp_path), in_memory=False, ring=rung.append, remove=removed.append)
    waiter, told, ended_in_commit = Waiter(1, 1, 1), ([Waiter(1, 1, 1)], ["blob"]), []

    def wake(txn: Any) -> None:
        txn.put(b"k", b"v")
        txn.wake(waiter)
        txn.unlink("blob")

    def case() -> tuple[Any, Any]:
        store.transact(lambda txn: txn.delete(b"k"))
        rung.clear()
        removed.clear()
        undone = store.undone

        def call() -> None:
            store.transact(wake)

        def check(where: str) -> None:
            is_there = store.read(lambda txn: txn.get(b"k")) is not None
            if where.startswith("c_return commit"):
                ended_in_commit.append(where)
                assert (is_there, rung, removed, store.undone - undone) == (True, *told, 0), where
            elif not is_there:
                assert not rung, where
                assert store.undone - undone <= 1, where

        return call, check

    assert pressed_everywhere(case) > 5
    assert len(ended_in_commit) == 1
    store.close()


def wake_and_unlink(txn: Any) -> None:
    txn.put(b"key", b"value")
    txn.wake(Waiter(1, 2, 3))
    txn.unlink("blob")


@pytest.mark.parametrize("is_committed", [True, False])
def test_ctrl_c_behind_the_commit_tells_who_was_woken_and_before_it_nobody(tmp_path: Path, is_committed: bool) -> None:
    rung: list[Waiter] = []
    removed: list[str] = []
    LmdbStore.create(str(tmp_path), in_memory=False)
    store = LmdbStore(str(tmp_path), in_memory=False, ring=rung.append, remove=removed.append)
    begin = store._begin
    store._begin = lambda *args: Pressed(begin(*args), is_committed=is_committed)
    with pytest.raises(KeyboardInterrupt) as pressed:
        store.transact(wake_and_unlink)
    store._begin = begin
    assert (rung, removed) == (([Waiter(1, 2, 3)], ["blob"]) if is_committed else ([], []))
    assert lmdb_store.was_undone(pressed.value) == (not is_committed)
    assert (store.read(lambda txn: txn.get(b"key")) is not None) == is_committed
    store.transact(put, b"other", b"value")
    assert len(rung) == len(removed) == is_committed
    store.close()


def test_ctrl_c_while_telling_tells_the_rest(tmp_path: Path) -> None:
    rung: list[Waiter] = []

    def ring(waiter: Waiter) -> None:
        rung.append(waiter)
        if len(rung) == 2:
            raise KeyboardInterrupt

    removed: list[str] = []
    LmdbStore.create(str(tmp_path), in_memory=False)
    store = LmdbStore(str(tmp_path), in_memory=False, ring=ring, remove=removed.append)

    def op(txn: Any) -> None:
        for number in range(4):
            txn.wake(Waiter(1, number, number + 1))
        txn.unlink("blob")

    with pytest.raises(KeyboardInterrupt):
        store.transact(op)
    assert {waiter.number for waiter in rung} == {0, 1, 2, 3}
    assert removed == ["blob"]
    store.close()
