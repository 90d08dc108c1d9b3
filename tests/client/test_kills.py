"""Processes killed at random moments, most of them inside a transaction; every promise is checked after every kill."""

from __future__ import annotations

import mmap
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from faults import Child, eventually

import guildhall
from guildhall import Client, Event, Lock, Queue, Variable
from guildhall.primitives import lock, queue, sessions, waiters
from guildhall.primitives.op import Answer
from guildhall.store.keys import pack_name

LEFT, RIGHT = pack_name("queue", "left"), pack_name("queue", "right")
STONES = 40
LABOURERS = 3
TAKEN_ROOM = 1 << 16


class Board:
    """What one labourer did, in memory that survives it: numbers only grow."""

    READY, COUNTED, SET, PUT, TAKEN = range(5)

    def __init__(self) -> None:
        # One store for each number: struct.pack_into writes zeros first, and a labourer may be read or killed there.
        self._memory = mmap.mmap(-1, 64 + 8 * TAKEN_ROOM)
        self._numbers = memoryview(self._memory).cast("q")

    def __getitem__(self, place: int) -> int:
        return int(self._numbers[place])

    def __setitem__(self, place: int, value: int) -> None:
        self._numbers[place] = value

    def take(self, item: int) -> None:
        count = self[self.TAKEN]
        self._numbers[8 + count] = item
        self[self.TAKEN] = count + 1

    def taken(self) -> list[int]:
        return self._numbers[8 : 8 + self[self.TAKEN]].tolist()

    def close(self) -> None:
        self._numbers.release()
        self._memory.close()


def carry(txn: Any, source: bytes, target: bytes) -> None:
    """One stone from one queue to another, in one transaction."""
    got = queue.get(txn, source, 0, 1, 0, None)
    if not isinstance(got, Answer):
        queue.put_many(txn, target, got.items)


def labour(hall: Any, number: int, board: Board, dice: random.Random) -> None:
    """Everything at once, for ever. An item is labourer * 2**32 + 2 * round, and that plus one."""
    lock, counter, pairs = Lock("l", hall=hall), Variable("c", hall=hall), Queue("pairs", hall=hall)
    narrow, mine = Queue("narrow", 1, hall=hall), Variable(f"v{number}", hall=hall)
    host = hall.host
    done = 0
    while True:
        with lock:
            token = lock.fencing_token
            before, count = counter.get()
            if token is None or before >= token:
                Variable("wrong", hall=hall).set((before, token))
            counter.set((token, count + 1))
        board[board.COUNTED] += 1
        mine.set(done + 1)
        board[board.SET] = done + 1
        item = number << 32 | 2 * done
        pairs.put_many([item, item + 1])
        board[board.PUT] = done + 1
        done += 1
        board[board.READY] = 1
        for _ in range(2):
            board.take(pairs.get(timeout=30))
        host.transact(carry, *((LEFT, RIGHT) if dice.random() < 0.5 else (RIGHT, LEFT)))
        narrow.put(done, timeout=30)
        narrow.get(timeout=30)


class Yard:
    """Labourers in one hall, and what must be true whenever one of them was killed."""

    def __init__(self, hall: Any, seed: int) -> None:
        self.hall, self.seed, self.dice = hall, seed, random.Random(seed)
        self.counter, self.lock = Variable("c", hall=hall), Lock("l", hall=hall)
        self.kills = self.numbers = self.buried_counts = self.late = 0
        self.running: list[tuple[int, int, Board]] = []
        self.put: dict[int, int] = {}
        self.taken: list[int] = []
        self.counter.set((0, 0))
        Variable("wrong", hall=hall).set(None)
        Queue("left", hall=hall).put_many(range(STONES))

    def hire(self) -> None:
        self.numbers += 1
        board, dice = Board(), random.Random(self.seed * 1_000_003 + self.numbers)
        pid = os.fork()
        if not pid:
            try:
                labour(self.hall, self.numbers, board, dice)
            finally:
                os._exit(1)
        self.running.append((pid, self.numbers, board))

    def kill(self) -> None:
        """Kill the labourer that worked longest (sometimes one that is only joining), at a random moment."""
        place = 0 if self.dice.random() < 0.9 else len(self.running) - 1
        pid, number, board = self.running[place]
        if place == 0:
            assert eventually(lambda: board[board.READY], 10), f"a labourer hangs, {self}"
        time.sleep(self.dice.random() ** 2 * 0.005)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert status == signal.SIGKILL, f"a labourer ended by itself, status {status}, {self}"
        del self.running[place]
        self.kills += 1
        self.check_one(number, board)
        self.put[number] = board[board.PUT]
        self.buried_counts += board[board.COUNTED]
        self.taken += board.taken()
        self.late += self._overtaken(board.taken())
        board.close()

    def check_one(self, number: int, board: Board) -> None:
        began = time.monotonic()
        assert self.lock.acquire(timeout=10), f"a dead holder kept the lock, {self}: {self.who_holds_it()}"
        assert time.monotonic() - began < 2, f"the lock came late, {self}"
        count = self.counter.get()[1]
        acked = self.buried_counts + board[board.COUNTED] + sum(b[b.COUNTED] for _, _, b in self.running)
        self.lock.release()
        assert acked - len(self.running) <= count <= acked + self.kills + len(self.running), f"counts lost, {self}"
        if board[board.SET]:
            value = Variable(f"v{number}", hall=self.hall).get(timeout=0)
            assert value in (board[board.SET], board[board.SET] + 1), f"a set is lost, {self}"
        left, right = self.hall.host.read(lambda txn: (queue.size(txn, LEFT), queue.size(txn, RIGHT)))
        assert left + right == STONES, f"{left} + {right} stones, {self}"

    def who_holds_it(self) -> str:
        """For the failure's message: the lock, who stands in line, who is in the hall and alive."""
        host = self.hall.host
        held = host.read(lock.look, pack_name("lock", "l"))
        line = host.read(lambda txn: list(txn.scan(waiters.LINES)))
        alive = [(s.number, s.pid, host._members.is_alive(s.number)) for s in host.read(sessions.everybody)]
        return f"{held}, in line {line}, sessions {alive}, mine {host.session}, running {[r[:2] for r in self.running]}"

    @staticmethod
    def _overtaken(items: list[int]) -> int:
        """How many came behind a later one of the same producer."""
        last: dict[int, int] = {}
        late = 0
        for item in items:
            late += item <= last.get(item >> 32, -1)
            last[item >> 32] = max(item, last.get(item >> 32, -1))
        return late

    def check_all(self) -> None:
        """When all are dead: what was put is in the queue, or was taken once; only the dead took without telling."""
        assert Variable("wrong", hall=self.hall).get() is None, f"two holders, {self}"
        rest = Queue("pairs", hall=self.hall).get(batch=True)
        assert not self._overtaken(rest), f"items of one producer overtook each other, {self}"
        # One that was on its way to the dead comes back when it is buried; others may have got later ones meanwhile.
        assert self.late <= self.kills, f"{self.late} items were overtaken, {self}"
        found = self.taken + rest
        assert len(set(found)) == len(found), f"an item came twice, {self}"
        there = set(found)
        told = {n << 32 | half for n, rounds in self.put.items() for half in range(2 * rounds)}
        assert len(told - there) <= self.kills, f"items lost, {self}"
        for item in there - told:
            assert item >> 1 == self.put[item >> 32] | (item >> 32) << 31, f"an item nobody put, {self}"
        stones = [*Queue("left", hall=self.hall).get(batch=True), *Queue("right", hall=self.hall).get(batch=True)]
        assert sorted(stones) == list(range(STONES)), f"stones changed, {self}"
        assert not self.lock.locked(), f"the lock is not free, {self}"

    def __repr__(self) -> str:
        return f"seed {self.seed}, kill {self.kills}"


