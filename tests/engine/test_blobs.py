"""Large values: what they cost a process that has many, and what a killed writer leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from faults import Child, eventually

import guildhall
from guildhall import Client, HallDamaged, Variable
from guildhall.engine.local import blobs


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_large_results_take_no_descriptors(client: Client) -> None:
    before = descriptors()
    arrays = client.gather(client.map(lambda n: np.full(20_000, n), range(300)))
    assert [int(array[-1]) for array in arrays] == list(range(300))
    assert descriptors() - before < 20


def test_a_large_value_outlives_its_blob_and_its_future_and_is_writable(client: Client) -> None:
    array = client.submit(np.arange, 50_000).result()
    part = array[10:20]
    del array
    assert eventually(lambda: not os.listdir(client.host.blob_path("")))
    part[0] = -1
    assert part.tolist() == [-1, *range(11, 20)]


def test_a_half_written_blob_goes_with_its_killed_writer_and_a_whole_one_stays(
    hall_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with guildhall.open(hall_name) as hall:

        def killed_while_writing() -> None:
            Variable("whole", hall=hall).set(np.ones(20_000))
            monkeypatch.setattr(blobs, "_fill", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            Variable("half", hall=hall).set(np.ones(20_000))

        child = Child(killed_while_writing)
        os.waitpid(child.pid, 0)
        os.close(child._read)
        directory = Path(hall.host.blob_path(""))
        assert len(list(directory.iterdir())) == 2
        hall.host.bury_dead()
        assert len(list(directory.iterdir())) == 1
        assert Variable("whole", hall=hall).get().sum() == 20_000


def test_a_blob_cut_short_is_damage_that_is_told(client: Client) -> None:
    future = client.scatter(np.ones(20_000))
    (name,) = os.listdir(client.host.blob_path(""))
    os.truncate(client.host.blob_path(name), 100)
    with pytest.raises(HallDamaged, match="cut short"):
        future.result()
