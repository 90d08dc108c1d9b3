"""A client killed whatever it was doing: its workers end within two seconds, and the next open leaves nothing."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import psutil
import pytest
from faults import eventually, script, spills

import guildhall

BUSY = """
import os, time
from guildhall import Client, Event, Lock, Queue, Sub, Variable
client = Client(n_workers=2)
lock = Lock("l"); lock.acquire()
Variable("large").set(os.urandom(1_000_000))
def work(what):
    Queue("begun").put(os.getpid())
    if what == "computes":
        while True: pass
    if what == "sleeps": time.sleep(60)
    if what == "waits for a lock": Lock("l").acquire()
    if what == "waits for an item": Queue("never").get()
    if what == "makes items":
        while True: Queue("many").put(os.urandom(100_000)); Queue("many").get()
    if what == "submits":
        from guildhall import get_client
        while True: get_client().gather(get_client().map(str, range(100)))
futures = [client.submit(work, {what!r}) for _ in range(2)]
Queue("begun").get(batch=2)
print(client.host.directory, *(p.pid for p in client.cluster.pool.processes), flush=True)
if {what!r} == "computes": client.gather(futures)
time.sleep(60)
"""


def of_hall(home: Path) -> list[int]:
    """The processes whose halls are at that place."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("GUILDHALL_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "home"
    place.mkdir(mode=0o700)
    return place


def is_swept(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is left of halls after the next open."""
    monkeypatch.setenv("GUILDHALL_HOME", str(home))
    guildhall.open().close()
    return [str(path) for path in home.glob("guildhall-*/*")]


@pytest.mark.parametrize(
    "what", ["computes", "sleeps", "waits for a lock", "waits for an item", "makes items", "submits"]
)
def test_workers_end_with_a_killed_client_and_nothing_is_left(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    process = script(BUSY.format(what=what), tmp_path, GUILDHALL_HOME=str(home))
    assert process.stdout is not None
    directory, *_ = process.stdout.readline().split()
    assert len(of_hall(home)) >= 3
    process.kill()
    killed = time.monotonic()
    assert eventually(lambda: not of_hall(home), 2), f"still there after 2 s: {of_hall(home)}"
    process.communicate()
    print(f"{what}: gone after {time.monotonic() - killed:.2f} s")
    assert is_swept(home, monkeypatch) == []
    assert not os.path.exists(directory)
    assert not spills()


STARTING = "from guildhall import Client; client = Client(n_workers=2); client.gather(client.map(str, range(100)))"


def test_a_client_killed_while_it_starts_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    for number in range(12):
        process = script(STARTING, tmp_path, GUILDHALL_HOME=str(home))
        time.sleep(dice.uniform(0.05, 0.6))
        process.kill()
        process.wait()
        assert eventually(lambda: not of_hall(home), 2), f"seed {seed}, round {number}: {of_hall(home)}"
        process.communicate()
    assert is_swept(home, monkeypatch) == [], f"seed {seed}"


def test_a_client_that_fails_ends_its_workers(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        STARTING + "\nraise ValueError",
        STARTING + "\nimport sys; sys.exit(3)",
        STARTING + "\nimport os; os._exit(4)",
    ):
        process = script(text, tmp_path, GUILDHALL_HOME=str(home))
        process.communicate(timeout=30)
        assert process.returncode in (1, 3, 4)
        assert eventually(lambda: not of_hall(home), 2)
        if process.returncode != 4:
            assert not list(home.glob("guildhall-*/*")), "only a killed client may leave its hall to the next open"
    assert is_swept(home, monkeypatch) == []
