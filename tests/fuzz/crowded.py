"""A hall whose members died in the middle of everything: one had and ran what it could, the other waited for it.

Whoever opens it buries them, and so reads nearly every kind of record that there is.
"""

from __future__ import annotations

import io
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from damage import HANGS_S, is_of_a_value
from faults import eventually
from targets import check_told

import guildhall
from guildhall import (
    Barrier,
    Broken,
    Condition,
    Counter,
    Election,
    Event,
    Future,
    GuildhallError,
    Hall,
    Latch,
    Lock,
    MultiLock,
    Pub,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    Sub,
    TimedOut,
    Variable,
)
from guildhall.client import submission
from guildhall.engine.local import tasks
from guildhall.primitives.waiters import WAITS
from guildhall.tools import cli

Step = Callable[[], Any]


def write(path: Path) -> None:
    """Both end without a word; first who waits, as it would bury the other."""
    members: list[int] = []
    try:
        for live in (_have, _wait):
            _start(live, path, members)
    finally:
        for pid in reversed(members):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    for bell in (path / "bells").iterdir():
        bell.unlink()  # Sockets cannot be copied.


def _start(live: Callable[[Path], None], path: Path, members: list[int]) -> None:
    """A process that does that, and then nothing any more. Returns when it has."""
    read, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            live(path)
            os.write(write_end, b"!")
            time.sleep(600)
        except BaseException:
            os.write(write_end, traceback.format_exc()[-2000:].encode())
        finally:
            os._exit(1)
    members.append(pid)
    os.close(write_end)
    with os.fdopen(read, "rb", buffering=0) as file:
        told = file.read(2000).decode()
    assert told == "!", told


def _have(path: Path) -> None:
    hall = guildhall.open(path)
    Lock("lock", hall=hall).acquire()
    Lock("leased", lease_s=3600, hall=hall).acquire()
    rlock = RLock("rlock", hall=hall)
    assert rlock.acquire()
    assert rlock.acquire()
    RWLock("rwlock", hall=hall).acquire_read()
    MultiLock(["m1", "m2", "m3"], hall=hall).acquire(num_locks=2)
    Semaphore("semaphore", 1, hall=hall).acquire()
    Election("election", hall=hall).campaign("me")
    RateLimiter("limiter", 2, per_s=3600, hall=hall).acquire(2)
    RateLimiter("bursts", 2, per_s=3600, burst=4, hall=hall).acquire(4)
    Event("event", hall=hall).clear()
    Latch("latch", 2, hall=hall).count_down()
    Counter("counter", hall=hall).add(1 << 90)
    Variable("variable", hall=hall).set(["x" * 90_000])
    _fill(hall)
    futures = _submit(hall)
    Variable("future", hall=hall).set(futures[0])
    assert hall.host.transact(tasks.claim, hall.host.session, 2, None)[1]


def _fill(hall: Hall) -> None:
    """Queues and topics, with items in all places that these have."""
    work = Queue("work", max_deliveries=2, hall=hall)
    work.put_many(range(20))
    work.put("late", delay=3600)
    for priority in (1, -1, 2.5):
        work.put(priority, priority=priority)
    globals()["taken"] = [work.take(), work.take()]  # Kept: one that is dropped is given back.
    taken = work.take()
    taken.nack()
    Queue("full", maxsize=2, hall=hall).put_many([1, bytes(70_000)])
    for options in ({}, {"maxlen": 3}, {"maxlen": 4, "policy": "block"}, {"subscription": "durable"}):
        globals().setdefault("subs", []).append(Sub("topic", hall=hall, **options))
    globals()["subs"].append(Sub("to*", hall=hall))
    pub = Pub("topic", keep=3, hall=hall)
    for number in range(4):
        pub.put(number)


def _submit(hall: Hall) -> list[Future]:
    futures = submission.submit_all(hall.host, divmod, [((n, 1), {}) for n in range(4)], retries=1, priority=1)
    futures += submission.submit_all(hall.host, len, [(([futures[0], futures[2]],), {})])
    globals()["futures"] = futures
    return futures


def _wait(path: Path) -> None:
    hall = guildhall.open(path)
    condition = Condition("condition", hall=hall)

    def be_notified() -> None:
        with condition:
            condition.wait()

    waits: list[Step] = [
        lambda: Lock("lock", hall=hall).acquire(),
        lambda: RLock("rlock", hall=hall).acquire(),
        lambda: RWLock("rwlock", hall=hall).acquire_write(),
        lambda: RWLock("rwlock", hall=hall).acquire_read(timeout=600),
        lambda: MultiLock(["m1", "m2"], hall=hall).acquire(),
        lambda: Semaphore("semaphore", hall=hall).acquire(),
        lambda: Election("election", hall=hall).campaign("me, too"),
        lambda: RateLimiter("limiter", 2, per_s=3600, hall=hall).acquire(),
        lambda: RateLimiter("bursts", 2, per_s=3600, burst=4, hall=hall).acquire(),
        lambda: Event("event", hall=hall).wait(),
        lambda: Latch("latch", 2, hall=hall).wait(),
        lambda: Barrier("barrier", 3, hall=hall).wait(),
        lambda: Barrier("barrier", 3, hall=hall).wait(),
        lambda: Variable("unset", hall=hall).get(),
        lambda: Queue("empty", hall=hall).get(batch=3),
        lambda: Queue("empty", hall=hall).take(),
        lambda: Queue("full", maxsize=2, hall=hall).put(bytes(70_000)),
        lambda: Queue("work", hall=hall).join(),
        lambda: Pub("topic", hall=hall).put_many([5, 6]),
        lambda: Sub("silent", hall=hall).get(),
        lambda: Variable("future", hall=hall).get().result(),
        be_notified,
    ]
    for number, wait in enumerate(waits, 1):  # One behind the other: a reader stands in line behind a writer only.
        threading.Thread(target=wait, daemon=True).start()
        assert eventually(lambda number=number: _standing(hall) == number, 20), f"wait {number} does not wait"


