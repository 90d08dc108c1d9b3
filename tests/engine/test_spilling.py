"""A bound for the memory of large values: what was not read for longest moves to disk, and is read from there."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import numpy as np
import pytest
from faults import Child, eventually, spills

from guildhall import Client, StoreFull, Variable
from guildhall.engine.local import spilling

MIB = 1 << 20


def in_memory(client: Client) -> int:
    return sum(path.lstat().st_size for path in Path(client.host.blob_path("")).iterdir() if not path.is_symlink())


def on_disk(client: Client) -> set[str]:
    return {path.name for path in Path(client.host.blob_path("")).iterdir() if path.is_symlink()}


def test_values_beyond_the_budget_move_to_disk_and_come_back_whole() -> None:
    before = len(spills())
    with Client(n_workers=2, blob_budget="10MiB") as client:
        futures = client.map(lambda n: np.full(MIB // 8, n), range(40))
        client.gather([client.submit(abs, 1) for _ in range(10)])
        assert [int(future.result()[-1]) for future in futures] == list(range(40))
        assert in_memory(client) <= 11.5 * MIB, "the budget, and what the other worker wrote meanwhile"
        assert len(on_disk(client)) >= 30
        assert client.submit(lambda parts: int(sum(part.sum() for part in parts)), futures).result() > 0
        del futures
        assert eventually(lambda: not os.listdir(client.host.blob_path("")))
        assert len(spills()) == before


def test_what_was_read_lately_stays_in_memory() -> None:
    with Client(n_workers=1, blob_budget=5 * MIB) as client:
        futures = [client.scatter(np.full(MIB // 8, n)) for n in range(4)]
        time.sleep(0.02)  # Times of files are as coarse as the kernel's clock.
        futures[0].result()
        more = [client.scatter(np.full(MIB // 8, n)) for n in range(3)]
        names = {name.rpartition("-")[2] for name in on_disk(client)}
        assert futures[0]._oid.hex() not in names
        assert futures[1]._oid.hex() in names
        assert [int(future.result()[0]) for future in (*futures, *more)] == [0, 1, 2, 3, 0, 1, 2]


def test_a_value_larger_than_the_budget_is_refused_and_the_worker_lives() -> None:
    with Client(n_workers=1, blob_budget="1MiB") as client:
        with pytest.raises(StoreFull, match="blob_budget"):
            client.scatter(np.ones(MIB))
        pid = client.submit(os.getpid).result()
        with pytest.raises(StoreFull, match="blob_budget"):
            client.submit(np.ones, MIB).result()
        assert client.submit(os.getpid).result() == pid


def test_who_has_a_value_mapped_keeps_it_while_it_moves(client: Client) -> None:
    future = client.scatter(np.arange(MIB))
    mine = future.result()
    (name,) = os.listdir(client.host.blob_path(""))
    assert spilling.move(client.host, name)
    assert not spilling.move(client.host, f"{name}0")
    mine[0] = 7
    assert future.result()[0] == 0
    assert (mine[1:] == np.arange(1, MIB)).all()
    del future
    assert eventually(lambda: not os.listdir(client.host.blob_path("")))


def test_values_that_come_and_go_while_they_are_moved_leave_nothing(client: Client) -> None:
    before = set(spills())

    def churn(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(150):
            Variable(f"v{dice.randrange(4)}", client=client).set(np.full(20_000, seed))
            Variable(f"v{dice.randrange(4)}", client=client).delete()

    def mover() -> int:
        moved = 0
        for _ in range(1500):
            for name in os.listdir(client.host.blob_path("")):
                moved += not name.startswith(spilling.MOVING) and spilling.move(client.host, name)
        return moved

    children = [Child(churn, seed) for seed in range(2)] + [Child(mover) for _ in range(2)]
    results = [child.result() for child in children]
    assert sum(results[2:]) > 0
    for number in range(4):
        Variable(f"v{number}", client=client).delete()
    assert eventually(lambda: not os.listdir(client.host.blob_path("")), 10)
    assert eventually(lambda: set(spills()) <= before, 10)
