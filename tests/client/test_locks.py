"""What can be held, on real halls: threads, processes that are killed or stopped, asyncio, Ctrl-C, bad input."""

from __future__ import annotations

import asyncio
import mmap
import os
import pickle
import queue as std
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faults import Child, eventually, pressed_everywhere
from test_ctrl_c import pestered, records

import guildhall
from guildhall import (
    Client,
    Event,
    Hall,
    Lock,
    LockLost,
    Misuse,
    MultiLock,
    NotHeld,
    RLock,
    RWLock,
    Semaphore,
    SemaphoreClosed,
    aio,
)
from guildhall.hosts import current
from guildhall.primitives import lock as lock_ops
from guildhall.primitives import multilock, pool, waiters


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test: handles are used without naming it."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


def is_clean(hall: Any) -> bool:
    """Nobody waits, nothing is held but what outlives its use."""
    regions = (b"\x32", b"\x54", b"\x55", multilock.MULTILOCKS, multilock.REQUESTED, pool.LEASES)
    left = hall.host.read(lambda txn: [key for region in regions for key, _ in txn.scan(region)])
    return not left and records(hall) == 0


# -- the seat before the line -----------------------------------------------------------------------------------------


@pytest.fixture
def patient(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> Hall:
    """Who looks does so for as long as it takes, and who lets pass, too."""
    monkeypatch.setattr(hall.host, "look_s", lambda left_s: 20.0)
    return hall


def test_who_lets_it_go_and_wants_it_again_lets_the_one_in_the_seat_go_first(patient: Hall) -> None:
    mine, order = Lock("ball"), []

    def take() -> None:
        with Lock("ball", hall=patient):
            order.append("other")

    mine.acquire()
    for _ in range(100):
        other = threading.Thread(target=take)
        other.start()
        assert eventually(lambda: patient.host.seats[mine._seat] > 0)
        mine.release()
        mine.acquire()
        order.append("mine")
        other.join()
    mine.release()
    assert order == ["other", "mine"] * 100
    assert not any(patient.host.seats)
    assert is_clean(patient)


def test_nobody_stands_in_line_of_two_who_take_turns(patient: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Lock("ball"), Lock("ball")
    monkeypatch.setattr(patient.host, "relax", one.release)
    one.acquire()
    assert other.acquire(timeout=5)
    assert Lock("ball").statistics().waiting == ()
    assert other.fencing_token is not None
    other.release()
    assert is_clean(patient)


def test_a_seat_left_behind_costs_one_look(hall: Hall) -> None:
    lock = Lock("l")
    for word in (7, -7):
        hall.host.seats[lock._seat] = lock._about + 7 if word > 0 else -(lock._about + 7)
        for _ in range(3):
            assert lock.acquire(timeout=5)
            assert not Lock("l").acquire(timeout=0.001)
            lock.release()
        with lock:
            heir = Child(lambda: Lock("l", hall=hall).acquire(timeout=10))
            assert eventually(lambda: len(lock.statistics().waiting) == 1 or hall.host.seats[lock._seat] > 0)
        assert heir.result() is True
    hall.host.bury_dead()  # The heirs ended with it in their hands.
    assert is_clean(hall)


def test_a_word_about_another_lock_does_not_keep_out(patient: Hall) -> None:
    lock = Lock("l")
    patient.host.seats[lock._seat] = -(lock._about + (1 << 32) + 5)
    with lock:
        assert lock.locked()


def test_one_in_the_seat_makes_way_for_a_line_and_gets_it_after(patient: Hall) -> None:
    held, order = Lock("l"), []
    held.acquire()

    def come(name: str) -> None:
        with Lock("l", hall=patient):
            order.append(name)

    first, second = (threading.Thread(target=come, args=(name,)) for name in ("seat", "line"))
    first.start()
    assert eventually(lambda: patient.host.seats[held._seat] > 0)
    second.start()
    assert eventually(lambda: len(held.statistics().waiting) == 2)  # Who looked sees the line, and joins it.
    held.release()
    first.join()
    second.join()
    assert sorted(order) == ["line", "seat"]
    assert is_clean(patient)


def test_a_lock_that_comes_free_in_another_way_is_seen_from_the_seat(patient: Hall) -> None:
    pid = os.fork()
    if not pid:
        Lock("l", hall=patient).acquire()
        os._exit(0)
    os.waitpid(pid, 0)
    mine = Lock("l")
    looked = threading.Thread(target=mine.acquire)
    looked.start()
    assert eventually(lambda: patient.host.seats[mine._seat] > 0)
    patient.host.bury_dead()
    looked.join(10)
    assert not looked.is_alive()
    assert mine.previous_holder_died is False  # It did not get it from the dead one's hands.
    mine.release()
    assert is_clean(patient)


@pytest.mark.parametrize("where", ["in the seat", "in line", "asleep"])
def test_ctrl_c_anywhere_in_a_wait_leaves_the_lock_free(
    hall: Hall, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    plain_sleep = hall.host.sleep

    def case() -> tuple[Callable[[], Any], Callable[[str], None]]:
        one, other = Lock("l"), Lock("l")
        one.acquire()
        if where != "in the seat":
            hall.host.seats[other._seat] = other._about + 1  # It is taken.

        def let_go(*args: Any) -> None:
            if one.fencing_token is not None:
                one.release()

        if where == "asleep":
            monkeypatch.setattr(hall.host, "look_s", lambda left_s: 0.0)
            monkeypatch.setattr(hall.host, "sleep", lambda *args: (let_go(), plain_sleep(*args)))
        else:
            monkeypatch.setattr(hall.host, "relax", let_go)

        def call() -> None:
            assert other.acquire(timeout=5)
            other.release()

        def check(where: str) -> None:
            hall.host.seats[other._seat] = 0
            assert "Lock.acquire" not in where or other.fencing_token is None, where
            for lock in (one, other):  # At the first line of `release` it has not begun.
                if lock.fencing_token is not None:
                    lock.release()
            assert not hall.host.read(lock_ops.look, one._key), where
            assert is_clean(hall), where
            with Lock("l"):
                pass

        return call, check

    assert pressed_everywhere(case) > 30


# -- threading as the oracle ------------------------------------------------------------------------------------------


class Puppet:
    """A thread that does what it is told, one thing at a time."""

    def __init__(self) -> None:
        self._told: std.SimpleQueue[Any] = std.SimpleQueue()
        self._said: std.SimpleQueue[Any] = std.SimpleQueue()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while (call := self._told.get()) is not None:
            try:
                self._said.put(call())
            except (RuntimeError, ValueError):
                self._said.put("refused")

    def do(self, call: Callable[[], Any]) -> Any:
        self._told.put(call)
        return self._said.get(timeout=10)

    def end(self) -> None:
        self._told.put(None)
        self.thread.join(5)


def _twins(kind: str, name: str) -> tuple[Any, Any]:
    if kind == "rlock":
        return RLock(name), threading.RLock()
    return (
        (Semaphore(name, 2), threading.BoundedSemaphore(2)) if kind == "semaphore" else (Lock(name), threading.Lock())
    )


@pytest.mark.parametrize("kind", ["rlock", "semaphore", "lock"])
def test_random_programs_of_threads_do_what_threading_does(hall: Hall, kind: str) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    puppets = [Puppet() for _ in range(3)]
    for number in range(60):
        mine, theirs = _twins(kind, f"{kind} {number}")
        for step in range(25):
            puppet = dice.choice(puppets)
            if dice.random() < 0.6:
                got = [puppet.do(lambda one=one: one.acquire(blocking=False)) for one in (mine, theirs)]
            else:
                got = [puppet.do(lambda one=one: one.release() and None) for one in (mine, theirs)]
            assert got[0] == got[1], f"program {number}, step {step}, seed {seed}"
    for puppet in puppets:
        puppet.end()


# -- owners -----------------------------------------------------------------------------------------------------------


def test_an_rlock_belongs_to_its_thread_by_name(hall: Hall) -> None:
    mine, same = RLock("r"), RLock("r")
    with mine, same:
        assert (mine.count, same.count) == (2, 2)
        assert mine.fencing_token == same.fencing_token
        other = Puppet()
        assert other.do(lambda: mine.acquire(timeout=0.02)) is False
        assert other.do(mine.release) == "refused"
        assert other.do(lambda: (mine.count, mine.fencing_token)) == (0, None)
        other.end()
    assert not mine.locked()
    with pytest.raises(NotHeld, match=r"'r'.*thread"):
        mine.release()


def test_a_threads_end_gives_its_rlock_to_no_new_thread(hall: Hall) -> None:
    thread = threading.Thread(target=RLock("r").acquire)
    thread.start()
    thread.join()
    for _ in range(20):  # The system gives thread numbers again.
        puppet = Puppet()
        assert puppet.do(lambda: RLock("r").acquire(blocking=False)) is False
        puppet.end()


def test_in_asyncio_an_rlock_belongs_to_the_task(hall: Hall) -> None:
    async def main() -> None:
        lock = aio.RLock("r")
        async with lock, aio.RLock("r"):
            assert lock.count == 2
            other = asyncio.ensure_future(lock.acquire(timeout=0.02))
            assert await other is False
            with pytest.raises(NotHeld):
                await asyncio.ensure_future(lock.release())
            waits = asyncio.ensure_future(lock.acquire(timeout=5))
            await asyncio.sleep(0.01)
        assert await waits
        assert lock.locked()
        assert lock.count == 0

    asyncio.run(main())
    with pytest.raises(Misuse, match="coroutine"):
        asyncio.run(_in_callback(lambda: aio.RLock("r").count))


async def _in_callback(call: Callable[[], Any]) -> Any:
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def run() -> None:
        try:
            done.set_result(call())
        except Exception as error:
            done.set_exception(error)

    asyncio.get_running_loop().call_soon(run)
    return await done


def test_a_forked_child_holds_nothing_of_its_parent(hall: Hall) -> None:
    rlock, rw, semaphore, multi = RLock("r"), RWLock("w"), Semaphore("s"), MultiLock(["a"])
    leased = Lock("l", lease_s=30)
    for call in (rlock.acquire, rw.acquire_write, semaphore.acquire, multi.acquire, leased.acquire):
        assert call()

    def child() -> list[str]:
        names = []
        for call in (rlock.release, rw.release_write, semaphore.release, multi.release, leased.release):
            try:
                call()
            except Exception as error:
                names.append(type(error).__name__)
        assert not rlock.acquire(blocking=False)
        assert not semaphore.acquire(blocking=False)
        return names

    assert Child(child).result() == ["NotHeld"] * 5
    for release in (rlock.release, rw.release_write, semaphore.release, multi.release, leased.release):
        assert release()
    assert is_clean(hall)


# -- leases -----------------------------------------------------------------------------------------------------------


def test_a_stopped_holder_loses_its_lease_to_the_waiter_and_learns(hall: Hall) -> None:
    held, go = Event("held"), Event("go")

    def hold() -> list[str]:
        lock, said = Lock("l", lease_s=0.4), []
        try:
            with lock:
                held.set()
                assert go.wait(20)
                for call in (lock.ensure_held, lock.renew):
                    with suppress(LockLost):
                        call()
                        said.append("still held")
                raise KeyError("of the body")
        except KeyError as error:
            said += [str(note) for note in error.__notes__]
        with lock:  # It can have it again.
            lock.ensure_held()
        return said

    def wait() -> tuple[float, bool, int | None]:
        lock = Lock("l")
        assert lock.acquire(timeout=20)
        took = time.monotonic(), lock.took_over, lock.fencing_token
        lock.release()
        return took

    holder = Child(hold)
    assert held.wait(10)
    token = Lock("l").statistics().holders[0].fencing_token
    # Stopped in a transaction it would stop everybody: it must have fallen asleep.
    assert eventually(lambda: any(waiter.bell for waiter, _ in hall.host.read(waiters.line, b"")))
    time.sleep(0.05)
    os.kill(holder.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    waiter = Child(wait)
    took, took_over, new_token = waiter.result()
    assert took - stopped < 3
    assert took_over
    assert new_token is not None
    assert new_token > token
    go.set()
    os.kill(holder.pid, signal.SIGCONT)
    said = holder.result()
    assert len(said) == 1
    assert "LockLost" in said[0]
    assert is_clean(hall)


def test_a_waiter_wakes_when_the_lease_ends_and_not_before(hall: Hall) -> None:
    for asleep in (lambda lock: lock.acquire(timeout=5), lambda lock: lock.acquire()):
        holder, waiter = Lock("l", lease_s="150ms"), Lock("l")
        holder.acquire()
        began = time.monotonic()
        assert asleep(waiter)
        assert 0.14 < time.monotonic() - began < 1
        assert waiter.took_over
        waiter.release()
        with pytest.raises(LockLost, match=r"'l'.*another took over.*fencing token"):
            holder.release()
        with pytest.raises(NotHeld):
            holder.release()


def test_a_renewed_lease_is_kept(hall: Hall) -> None:
    holder, waiter, got = Lock("l", lease_s=0.3), Lock("l"), []
    holder.acquire()
    thread = threading.Thread(target=lambda: got.append(waiter.acquire(timeout=10)))
    thread.start()
    for _ in range(8):
        time.sleep(0.08)
        holder.renew()
        holder.ensure_held()
    assert not got
    assert holder.release()
    thread.join()
    assert got == [True]
    assert not waiter.took_over
    waiter.release()
    assert is_clean(hall)


def test_a_lease_that_ran_out_is_held_until_somebody_asks(hall: Hall) -> None:
    holder = Lock("l", lease_s=0.02)
    holder.acquire()
    time.sleep(0.04)
    assert not holder.locked()
    with pytest.raises(LockLost, match="ran out"):
        holder.ensure_held()
    holder.renew()
    holder.ensure_held()
    time.sleep(0.04)
    assert holder.release()
    holder.acquire()
    time.sleep(0.04)
    other = Lock("l")
    assert other.acquire(blocking=False)
    for call in (holder.ensure_held, holder.renew, holder.release):
        with pytest.raises(LockLost):
            call()
    other.ensure_held()
    other.release()


def test_ensure_held_and_renew_of_who_never_held(hall: Hall) -> None:
    plain, leased = Lock("l"), Lock("l", lease_s=5)
    for call in (plain.ensure_held, leased.ensure_held, leased.renew):
        with pytest.raises(NotHeld):
            call()
    with plain:
        plain.ensure_held()
        with pytest.raises(Misuse, match="lease_s"):
            plain.renew()
    assert pickle.loads(pickle.dumps(leased)).lease_s == 5


def _spoil(context: Any, release: Callable[[], Any], error: BaseException | None = None) -> None:
    with context:
        release()
        if error is not None:
            raise error


def test_what_the_body_raised_is_never_masked(hall: Hall) -> None:
    rw, semaphore = RWLock("w"), Semaphore("s")
    cases: list[tuple[Any, Callable[[], Any]]] = [
        (lock := Lock("l"), lock.release),
        (rlock := RLock("r"), rlock.release),
        (multi := MultiLock(["a"]), multi.release),
        (semaphore, semaphore.release),
        (rw.read(), rw.release_read),
        (rw.write(), rw.release_write),
    ]
    for context, release in cases:
        with pytest.raises(ZeroDivisionError) as caught:
            _spoil(context, release, ZeroDivisionError())
        assert "NotHeld" in caught.value.__notes__[0]
        with pytest.raises(NotHeld):
            _spoil(context, release)
    assert is_clean(hall)


# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rlock", "semaphore", "multilock", "write"])
def test_who_waits_longest_is_next(hall: Hall, kind: str) -> None:
    def made() -> Any:
        return {
            "rlock": lambda: RLock("x"),
            "semaphore": lambda: Semaphore("x"),
            "multilock": lambda: MultiLock(["x", "y"]),
            "write": lambda: RWLock("x").write(),
        }[kind]()

    order: list[int] = []
    threads = []
    with made():
        for number in range(8):

            def take(number: int = number) -> None:
                with made():
                    order.append(number)

            threads.append(threading.Thread(target=take))
            threads[-1].start()
            assert eventually(lambda: hall.host.read(_in_lines) == len(threads))
    for thread in threads:
        thread.join(10)
    assert order == list(range(8))
    assert is_clean(hall)


def _in_lines(txn: Any) -> int:
    return len(list(txn.scan(b"\x10")))


def test_a_writer_gets_in_among_readers_without_pause_and_readers_among_writers(hall: Hall) -> None:
    stop, counts = threading.Event(), {"read": 0, "write": 0}

    def loop(mode: str) -> None:
        lock = RWLock("w")
        while not stop.is_set():
            with lock.read() if mode == "read" else lock.write():
                counts[mode] += 1

    for crowd, single in (("read", "write"), ("write", "read")):
        stop.clear()
        threads = [threading.Thread(target=loop, args=(crowd,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        lock = RWLock("w")
        acquire = lock.acquire_write if single == "write" else lock.acquire_read
        release = lock.release_write if single == "write" else lock.release_read
        for _ in range(10):
            assert acquire(timeout=10), f"starved as a {single}r"
            release()
        stop.set()
        for thread in threads:
            thread.join()
    assert is_clean(hall)


def test_philosophers_neither_block_each_other_nor_starve(hall: Hall) -> None:
    def dine(place: int) -> int:
        forks = MultiLock([place, (place + 1) % 5])
        for _ in range(60):
            with forks:
                assert forks.held == (place, (place + 1) % 5)
        return place

    children = [Child(dine, place) for place in range(5)]
    assert [child.result() for child in children] == list(range(5))
    assert is_clean(hall)


# -- killed processes -------------------------------------------------------------------------------------------------


class Board:
    """Numbers in memory that every child shares."""

    def __init__(self, room: int) -> None:
        self._memory = mmap.mmap(-1, 8 * room)
        self.numbers = memoryview(self._memory).cast("q")

    def close(self) -> None:
        self.numbers.release()
        self._memory.close()


EXCLUSIVE = 5
"""Sections that one at a time is in: of a lock with a lease, an rlock, a writer, two names, a semaphore of one."""
WRONG = 2 * EXCLUSIVE


def labour(board: Board, dice: random.Random) -> None:
    """Count in each section without a lock of its own: a count is lost if two are in it. Completed counts are noted."""
    numbers = board.numbers
    rw, many = RWLock("w"), Semaphore("many", 2)
    sections: list[Any] = [Lock("l", lease_s=60), RLock("r"), rw.write(), None, Semaphore("one")]
    while True:
        place = dice.randrange(EXCLUSIVE)
        pair = MultiLock(dice.sample(["a", "b", "c"], 2), num_locks=None)
        with sections[place] or pair:
            if place == 3 and "a" not in pair.held:
                continue
            before = numbers[place]
            if dice.random() < 0.1:
                os.sched_yield()
            numbers[place] = before + 1
            numbers[EXCLUSIVE + place] = numbers[EXCLUSIVE + place] + 1
        with rw.read():
            seen = numbers[2]
            os.sched_yield()
            if numbers[2] != seen:
                numbers[WRONG] = 1
        with many:
            pass


def test_what_killed_holders_leave_is_free_and_whole(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice, board, running = random.Random(seed), Board(WRONG + 1), []
    kills = 0
    until = time.monotonic() + 6
    try:
        while time.monotonic() < until:
            while len(running) < 3:
                running.append(Child(labour, board, random.Random(dice.random())))
            time.sleep(dice.random() * 0.03)
            running.pop(dice.randrange(len(running)) if dice.random() < 0.5 else 0).kill()
            kills += 1
            assert Semaphore("many", 2).get_value() <= 2, f"seed {seed}"
            for take in (Lock("l"), RWLock("w").write(), MultiLock(["a", "b", "c"])):
                with take:
                    pass
    finally:
        for child in running:
            child.kill()
    hall.host.bury_dead()
    counts, noted = board.numbers[:EXCLUSIVE].tolist(), board.numbers[EXCLUSIVE:WRONG].tolist()
    wrong = board.numbers[WRONG]
    board.close()
    print(f"seed {seed}: {kills + len(running)} kills, counted {counts}")
    assert not wrong, f"a writer among readers, seed {seed}"
    for count, note in zip(counts, noted):
        assert note <= count <= note + kills + len(running), f"two in one section, seed {seed}"
    assert min(counts) > 0
    assert is_clean(hall), f"seed {seed}"
    assert Semaphore("many", 2).get_value() == 0
    for rest in (Lock("l"), RLock("r"), Semaphore("one"), MultiLock(["a", "b", "c"])):
        assert rest.acquire(timeout=0)
        rest.release()


def test_heirs_of_the_killed_know(hall: Hall) -> None:
    def hold() -> None:
        for take in (RLock("r").acquire, RWLock("w").acquire_read, MultiLock(["a", "b"]).acquire):
            take()
        Event("held").set()
        time.sleep(60)

    holder = Child(hold)
    assert Event("held").wait(10)
    rlock, rw, multi = RLock("r"), RWLock("w"), MultiLock(["b", "c"])
    timer = threading.Timer(0.1, holder.kill)
    timer.start()
    assert rw.acquire_write(timeout=10)
    assert rw.previous_holder_died
    timer.join()
    assert rlock.acquire(timeout=10)  # Free by now: nobody stood in line when its owner died.
    assert not rlock.previous_holder_died
    assert multi.acquire(timeout=10)
    assert multi.fencing_token is not None


# -- semaphores -------------------------------------------------------------------------------------------------------


def test_never_more_than_max_leases_among_processes(hall: Hall) -> None:
    board = Board(1)
    gate = Lock("gate")

    def enter() -> int:
        most, semaphore = 0, Semaphore("s", 3)
        for _ in range(60):
            with semaphore:
                with gate:
                    board.numbers[0] += 1
                    most = max(most, board.numbers[0])
                with gate:
                    board.numbers[0] -= 1
        return most

    children = [Child(enter) for _ in range(5)]
    assert max(child.result() for child in children) <= 3
    assert board.numbers[0] == 0
    board.close()


def test_a_semaphores_number_is_agreed_with_the_first(hall: Hall) -> None:
    first, other = Semaphore("s", 2), Semaphore("s", 3)
    assert first.get_value() == 0
    assert first.acquire()
    assert first.acquire()
    assert first.get_value() == 2
    assert not first.acquire(timeout=0.02)
    with pytest.raises(ValueError, match=r"'s'.*max_leases 3.*2"):
        other.acquire()
    with pytest.raises(NotHeld):
        Semaphore("s", 2).release()
    copy = pickle.loads(pickle.dumps(first))
    assert copy.max_leases == 2
    with pytest.raises(NotHeld):
        copy.release()
    assert first.release()
    assert first.release()
    with pytest.raises(RuntimeError, match="released too often"):
        first.release()


def test_close_ends_waits_and_old_objects_and_makes_room_for_another(hall: Hall) -> None:
    holder, waiter, said = Semaphore("s"), Semaphore("s"), []
    holder.acquire()

    def wait() -> None:
        try:
            waiter.acquire(timeout=10)
        except SemaphoreClosed as error:
            said.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    assert eventually(lambda: hall.host.read(_in_lines) == 1)
    Semaphore("s").close()
    thread.join(5)
    assert len(said) == 1
    for call in (holder.acquire, holder.get_value, waiter.acquire):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    new = Semaphore("s", 5)
    assert new.acquire()
    assert holder.release()
    assert new.get_value() == 1
    new.release()


# -- several names ----------------------------------------------------------------------------------------------------


def test_any_k_of_n(hall: Hall) -> None:
    with MultiLock(["a"]), MultiLock(["a", "b", "c"], num_locks=2) as two:
        assert two.held == ("b", "c")
        assert two.locked()
        rest = MultiLock(["a", "b", "c"])
        assert rest.acquire(timeout=0.02) is False
        assert not rest.locked()
        assert rest.acquire(blocking=False, num_locks=1) is False
    assert rest.acquire(num_locks=1)
    assert rest.held == ("a",)
    with pytest.raises(ValueError, match="holds it already"):
        rest.acquire()
    rest.release()
    with pytest.raises(ValueError, match="released too often"):
        rest.release()
    with Lock("a"), MultiLock(["a"]), RLock("a"), RWLock("a").write(), Semaphore("a"):
        pass
    assert is_clean(hall)


def test_a_request_that_times_out_lets_those_behind_it_in(hall: Hall) -> None:
    got = []
    with MultiLock(["a"]):
        first = threading.Thread(target=lambda: MultiLock(["a", "b"]).acquire(timeout=0.3))
        first.start()
        assert eventually(lambda: hall.host.read(_in_lines) == 1)
        assert not MultiLock(["b"]).acquire(blocking=False), "b is wanted by an earlier request"
        second = threading.Thread(target=lambda: got.append(MultiLock(["b"]).acquire(timeout=10)))
        second.start()
        first.join()
        second.join(5)
        assert got == [True]


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_what_coroutines_hold_survives_cancellation_at_any_moment(hall: Hall) -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    def made() -> list[tuple[Callable[..., Any], Callable[[], Any]]]:
        rw, semaphore = aio.RWLock("w"), aio.Semaphore("s")
        multi, leased = aio.MultiLock(["a", "b", "c"], num_locks=2), aio.Lock("l", lease_s=60)
        return [
            (rw.acquire_read, rw.release_read),
            (rw.acquire_write, rw.release_write),
            (semaphore.acquire, semaphore.release),
            (multi.acquire, multi.release),
            (leased.acquire, leased.release),
        ]

    async def hold(acquire: Callable[..., Any], release: Callable[[], Any]) -> None:
        await acquire()
        try:
            await asyncio.sleep(dice.random() * 0.001)
        finally:
            await release()

    async def hold_again() -> None:
        async with aio.RLock("r"), aio.RLock("r"):
            await asyncio.sleep(dice.random() * 0.001)

    async def main() -> None:
        for _ in range(25):
            calls = [hold(*pair) for _ in range(3) for pair in made()] + [hold_again() for _ in range(3)]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(dice.random() * 0.004)
            for task in dice.sample(tasks, len(tasks) // 2):
                task.cancel()
                if dice.random() < 0.5:
                    await asyncio.sleep(0)
            done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
            for one in done:
                assert one is None or isinstance(one, asyncio.CancelledError), f"{one!r}, seed {seed}"
            assert is_clean(hall), f"seed {seed}"

    asyncio.run(main())


def test_asynchronous_contexts(hall: Hall) -> None:
    async def main() -> None:
        rw = aio.RWLock("w")
        async with rw.read(), rw.read(), aio.Semaphore("s", 2) as semaphore, aio.MultiLock(["a"]) as multi:
            assert semaphore.get_value() == 1
            assert multi.held == ("a",)
            assert await rw.acquire_write(timeout=0.02) is False
            assert await aio.Semaphore("s", 2).acquire(blocking=False) is True
        async with rw.write():
            assert rw.fencing_token is not None
        lock = aio.Lock("l", lease_s=0.05)
        other = aio.Lock("l")

        async def lose_it() -> None:
            async with lock:
                lock.ensure_held()
                await lock.renew()
                assert await other.acquire(timeout=5)

        with pytest.raises(LockLost):
            await lose_it()
        assert other.took_over
        await other.release()
        await semaphore.close()
        with pytest.raises(SemaphoreClosed):
            await semaphore.acquire()

    asyncio.run(main())


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rlock", "semaphore", "multilock", "read", "write", "lease"])
def test_ctrl_c_at_any_moment_leaves_nothing_held(hall: Hall, kind: str) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        rw = RWLock("x")
        context, other, release = {
            "rlock": lambda: (RLock("x"), RLock("y"), RLock("x").release),
            "semaphore": lambda: ((s := Semaphore("x")), Semaphore("x"), s.release),
            "multilock": lambda: ((m := MultiLock(["x", "y"])), MultiLock(["y"]), m.release),
            "read": lambda: (rw.read(), RWLock("x"), rw.release_read),
            "write": lambda: (rw.write(), RWLock("x"), rw.release_write),
            "lease": lambda: (
                (k := Lock("x", lease_s=3600)),
                Lock("x"),
                k.release,
            ),  # Longer than any pause of the machine.
        }[kind]()
        busy = other.acquire_write if isinstance(other, RWLock) else other.acquire

        def step() -> None:
            with context:
                if kind == "rlock":
                    with context:
                        pass
                else:
                    assert not busy(timeout=0.0002)

        def check(place: str) -> None:
            if place in ("__exit__", "step"):  # Before the first line of __exit__ nothing can be done.
                with suppress(NotHeld):
                    release()
                with suppress(NotHeld):
                    release()
            assert is_clean(Holder(hall)), f"{kind}, pressed in {place}, seed {seed}"

        pestered(step, check, 250, seed)

    Child(child).result()


class Holder:
    """The hall as `records` and `is_clean` take it."""

    def __init__(self, hall: Hall) -> None:
        self.host = hall.host


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_statistics_tell_who_holds_and_who_waits(hall: Hall) -> None:
    rw, semaphore, multi = RWLock("w"), Semaphore("s", 2), MultiLock(["a", "b"])
    rlock, lock = RLock("r"), Lock("l", lease_s=60)
    before = time.time()
    with rlock, rlock, lock, rw.read(), semaphore, multi:
        others = [
            threading.Thread(target=call, kwargs={"timeout": 5})
            for call in (RLock("r").acquire, Lock("l").acquire, RWLock("w").acquire_write, MultiLock(["b"]).acquire)
        ]
        for thread in others:
            thread.start()
        assert eventually(lambda: hall.host.read(_in_lines) == 4)
        for one in (rlock, lock, rw, semaphore, multi):
            told = one.statistics()
            assert len(told.holders) == 1
            holder = told.holders[0]
            assert (holder.session, holder.pid) == (hall.host.session, os.getpid())
            assert holder.since is not None
            assert before - 1 < holder.since < time.time() + 1
            assert len(told.waiting) == (one is not semaphore)
            assert all(waiting.pid == os.getpid() for waiting in told.waiting)
        assert rlock.statistics().holders[0].count == 2
        assert (rw.statistics().holders[0].mode, rw.statistics().waiting[0].mode) == ("read", "write")
        assert multi.statistics().holders[0].names == ("a", "b")
        until = lock.statistics().holders[0].until
        assert until is not None
        assert until > time.time() + 30
        assert semaphore.statistics().capacity == 2
    for thread in others:
        thread.join()


def test_they_pickle_by_name_into_tasks(client: Client) -> None:
    rw, semaphore, rlock, multi = RWLock("pw"), Semaphore("ps", 2), RLock("pr"), MultiLock(["pa", "pb"], 1)

    def inside() -> list[Any]:
        return [
            rw.acquire_write(timeout=0.05),
            semaphore.acquire(timeout=0.05),
            semaphore.release(),
            rlock.acquire(timeout=0.05),
            multi.acquire(timeout=0.05),
            multi.held,
            multi.release(),
        ]

    with rw.read(), semaphore, rlock, multi:
        assert client.submit(inside).result(timeout=20) == [False, True, True, False, True, ("pb",), True]


def test_increments_of_tasks_under_each_of_them_are_all_there(client: Client) -> None:
    from guildhall import Variable

    def add(kind: str) -> None:
        take: Any = {
            "rlock": lambda: RLock("ir"),
            "write": lambda: RWLock("iw").write(),
            "semaphore": lambda: Semaphore("is"),
            "multilock": lambda: MultiLock(["i", "j"]),
        }[kind]()
        for _ in range(20):
            with take:
                Variable(kind).set(Variable(kind).get() + 1)

    for kind in ("rlock", "write", "semaphore", "multilock"):
        Variable(kind).set(0)
        client.gather([client.submit(add, kind) for _ in range(6)])
        assert Variable(kind).get() == 120, kind


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultiLock("abc"), "names.*str"),
        (lambda: MultiLock(b"abc"), "names.*bytes"),
        (lambda: MultiLock(7), "names.*int"),
        (lambda: MultiLock([]), "no names"),
        (lambda: MultiLock(["a", "b", "a"]), "'a' is given twice"),
        (lambda: MultiLock([["a"], ("a",)]), "given twice"),
        (lambda: MultiLock([object()]), "multilock name"),
        (lambda: MultiLock(["a"], num_locks=2), "num_locks 2.*1 to 1"),
        (lambda: MultiLock(["a"], num_locks=0), "num_locks 0"),
        (lambda: MultiLock(["a"], num_locks=True), "num_locks"),
        (lambda: MultiLock(["a"]).acquire(num_locks=3), "num_locks 3"),
        (lambda: MultiLock(["a"]).acquire(blocking=False, timeout=1), "blocking"),
        (lambda: Semaphore("s", 0), "max_leases 0"),
        (lambda: Semaphore("s", -1), "max_leases -1"),
        (lambda: Semaphore("s", 1.5), "max_leases.*1.5"),
        (lambda: Semaphore("s", True), "max_leases"),
        (lambda: Semaphore("s", 1 << 70), "max_leases"),
        (lambda: Semaphore("s").acquire(timeout=-1), "timeout"),
        (lambda: RLock("r").acquire(timeout=float("nan")), "timeout"),
        (lambda: RLock("r").acquire(False, 1), "blocking"),
        (lambda: RWLock("w").acquire_read(timeout="soon"), "timeout"),
        (lambda: RWLock("w").acquire_write(blocking=False, timeout=0), "blocking"),
        (lambda: RWLock("w").release_read(), "released too often"),
        (lambda: RWLock("w").release_write(), "released too often"),
        (lambda: Lock("l", lease_s=0), "lease_s"),
        (lambda: Lock("l", lease_s=-3), "-3"),
        (lambda: Lock("l", lease_s="long"), "long"),
        (lambda: RLock(object()), "rlock name"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(hall: Hall, make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
    assert is_clean(hall)


def test_errors_survive_pickling() -> None:
    for error in (LockLost("lost"), SemaphoreClosed("closed")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert isinstance(copy, RuntimeError)
        assert isinstance(copy, guildhall.GuildhallError)
