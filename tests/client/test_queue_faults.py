"""Queues when something goes wrong: nothing is lost, nothing comes twice, and what is kept alive is let go exactly."""

from __future__ import annotations

import asyncio
import gc
import itertools
import mmap
import os
import random
import signal
import subprocess
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from faults import Child, eventually, script

import guildhall
from guildhall import Client, Closed, Future, Hall, NotHeld, Queue, TimedOut, aio
from guildhall.primitives.queue import AHEAD, HANDS, ITEMS, TAKEN
from guildhall.primitives.values import HOLDS, OBJECTS
from guildhall.primitives.waiters import LINES, WAITS

LARGE = 70_000
"""More than is stored inline: such a value is an object of its own, with a blob."""


def records(hall: Any, *regions: bytes) -> int:
    return sum(int(hall.host.read(lambda txn, r=r: len(list(txn.scan(r))))) for r in regions)


def blobs(hall: Any) -> list[str]:
    return os.listdir(os.path.join(hall.host.directory, "blobs"))


def settled(hall: Any) -> None:
    """Everything that was put off is done."""
    gc.collect()
    hall.host.settle()


def test_threads_that_come_and_go_leave_no_items_behind(hall: Hall) -> None:
    queue = Queue("q", hall=hall)
    queue.put_many(range(100))
    got: list[int] = []
    for _ in range(100):
        thread = threading.Thread(target=lambda: got.append(queue.get()))
        thread.start()
        thread.join()
    assert got == list(range(100))
    assert records(hall, ITEMS, HANDS) <= 2


def test_more_threads_than_words_get_all_the_same(hall: Hall) -> None:
    queue, gate, got = Queue("q", hall=hall), threading.Event(), list[int]()

    def get() -> None:
        got.append(queue.get(timeout=30))
        gate.wait(30)

    threads = [threading.Thread(target=get) for _ in range(520)]
    for thread in threads:
        thread.start()
    queue.put_many(range(520))
    assert eventually(lambda: len(got) == 520, 30)
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == list(range(520))
    assert records(hall, ITEMS) <= 512


_nested: Queue | None = None