def kill_labourers(kills: int, seconds: float, seed: int) -> int:
    """Kill so many, or as many as there is time for. Returns how many."""
    until = time.monotonic() + seconds
    with guildhall.open() as hall:
        yard = Yard(hall, seed)
        try:
            while yard.kills < kills and time.monotonic() < until:
                while len(yard.running) < LABOURERS:
                    yard.hire()
                yard.kill()
            while yard.running:
                yard.kill()
            yard.check_all()
        finally:
            for pid, _, _ in yard.running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        again = "import sys, guildhall; print(guildhall.Queue('left', hall=guildhall.open(sys.argv[1])).qsize())"
        assert subprocess.check_output([sys.executable, "-c", again, hall.path], text=True) == "0\n", repr(yard)
        print(f"{yard.late} items were overtaken, {yard}")
        return yard.kills


def test_what_killed_processes_leave_is_whole_and_usable() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}: {kill_labourers(600, 120, seed)} kills")


@pytest.mark.chaos
def test_what_killed_processes_leave_is_whole_for_minutes() -> None:
    seed = random.randrange(1 << 30)
    kills = kill_labourers(1 << 30, float(os.environ.get("CHAOS_S", "300")), seed)
    print(f"seed {seed}: {kills} kills")


def test_waiters_proceed_soon_after_the_holder_is_killed() -> None:
    took = []
    with guildhall.open() as hall:
        lock, ready = Lock("held", hall=hall), Event("held", hall=hall)

        def hold() -> None:
            Lock("held", hall=hall).acquire()
            ready.set()
            time.sleep(60)

        for _ in range(50):
            ready.clear()
            holder = Child(hold)
            assert ready.wait(10)

            def wait() -> float:
                held = Lock("held", hall=hall).acquire(timeout=10)
                return time.monotonic() if held else float("inf")

            waiter = Child(wait)
            time.sleep(0.02)
            killed = time.monotonic()
            os.kill(holder.pid, signal.SIGKILL)
            took.append(waiter.result() - killed)
            holder.kill()
            assert lock.acquire(timeout=10)
            assert lock.release()
    print(
        f"a waiter learns of a death within {statistics.median(took) * 1000:.1f} ms (median), {max(took):.3f} s (worst)"
    )
    assert max(took) < 1


def test_ten_thousand_tasks_whose_workers_are_killed_at_random_are_each_in_the_results_once() -> None:
    dice, kills, is_over = random.Random(), 0, threading.Event()

    def after_a_moment(
        n: int,
    ) -> int:  # Not of a module, which every new worker would import, for longer than it lives.
        time.sleep(0.001)
        return n

    with Client(n_workers=3) as client:

        def kill() -> None:
            nonlocal kills
            while not is_over.wait(dice.uniform(0.05, 0.15)):
                alive = [one for one in client.cluster.pool.processes if one.has_joined and not one.has_ended]
                if alive:
                    dice.choice(alive).strike()
                    kills += 1

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            futures = client.map(after_a_moment, range(10_000))
            assert client.gather(futures) == list(range(10_000))
        finally:
            is_over.set()
            killer.join()
        print(f"{kills} kills")
        assert kills > 10
        assert client.gather(client.map(abs, range(100))) == list(range(100))