def _standing(hall: Hall) -> int:
    return len(list(hall.host.read(lambda txn: txn.scan(WAITS))))


def use(path: Path) -> None:
    """Look at everything, bury the dead, and do a bit of everything. Raises the damage that was found last."""
    found: list[Broken] = []

    def tried(step: Step) -> Any:
        try:
            return step()
        except TimedOut:
            return None
        except Broken as error:
            found.append(error)
            return None
        except GuildhallError:
            return None  # Such as of a barrier that broke.
        except (AttributeError, ImportError, TypeError) as error:
            if not is_of_a_value(error):
                raise
            return None

    def look() -> None:
        with guildhall.observe(path) as seen:
            seen.snapshot().as_dict()

    tried(look)
    hall = tried(lambda: guildhall.open(path))
    if hall is not None:
        with hall:
            for step in _steps(hall):
                tried(step)
            tried(hall.snapshot)
            with suppress(GuildhallError):
                hall.host.settle()
    if found:
        raise found[-1]


def _steps(hall: Hall) -> list[Step]:
    work, sub = Queue("work", hall=hall), Sub("topic", subscription="durable", hall=hall)
    condition = Condition("condition", hall=hall)

    def claim() -> None:
        answer = hall.host.transact(tasks.claim, hall.host.session, 8, None)
        for oid, _ in answer[1] if isinstance(answer, tuple) else ():
            hall.host.transact(tasks.settle, tasks.Done(oid, 1, b"\x80\x05K\x07."))

    def notify() -> None:
        with condition:
            condition.notify_all()

    return [
        lambda: Lock("lock", hall=hall).acquire(timeout=0),
        lambda: Lock("leased", hall=hall).acquire(timeout=0),
        lambda: RLock("rlock", hall=hall).acquire(timeout=0),
        lambda: RWLock("rwlock", hall=hall).acquire_read(timeout=0),
        lambda: RWLock("rwlock", hall=hall).acquire_write(timeout=0.01),
        lambda: MultiLock(["m3", "m1", "m2"], hall=hall).acquire(timeout=0.01),
        lambda: Semaphore("semaphore", hall=hall).acquire(timeout=0.01),
        lambda: Election("election", hall=hall).campaign(timeout=0),
        lambda: RateLimiter("limiter", 2, per_s=3600, hall=hall).acquire(timeout=0.01),
        lambda: RateLimiter("bursts", 2, per_s=3600, burst=4, hall=hall).try_acquire(),
        lambda: Event("event", hall=hall).set(),
        lambda: Latch("latch", 2, hall=hall).count_down(),
        lambda: Barrier("barrier", 3, hall=hall).wait(timeout=0),
        lambda: Barrier("barrier", 3, hall=hall).reset(),
        lambda: Counter("counter", hall=hall).add(1),
        lambda: Variable("unset", hall=hall).set(1),
        lambda: Variable("variable", hall=hall).update(lambda value: value),
        lambda: getattr(Variable("future", hall=hall).get(timeout=0), "status", None),
        claim,
        claim,
        notify,
        lambda: work.get(batch=5, timeout=0),
        lambda: work.take(timeout=0).ack(),
        lambda: work.take(timeout=0).nack(),
        lambda: work.dead_letters.get(timeout=0),
        lambda: work.get(batch=True, timeout=0),
        lambda: Queue("empty", hall=hall).put_many(range(4)),
        lambda: Queue("full", hall=hall).get(timeout=0),
        lambda: Queue("full", hall=hall).put(1, timeout=0),
        lambda: Pub("topic", hall=hall).put(7, timeout=0),
        *(lambda: sub.get(timeout=0),) * 8,
        sub.unsubscribe,
        lambda: Queue("full", hall=hall).delete(),
        lambda: Pub("topic", hall=hall).delete(),
        lambda: RateLimiter("limiter", 2, per_s=3600, hall=hall).delete(),
        lambda: Latch("latch", 2, hall=hall).delete(),
    ]


COMMANDS = ("ls", "show lock", "show work", "locks", "queue peek work", "queue peek full", "top", "doctor")
COMMANDS_THAT_MEND = ("doctor --fix", "gc")


def command(path: Path) -> None:
    """Give each command of the command line, in both forms, to the hall; those that change it last."""
    for words in (*COMMANDS, *COMMANDS_THAT_MEND):
        for form in ([], ["--json"]):
            given = [*words.split(), "--hall", str(path), *form]
            told, complained = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
            signal.alarm(HANGS_S)  # Of each: all of them may take as long, on a busy machine.
            with redirect_stdout(told), redirect_stderr(complained):
                code = cli.run(given)
            check_told(given, code, told.buffer.getvalue().decode(), complained.getvalue())
