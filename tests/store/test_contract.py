"""One contract, two stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guildhall.errors import Misuse, StoreFull
from guildhall.store import keys
from guildhall.store.lmdb import LmdbStore
from guildhall.store.memory import MemoryStore


@pytest.fixture(params=["memory", "shared memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    in_memory = request.param == "shared memory"
    directory = Path(os.environ["GUILDHALL_HOME"]) / f"store-{os.urandom(4).hex()}" if in_memory else tmp_path / "s"
    directory.mkdir()
    LmdbStore.create(str(directory), in_memory=in_memory)
    made = LmdbStore(str(directory), in_memory=in_memory)
    yield made
    made.close()


small_key = st.binary(min_size=1, max_size=3).map(lambda b: b"k" + b)
step = st.tuples(st.sampled_from(["put", "delete", "abort"]), small_key, st.binary(max_size=20))


def clear(txn: Any) -> None:
    for key, _ in list(txn.scan(b"k")):
        txn.delete(key)


@given(steps=st.lists(st.lists(step, max_size=5), max_size=12), prefix=small_key, limit=st.integers(0, 5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_transactions_match_a_dict(store: Any, steps: Any, prefix: bytes, limit: int) -> None:
    store.transact(clear)
    model: dict[bytes, bytes] = {}

    def run(txn: Any, batch: Any) -> None:
        for what, key, value in batch:
            if what == "put":
                txn.put(key, value)
            elif what == "delete":
                txn.delete(key)
            else:
                raise KeyError("abort")

    for batch in steps:
        try:
            store.transact(run, batch)
        except KeyError:
            continue
        for what, key, value in batch:
            if what == "put":
                model[key] = value
            else:
                model.pop(key, None)
    expected = sorted((k, v) for k, v in model.items() if k.startswith(prefix))
    assert store.read(lambda txn: list(txn.scan(prefix))) == expected
    assert store.read(lambda txn: list(txn.scan(prefix, limit=limit))) == (expected[:limit] if limit else expected)
    assert store.read(lambda txn: txn.first(prefix)) == (expected[0] if expected else None)
    if expected:
        after = expected[0][0]
        assert store.read(lambda txn: list(txn.scan(prefix, after=after))) == expected[1:]


def test_revision_grows_with_every_commit(store: Any) -> None:
    seen = []
    for number in range(3):
        store.transact(lambda txn, n=number: (txn.put(b"k%d" % n, b""), seen.append(txn.revision)))
    assert seen == list(range(seen[0], seen[0] + 3))


def test_wakes_are_rung_after_the_commit_and_never_for_an_abort(tmp_path: Path) -> None:
    rung: list[Any] = []
    store = MemoryStore(ring=rung.append)
    with pytest.raises(ZeroDivisionError):
        store.transact(lambda txn: (txn.wake("x"), 1 / 0))
    assert rung == []
    store.transact(lambda txn: (txn.wake("x"), rung.append("inside")))
    assert rung == ["inside", "x"]


def test_a_transaction_inside_another_is_refused(tmp_path: Path) -> None:
    LmdbStore.create(str(tmp_path), in_memory=False)
    store = LmdbStore(str(tmp_path), in_memory=False)
    with pytest.raises(Misuse, match="inside one of its own"):
        store.transact(lambda txn: store.read(lambda inner: None))
    assert store.transact(lambda txn: 7) == 7
    store.close()


def test_a_full_memory_store_says_so_and_works_after_deleting() -> None:
    store = MemoryStore(max_bytes=100)
    with pytest.raises(StoreFull):
        store.transact(lambda txn: txn.put(b"k", b"x" * 200))
    assert store.read(lambda txn: txn.get(b"k")) is None
    store.transact(lambda txn: txn.put(b"k", b"x"))


name = st.recursive(
    st.none() | st.text() | st.binary() | st.integers() | st.floats(allow_nan=False) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=5,
)


@given(st.lists(name, max_size=3).map(tuple))
def test_keys_come_back(value: Any) -> None:
    assert repr(keys.unpack(keys.pack(value))) == repr(value)


plain = st.tuples(st.text(alphabet=st.characters(codec="ascii"), max_size=4), st.integers(), st.binary(max_size=4))


@given(plain, plain)
def test_packed_keys_sort_as_their_tuples(one: Any, other: Any) -> None:
    assert (keys.pack(one) < keys.pack(other)) == (one < other)