class Greedy:
    """Gets from the queue itself while it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _get_more, ()


def _get_more() -> Any:
    assert _nested is not None
    return ["more", _nested.get(timeout=5)]


@pytest.mark.parametrize("size", [1, LARGE])
def test_a_get_inside_of_a_get_disturbs_neither(hall: Hall, size: int) -> None:
    global _nested
    _nested = queue = Queue("q", hall=hall)
    queue.put_many([Greedy(), b"x" * size, Greedy(), b"y" * size, "last"])
    assert queue.get() == ["more", b"x" * size]
    assert queue.get(batch=1) == [["more", b"y" * size]]
    assert queue.get() == "last"
    settled(hall)
    assert records(hall, ITEMS, HANDS) <= 2
    assert blobs(hall) == []


# -- killed -----------------------------------------------------------------------------------------------------------


class Sheet:
    """What a process noted, in memory that outlives it: a count for each item."""

    def __init__(self, items: int) -> None:
        self.memory = mmap.mmap(-1, 2 * items)
        self.items = items

    def note(self, item: int, *, is_taken: bool) -> None:
        place = item + self.items * is_taken
        self.memory[place] = min(self.memory[place] + 1, 255)

    def counts(self) -> tuple[bytes, bytes]:
        return self.memory[: self.items], self.memory[self.items :]


def toil(queue: Queue, sheet: Sheet, dice: random.Random) -> None:
    """Get and take in every way, for ever."""

    def number(value: Any) -> int:
        return int(value if isinstance(value, int) else int.from_bytes(value[:8], "big"))

    def once() -> None:
        choice = dice.random()
        if choice < 0.4:
            sheet.note(number(queue.get(timeout=5)), is_taken=False)
        elif choice < 0.5:
            for value in queue.get(batch=2, timeout=5):
                sheet.note(number(value), is_taken=False)
        elif choice < 0.7:
            with suppress(ZeroDivisionError), queue.take(timeout=5) as value:
                if dice.random() < 0.2:
                    raise ZeroDivisionError
                sheet.note(number(value), is_taken=True)
        else:
            taken = queue.take(timeout=5)
            if choice < 0.75:
                del taken
            elif choice < 0.8:
                taken.nack(delay=dice.choice([None, 0.001]))
            else:
                sheet.note(number(taken.value), is_taken=True)
                taken.ack()

    async def awaited() -> None:
        same = aio.Queue("q", hall=guildhall_of(queue))
        for _ in range(20):
            with suppress(TimedOut):
                sheet.note(number(await same.get(timeout=0.01)), is_taken=False)
                async with same.take(timeout=0.01) as value:
                    sheet.note(number(value), is_taken=True)

    if dice.random() < 0.3:
        threading.Thread(target=lambda: [once() for _ in itertools.count()], daemon=True).start()
    while True:
        with suppress(TimedOut):
            if dice.random() < 0.02:
                asyncio.run(awaited())
            once()


def guildhall_of(queue: Queue) -> Any:
    """What a handle takes for a hall."""
    return guildhall.client.handles.queue.Given(queue._host)


def put_some(queue: Queue, dice: random.Random, numbers: list[int]) -> None:
    for item in numbers:
        choice = dice.random()
        value: Any = item if choice < 0.8 else item.to_bytes(8, "big") + b"x" * dice.choice([10, LARGE])
        queue.put(
            value,
            delay=0.002 if choice > 0.95 else None,
            priority=dice.choice([-1, 1, 2.5]) if 0.1 < choice < 0.2 else 0,
        )


def kill_toilers(kills: int, seconds: float, seed: int) -> int:
    """Kill so many that get and take, or as many as there is time for. Returns how many."""
    dice, until, killed, items = random.Random(seed), time.monotonic() + seconds, 0, 200_000
    sheet, running, put = Sheet(items), list[int](), 0
    with guildhall.open() as hall:
        queue = Queue("q", hall=hall)
        while killed < kills and time.monotonic() < until and put < items - 200:
            if queue.qsize() < 50:
                put_some(queue, dice, list(range(put, put + 100)))
                put += 100
            while len(running) < 3:
                own = random.Random(dice.random())
                pid = os.fork()
                if not pid:
                    try:
                        toil(queue, sheet, own)
                    finally:
                        os._exit(1)
                running.append(pid)
            time.sleep(dice.random() ** 2 * 0.01)
            pid = running.pop(dice.randrange(3))
            os.kill(pid, signal.SIGKILL)
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL, f"a toiler ended by itself, seed {seed}"
            killed += 1
        for pid in running:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        hall.host.bury_dead()
        time.sleep(0.01)
        left = Counter(
            value if isinstance(value, int) else int.from_bytes(value[:8], "big")
            for some in (queue.get(batch=True), queue.dead_letters.get(batch=True))
            for value in some
        )
        got, done = sheet.counts()
        told = f"seed {seed}, {killed} kills, {put} items"
        assert max(got) <= 1, f"got twice, {told}"
        assert max(left.values(), default=0) <= 1, f"there twice, {told}"
        assert not [item for item in left if got[item]], f"got and still there, {told}"
        assert sum(done) - sum(map(bool, done)) <= killed + len(running), f"taken again more often than killed, {told}"
        lost = [item for item in range(put) if not (got[item] or done[item] or left[item])]
        print(f"{told}: {len(lost)} died with their getters, {sum(got)} got, {sum(done)} taken, {len(left)} left")
        # Between the return of `get` and the note stand a few instructions; a batch dies as a whole.
        assert len(lost) <= 5 + killed // 50, f"lost {lost}, {told}"
        told_by = queue.statistics()
        assert (told_by.size, told_by.delayed, told_by.unacked, told_by.getters) == (0, 0, 0, 0), told
        settled(hall)
        assert records(hall, TAKEN, AHEAD, LINES, WAITS) == 0, told
        assert records(hall, ITEMS, HANDS) <= 2, told
        assert records(hall, OBJECTS, HOLDS) == 0, told
        # One who is killed when the value is gone from the store, and before its file is, leaves the file to the hall.
        assert len(blobs(hall)) <= 3 + killed // 50, told
    return killed


def test_what_killed_getters_and_takers_leave_is_whole() -> None:
    seed = random.randrange(1 << 30)
    kills = kill_toilers(400, 40, seed)
    assert kills >= 100, f"seed {seed}: only {kills} kills in 40 s"


@pytest.mark.chaos
def test_what_killed_getters_and_takers_leave_is_whole_for_minutes() -> None:
    seed, until = random.randrange(1 << 30), time.monotonic() + float(os.environ.get("CHAOS_S", "300"))
    kills = 0
    while (left_s := until - time.monotonic()) > 0:
        kills += kill_toilers(1 << 30, min(left_s, 60), seed + kills)
    print(f"seed {seed}: {kills} kills")


def test_what_a_killed_plain_process_took_comes_back_at_once(hall: Hall, tmp_path: Path) -> None:
    queue = Queue("q", hall=hall)
    queue.put("work")
    taker = script(
        "import sys, time, guildhall\n"
        f"taken = guildhall.Queue('q', hall=guildhall.open({hall.path!r})).take()\n"
        "print(taken.value, taken.deliveries, flush=True)\ntime.sleep(60)\n",
        tmp_path,
    )
    assert taker.stdout is not None
    assert taker.stdout.readline() == "work 1\n"
    assert queue.statistics().unacked == 1
    threading.Timer(0.1, taker.kill).start()
    began = time.monotonic()
    again = queue.take(timeout=10)
    assert (again.value, again.deliveries) == ("work", 2)
    assert time.monotonic() - began < 0.9
    taker.communicate()
    assert taker.returncode == -signal.SIGKILL
    again.ack()


def test_a_forked_child_that_drops_or_ends_what_its_parent_took_changes_nothing(hall: Hall) -> None:
    queue = Queue("q", hall=hall)
    queue.put("mine")
    taken = queue.take()

    def child() -> bool:
        nonlocal taken
        for call in (taken.ack, taken.nack):
            with pytest.raises(NotHeld):
                call()
        del taken
        gc.collect()
        queue.put_many([])
        return queue.qsize() == 0

    assert Child(child).result()
    assert eventually(lambda: not hall.host.bury_dead())
    assert queue.statistics().unacked == 1
    taken.ack()


# -- interrupted ------------------------------------------------------------------------------------------------------


class Press(KeyboardInterrupt):
    """Raised where the signal found us."""


class Alarm(Exception):
    """Raised by a handler where the signal found us: no KeyboardInterrupt, as handlers of timeouts raise."""


def pressed_at_random(
    error: type[BaseException], presses: int, refill: Callable[[], None], once: Callable[[], None]
) -> int:
    """Call `once` again and again, and raise the error at random moments of it. How often that was in the caller's own
    lines: what had been returned to those is lost."""
    is_armed, outside = False, 0

    def press(*_: Any) -> None:
        nonlocal is_armed
        if is_armed:
            is_armed = False
            raise error

    signal.signal(signal.SIGALRM, press)
    try:
        for _ in range(presses):
            refill()
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.003), 0.003)
            try:
                is_armed = True
                while is_armed:  # Python may swallow one, in a callback of somebody's.
                    once()
            except error as raised:
                outside += is_outside(raised)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return outside


def is_outside(error: BaseException) -> bool:
    """Whether it was raised by a handler that was called in this file."""
    return traceback.extract_tb(error.__traceback__)[-2].filename == __file__


@pytest.mark.parametrize("error", [Press, Alarm])
def test_what_is_raised_at_any_moment_loses_nothing_and_keeps_nothing_alive(
    hall: Hall, error: type[BaseException]
) -> None:
    """Of small and large items, singly and in batches: all that was put was got, or is there; no blob stays."""

    def child() -> tuple[int, int, int]:
        queue, numbers = Queue("q", hall=hall), itertools.count()
        seen: Counter[int] = Counter()

        def refill() -> None:
            for _ in range(max(0, 40 - queue.qsize())):
                number = next(numbers)
                queue.put(number if number % 3 else number.to_bytes(8, "big") + b"x" * LARGE)

        def see(value: Any) -> None:
            seen[value if isinstance(value, int) else int.from_bytes(value[:8], "big")] += 1

        def once() -> None:
            value = queue.get(timeout=0.001)
            see(value)
            with queue.take(timeout=0.001) as item:
                see(item)
            for item in queue.get(batch=3, timeout=0.001):
                see(item)

        def patient() -> None:
            with suppress(TimedOut):
                once()

        outside = pressed_at_random(error, 400, refill, patient)
        settled(hall)
        assert queue.statistics().unacked == 0
        for some in (queue, queue.dead_letters):  # What a handler raises while an item is read, its reading raised.
            for item in some.get(batch=True):
                see(item)
        lost = next(numbers) - len(seen)
        settled(hall)
        assert records(hall, TAKEN, AHEAD, LINES, WAITS) == 0
        assert records(hall, ITEMS, HANDS) <= 2
        assert records(hall, OBJECTS, HOLDS) == 0, "something is kept alive"
        assert blobs(hall) == []
        return lost, sum(seen.values()) - len(seen), outside

    lost, twice, outside = Child(child).result()
    print(f"{lost} died between the return and the line that kept them, in {outside} places; {twice} seen twice")
    assert lost <= 3 * outside, "so many are in a batch"
    assert twice <= 400


def test_futures_in_a_queue_are_kept_and_let_go_exactly(client: Client) -> None:
    """Got, taken, given back, dead, dropped, closed: a result lives as long as a queue or a future has it."""
    queue, host = Queue("f", max_deliveries=2), client.host

    def lives(oid: bytes) -> bool:
        host.settle()
        return bool(host.read(lambda txn: txn.get(OBJECTS + oid)))

    def put(times: int = 1) -> bytes:
        future: Future = client.submit(lambda: 42)
        for _ in range(times):
            queue.put(future)
        return future._oid

    oid = put(3)
    assert queue.get().result(timeout=20) == 42
    assert lives(oid)
    assert [future.result() for future in queue.get(batch=2)] == [42, 42]
    assert not lives(oid)

    oid = put()
    with queue.take() as future:
        assert future.result(timeout=20) == 42
    assert lives(oid)
    del future
    assert not lives(oid)

    oid = put()
    taken = queue.take()
    taken.nack()
    del taken
    assert lives(oid)
    with suppress(ZeroDivisionError), queue.take():
        raise ZeroDivisionError
    assert queue.statistics().dead == 1
    assert lives(oid)
    with queue.dead_letters.take() as future:
        assert future.result(timeout=20) == 42
    del future
    assert not lives(oid)

    oid = put()
    queue.put(client.submit(lambda: 1), delay=0.05)
    queue.close()
    with pytest.raises(Closed):
        queue.put(client.submit(lambda: 2))
    assert lives(oid)
    assert [future.result(timeout=20) for future in queue] == [42, 1]
    assert not lives(oid)
    queue.reopen()

    full = Queue("one", maxsize=1)
    full.put(1)
    future = client.submit(lambda: 3)
    oid = future._oid
    with pytest.raises(TimedOut):
        full.put(future, timeout=0.05)
    del future
    assert not lives(oid)


def test_futures_that_killed_processes_got_and_took_are_let_go(client: Client) -> None:
    queue, host = Queue("f"), client.host
    futures = [client.submit(lambda n=n: n) for n in range(4)]
    client.gather(futures)
    oids = [future._oid for future in futures]
    queue.put_many(futures)
    del futures

    def child() -> None:
        kept = [queue.get(), queue.take(), *queue.get(batch=1)]
        Queue("f held").put(len(kept))
        signal.pause()

    one = Child(child)
    assert Queue("f held").get(timeout=20) == 3
    one.kill()
    host.bury_dead()
    host.settle()
    alive = [bool(host.read(lambda txn, oid=oid: txn.get(OBJECTS + oid))) for oid in oids]
    assert alive == [False, True, False, True]
    assert queue.take().value.result() == 1


def test_cancelled_coroutines_keep_nothing_alive(hall: Hall) -> None:
    async def main() -> None:
        queue, seen = aio.Queue("q", hall=hall), set[int]()

        async def one(batch: bool) -> None:
            if batch:
                seen.update(value[0] for value in await queue.get(batch=2))
            else:
                seen.add((await queue.get())[0])
                async with queue.take() as value:
                    seen.add(value[0])

        for number in range(100):
            calls = [asyncio.ensure_future(one(kind)) for kind in (False, True, False)]
            await asyncio.sleep(random.random() * 0.001)
            await queue.put(bytes([number]) + b"x" * LARGE)
            await asyncio.sleep(random.random() * 0.002)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        del calls
        seen.update(value[0] for value in await queue.get(batch=True))
        assert seen == set(range(100))

    asyncio.run(main())
    settled(hall)
    assert records(hall, LINES, WAITS, TAKEN, OBJECTS, HOLDS) == 0
    assert blobs(hall) == []


# -- delayed ----------------------------------------------------------------------------------------------------------


def test_a_getter_that_falls_asleep_hears_of_an_item_delayed_meanwhile(hall: Hall) -> None:
    """A getter that had looked when the next is due, and had hung no bell yet, heard of it a second late."""
    queue, late = Queue("q", hall=hall), []
    for _ in range(150):
        at: list[float] = []
        getter = threading.Thread(target=lambda at=at: at.append(queue.get(timeout=5) - time.time()))
        getter.start()
        time.sleep(random.random() * 0.0012)
        queue.put(time.time() + 0.004, delay=0.004)
        getter.join()
        late.append(-at[0])
    assert max(late) < 0.5, sorted(late)[-5:]


def test_the_next_in_line_takes_over_the_watch_for_what_is_delayed(hall: Hall) -> None:
    queue = Queue("q", hall=hall)

    ended: list[float] = []

    def get(timeout: float) -> None:
        with suppress(TimedOut):
            queue.get(timeout=timeout)
        ended.append(time.time())

    for leaves in (True, False):  # Threads: the death of a process would wake the other.
        first = threading.Thread(target=get, args=(0.3 if leaves else 10,))
        first.start()
        assert eventually(lambda: queue.statistics().getters == 1)
        second = threading.Thread(target=get, args=(10,))
        second.start()
        assert eventually(lambda: queue.statistics().getters == 2)
        time.sleep(0.05)
        due = time.time() + 0.5
        queue.put("later", delay=0.5)
        if not leaves:
            queue.put("now")
        first.join()
        second.join()
        assert 0 <= ended[-1] - due < 0.25


def test_a_try_that_fails_asks_the_store_once(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    queue, full, calls = Queue("q", hall=hall), Queue("full", 1, hall=hall), []
    full.put(1)
    transact = hall.host.transact
    monkeypatch.setattr(hall.host, "transact", lambda op, *args: calls.append(op) or transact(op, *args))
    for call in (lambda: queue.get(timeout=0), lambda: queue.take(timeout=0), lambda: full.put(2, timeout=0)):
        with pytest.raises(TimedOut):
            call()
    assert len(calls) == 3


def test_halls_of_plain_processes_leave_no_marks_behind(hall: Hall) -> None:
    code = (
        "import guildhall, sys\n"
        "with guildhall.open(sys.argv[1]) as hall:\n"
        "    queue = guildhall.Queue('q', hall=hall)\n"
        "    queue.put(1)\n"
        "    print(queue.get())\n"
    )
    import sys

    assert subprocess.check_output([sys.executable, "-c", code, hall.path], text=True) == "1\n"
    assert not [name for name in os.listdir(os.path.join(hall.path, "bells")) if name.endswith(".marks")]
    assert records(hall, ITEMS, HANDS) == 0
