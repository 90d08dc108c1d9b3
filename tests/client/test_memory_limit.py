"""A worker's memory limit: warned, paused, ended and replaced; and what is freed really goes."""

from __future__ import annotations

import os
import time

import numpy as np
import psutil
import pytest
from faults import eventually

from guildhall import Client, KilledWorker
from guildhall.engine.local.memory import MemoryGuard

LIMIT = 200 << 20


class Paused:
    is_paused = False
    is_retired = False

    def __init__(self, is_idle: bool) -> None:
        self._is_idle = is_idle

    def is_idle(self) -> bool:
        return self._is_idle

    def retire(self) -> None:
        self.is_retired = True


@pytest.mark.parametrize(
    ("share", "is_idle", "pauses", "retires"),
    [(0.5, True, False, False), (0.75, True, False, False), (0.85, False, True, False), (0.85, True, True, True)],
)
def test_a_worker_near_its_limit_pauses_and_retires_when_that_does_not_help(
    share: float, is_idle: bool, pauses: bool, retires: bool
) -> None:
    worker = Paused(is_idle)
    MemoryGuard(worker, 1000, lambda: int(1000 * share)).look()
    assert (worker.is_paused, worker.is_retired) == (pauses, retires)


def test_a_worker_warns_once_for_each_rise(caplog: pytest.LogCaptureFixture) -> None:
    used = iter([750, 760, 100, 750])
    guard = MemoryGuard(Paused(False), 1000, lambda: next(used))
    for _ in range(4):
        guard.look()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_task_that_takes_too_much_ends_its_worker_and_is_told_why() -> None:
    def hoard() -> None:
        kept = [np.ones(25 << 17) for _ in range(20)]
        time.sleep(20)
        del kept

    with Client(n_workers=1, memory_limit=LIMIT) as client:
        with pytest.raises(KilledWorker, match="memory_limit"):
            client.submit(hoard).result(timeout=60)
        assert client.submit(abs, -1).result(timeout=20) == 1


def test_a_worker_that_keeps_too_much_is_replaced_between_tasks() -> None:
    def leak() -> int:
        import guildhall

        guildhall.kept = np.ones(170 << 17)  # type: ignore[attr-defined]
        return os.getpid()

    with Client(n_workers=1, memory_limit="200MiB") as client:
        first = client.submit(leak).result()
        assert eventually(lambda: first not in client.run(os.getpid, on_error="ignore").values(), 15)
        assert client.gather(client.map(abs, range(20))) == list(range(20))


def test_large_values_of_others_do_not_count() -> None:
    with Client(n_workers=1, memory_limit=LIMIT) as client:
        pid = client.submit(os.getpid).result()
        shared = client.scatter(np.ones(400 << 17))
        assert client.submit(np.sum, shared).result() == 400 << 17
        time.sleep(0.3)
        assert client.submit(os.getpid).result() == pid


def test_memory_stays_flat_over_many_large_results(client: Client) -> None:
    def shared_bytes() -> int:
        return sum(int(line.split()[1]) << 10 for line in open("/proc/meminfo") if line.startswith("Shmem:"))

    def resident(pids: list[int]) -> int:
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)

    pids = [os.getpid(), *client.run(os.getpid).values()]
    client.submit(np.ones, 10 << 17).result()
    before, shared_before = resident(pids), shared_bytes()
    for number in range(1000):
        assert client.submit(np.full, 10 << 17, number).result()[-1] == number
    assert resident(pids) - before < 60 << 20
    assert eventually(lambda: shared_bytes() - shared_before < 200 << 20), "others use shared memory, too"
    assert eventually(lambda: not os.listdir(client.host.blob_path("")))
