"""The writer mutex seen from outside."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from guildhall.errors import Misuse
from guildhall.store import mutex
from guildhall.store.lmdb import LmdbStore
from guildhall.store.mutex import LOOKS, OWNER, TURNS, UNSEEN, WriterMutex, look


@pytest.fixture
def store(tmp_path: Path) -> Any:
    LmdbStore.create(str(tmp_path), in_memory=False)
    with_store = LmdbStore(str(tmp_path), in_memory=False)
    yield with_store
    with_store.close()


class Word(Sequence[int]):
    """One that is taken for so many looks, and counts them."""

    def __init__(self, taken: int, free: int = 0) -> None:
        self.taken, self.free, self.looks = taken, free, 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return 4711 if self.looks <= self.taken else self.free

    def __len__(self) -> int:
        return 1


def owner_in(store: LmdbStore) -> int:
    assert store._mutex is not None
    assert store._mutex._page is not None
    page = store._mutex._page
    return int.from_bytes(page[mutex.PLACE : mutex.PLACE + 4], "little") & OWNER


def test_the_word_names_the_thread_that_writes(store: LmdbStore) -> None:
    assert owner_in(store) == 0
    assert store.transact(lambda txn: owner_in(store)) == threading.get_native_id()
    assert owner_in(store) == 0


def test_rousing_those_who_sleep_at_it_hurts_nobody(store: LmdbStore) -> None:
    store.rouse()
    assert store.transact(lambda txn: txn.get(b"nothing")) is None


def test_who_looks_goes_on_as_soon_as_it_is_free() -> None:
    for taken in (0, 1, LOOKS, LOOKS + TURNS - 1):
        word = Word(taken)
        look(word)
        assert word.looks == taken + 1


def test_who_has_looked_for_long_enough_sleeps() -> None:
    word = Word(1 << 30)
    look(word)
    assert word.looks == LOOKS + TURNS


@pytest.mark.parametrize("bit", [0x80000000, 0x40000000], ids=["somebody sleeps there", "its owner died"])
def test_a_mutex_that_no_thread_has_is_not_waited_for(bit: int) -> None:
    word = Word(2, free=bit)
    look(word)
    assert word.looks == 3


def test_looking_keeps_the_locks_that_say_who_has_the_store_open(store: LmdbStore) -> None:
    """They would be gone if a descriptor of the file had been closed behind the opening."""
    store.transact(lambda txn: txn.put(b"key", b"value"))
    gc.collect()
    assert is_locked(store.directory)
    store._step_aside()
    assert not is_locked(store.directory)
    store.transact(lambda txn: txn.put(b"key", b"other"))
    assert is_locked(store.directory)


def is_locked(directory: str) -> bool:
    """Whether this process has a lock on the lock file, says the kernel: nobody finds locks of its own by asking."""
    inode = os.stat(os.path.join(directory, "lock.mdb")).st_ino
    with open("/proc/locks") as locks:
        rows = [line.split() for line in locks]
    return any(row[1] == "POSIX" and row[4] == str(os.getpid()) and row[5].endswith(f":{inode}") for row in rows)


def test_no_word_is_read_behind_the_end(store: LmdbStore) -> None:
    word = store._writer
    store.close()
    assert store._writer is UNSEEN
    if word is not UNSEEN:
        with pytest.raises(ValueError, match="released"):
            word[0]
    with pytest.raises(Misuse):
        store.transact(lambda txn: None)


def test_without_a_file_that_holds_it_nobody_looks(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"x" * 100)
    for path in (tmp_path / "none", short):
        seen = WriterMutex(str(path))
        assert seen.word is UNSEEN
        seen.rouse()
        seen.close()
        seen.close()


def test_a_writer_killed_with_it_is_not_waited_for(store: LmdbStore) -> None:
    child = os.fork()
    if not child:

        def die(txn: Any) -> None:
            txn.put(b"key", b"never")
            os.kill(os.getpid(), signal.SIGKILL)

        store.transact(die)
    os.waitpid(child, 0)
    began = time.monotonic()
    assert store.transact(lambda txn: txn.get(b"key")) is None
    assert time.monotonic() - began < 5
