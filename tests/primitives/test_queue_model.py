"""Queues over the memory store against plain-Python models: `queue.Queue`, `queue.PriorityQueue`, and redelivery."""

from __future__ import annotations

import queue as standard
import random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from guildhall.client.handles.statistics import of_queue
from guildhall.primitives import delivery, queue, sessions, waiters
from guildhall.primitives.op import BUSY, PARKED
from guildhall.primitives.queue import CLOSED
from guildhall.store.keys import name_of, pack_int, pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N = pack_name("test", "n")
DEAD = queue.dead_letters(N)


def packed(text: str) -> bytes:
    """As a pickle begins: what begins so can be left in place while it is in hand."""
    return b"\x80" + text.encode()


def text_of(item: bytes) -> str:
    return queue.value_of(item)[1:].decode()


class QueueModel(RuleBasedStateMachine):
    """What is in the queue, as a list of (rank, number, text, deliveries), and who has or waits for what.

    Takers and getters are sessions; a death buries one and brings a new one. Getters wait one at a time for each
    session, so that the model of the line is a plain list.
    """

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self.now = 1000.0
        self.numbers = 0
        self.ready: list[tuple[float, int, str, int]] = []
        self.later: list[tuple[float, tuple[float, int, str, int]]] = []
        self.taken: dict[tuple[int, bytes, int], tuple[float, int, str, int]] = {}
        self.hands: dict[int, tuple[Any, list[tuple[float, int, str, int]]]] = {}
        self.marks: dict[int, int] = {}
        self.spent: dict[int, bytes] = {}
        self.waiting: list[tuple[str, int, Waiter, int]] = []
        self.putting: list[tuple[Waiter, str]] = []
        self.granted: dict[Waiter, Any] = {}
        self.done = 0
        self.dead: list[str] = []
        self.closed = False
        self.waits = 0
        self.living = [1, 2, 3]
        self.next_session = 4
        for number in self.living:
            self._join(number)

    def _join(self, session: int) -> None:
        self.store.transact(sessions.join, sessions.Session(session, 100 + session, "process"))
        self.marks[session] = 0

    @initialize(maxsize=st.sampled_from([0, 0, 1, 3]), limit=st.sampled_from([0, 0, 1, 2]))
    def begin(self, maxsize: int, limit: int) -> None:
        self.maxsize, self.limit = maxsize, limit
        self.store.transact(queue.register, N, maxsize, limit)

    # -- the model ----------------------------------------------------------------------------------------------------

    def _ripen(self) -> None:
        due = [entry for entry in self.later if entry[0] <= self.now]
        self.later = [entry for entry in self.later if entry[0] > self.now]
        self.ready = sorted(self.ready + [item for _, item in due])

    def _is_over(self) -> bool:
        return self.closed and not self.later and not self.taken

    def _load(self) -> int:
        return len(self.ready) + len(self.later)

    def _serve(self) -> None:
        moved = True
        while moved:
            moved = False
            want = self.waiting[0][3] if self.waiting else 0
            if self.waiting and (len(self.ready) >= want or self._is_over()):
                kind, session, waiter, _ = self.waiting.pop(0)
                batch, self.ready = self.ready[:want], self.ready[want:]
                self.granted[waiter] = (kind, session, batch)
                moved = True
            elif self.putting and self.closed:
                self.granted[self.putting.pop(0)[0]] = ("put", 0, CLOSED)
                moved = True
            elif self.putting and self._load() < max(self.maxsize, want):
                waiter, text = self.putting.pop(0)
                self._append(text, 0.0, 0.0)
                self.granted[waiter] = ("put", 0, True)
                moved = True

    def _append(self, text: str, rank: float, due: float) -> None:
        item = (rank, self.numbers, text, 0)
        self.numbers += 1
        if due:
            self.later.append((due, item))
        else:
            self.ready = sorted([*self.ready, item])

    def _waiter(self, session: int) -> Waiter:
        self.waits += 1
        return Waiter(session, self.waits, 0)

    def _is_full(self) -> bool:
        want = self.waiting[0][3] if self.waiting else 0
        return bool(self.maxsize) and (self._load() >= max(self.maxsize, want) or bool(self.putting))

    # -- putting ------------------------------------------------------------------------------------------------------

    @rule(
        rank=st.sampled_from([0, 0, 0, 0, -1.5, 1, 2]), delay=st.sampled_from([0, 0, 0, 1, 5]), pick=st.integers(0, 2)
    )
    def put(self, rank: float, delay: float, pick: int) -> None:
        text, due = f"item {self.numbers + len(self.putting)}", self.now + delay if delay else 0.0
        item = queue.item(packed(text), rank, due)
        is_full = self._is_full()
        if self.closed:
            assert self.store.transact(queue.put, N, self.maxsize, item, None) is CLOSED
        elif is_full and (rank or due):
            assert self.store.transact(queue.put, N, self.maxsize, item, None) is BUSY
        elif is_full:
            waiter = self._waiter(self.living[pick])
            assert self.store.transact(queue.put, N, self.maxsize, item, waiter) is PARKED
            self.putting.append((waiter, text))
        else:
            assert self.store.transact(queue.put, N, self.maxsize, item, None) is True
            self._append(text, rank, due)
            self._serve()

    @precondition(lambda self: not self.closed)
    @rule(count=st.integers(0, 4))
    def put_many(self, count: int) -> None:
        texts = [f"item {self.numbers + at}" for at in range(count)]
        assert self.store.transact(queue.put_many, N, [packed(text) for text in texts]) is True
        for text in texts:
            self._append(text, 0.0, 0.0)
        self._serve()

    # -- getting ------------------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 2), want=st.sampled_from([0, 1, 1, 1, 2, 3]), waits=st.booleans(), arrives=st.booleans())
    def get(self, pick: int, want: int, waits: bool, arrives: bool) -> None:
        session = self.living[pick]
        waiter = self._waiter(session) if waits and not self._waits(session) else None
        number = self._next_get(session)
        answer = self.store.transact(queue.get, N, self.maxsize, want, session, waiter, self.now, *self._hand(session))
        expected = self._expected(want, waiter, "get")
        self._check(answer, expected)
        if isinstance(expected, list):
            self._in_hand(session, number, answer, expected, arrives)
        self._serve()

    def _expected(self, want: int, waiter: Waiter | None, kind: str) -> Any:
        self._ripen()
        self._serve()
        if self._is_over():
            want = min(want, len(self.ready))
            if not self.ready:
                return CLOSED
        if want == 0 or (len(self.ready) >= want and not self.waiting):
            count = want or len(self.ready)
            batch, self.ready = self.ready[:count], self.ready[count:]
            return batch
        if waiter is None:
            return BUSY
        self.waiting.append((kind, waiter.session, waiter, want))
        return PARKED

    def _check(self, answer: Any, expected: Any) -> None:
        if isinstance(expected, list):
            items = answer[1:] if isinstance(answer, tuple) else answer.items
            assert [text_of(item) for item in items] == [text for _, _, text, _ in expected]
        else:
            assert answer is expected

    def _next_get(self, session: int) -> int:
        """A thread's get ends before its next begins: what was in hand has arrived, or was taken back."""
        if session in self.hands:
            self._in_hand(session, self.marks[session] + 1, *self.hands.pop(session), True)
        return self.marks[session] + 1

    def _hand(self, session: int) -> tuple[bytes, int, bytes]:
        return pack_int(session) + pack_int(0), self.marks[session] + 1, self.spent.get(session, b"")

    def _in_hand(self, session: int, number: int, answer: Any, batch: list[Any], arrives: bool) -> None:
        if not arrives:
            self.hands[session] = answer, batch
            return
        self.marks[session] = number
        if isinstance(answer, tuple):
            self.spent[session] = answer[0]
        else:
            self.store.transact(delivery.received, pack_int(session) + pack_int(0), number)

    def _waits(self, session: int) -> bool:
        return any(waiting[1] == session for waiting in self.waiting)

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def interrupt_the_get(self, data: Any) -> None:
        session = data.draw(st.sampled_from(sorted(self.hands)))
        self.store.transact(delivery.take_back, pack_int(session) + pack_int(0), self.marks[session] + 1)
        self.ready = sorted(self.ready + self.hands.pop(session)[1])
        self.marks[session] += 1
        self._serve()

    @precondition(lambda self: self.hands)
    @rule(data=st.data())
    def cannot_read(self, data: Any) -> None:
        session = data.draw(st.sampled_from(sorted(self.hands)))
        _, batch = self.hands.pop(session)
        bad = data.draw(st.integers(0, len(batch))) if batch else 0
        self.store.transact(delivery.sort_out, pack_int(session) + pack_int(0), self.marks[session] + 1, [bad])
        self.marks[session] += 1
        for place, item in enumerate(batch):
            if place == bad:
                self.dead.append(item[2])
                self._finish()
            else:
                self.ready = sorted([*self.ready, item])
        self._serve()

    # -- taking -------------------------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 2), waits=st.booleans())
    def take(self, pick: int, waits: bool) -> None:
        session = self.living[pick]
        waiter = self._waiter(session) if waits and not self._waits(session) else None
        answer = self.store.transact(delivery.take, N, self.maxsize, session, 1, 0, waiter, self.now)
        expected = self._expected(1, waiter, "take")
        if isinstance(expected, list):
            self._is_taken(session, answer, expected[0])
        else:
            assert answer is expected
        self._serve()

    def _is_taken(self, session: int, parcel: Any, item: tuple[float, int, str, int]) -> None:
        rank, number, text, deliveries = item
        assert (text_of(parcel.value), parcel.deliveries) == (text, deliveries + 1)
        self.taken[session, parcel.position, parcel.deliveries] = (rank, number, text, deliveries + 1)

    @precondition(lambda self: self.taken)
    @rule(data=st.data(), how=st.sampled_from(["ack", "nack", "nack later", "condemn"]))
    def end(self, data: Any, how: str) -> None:
        one = data.draw(st.sampled_from(sorted(self.taken)))
        session, position, deliveries = one
        if how == "ack":
            assert self.store.transact(delivery.ack, N, session, position, deliveries)
            assert not self.store.transact(delivery.ack, N, session, position, deliveries)
            self.taken.pop(one)
            self._finish()
        elif how == "condemn":
            self.store.transact(delivery.condemn, N, session, position, deliveries)
            self.dead.append(self.taken.pop(one)[2])
            self._finish()
        else:
            due = self.now + 3 if how == "nack later" else 0.0
            assert self.store.transact(delivery.nack, N, session, position, deliveries, due)
            assert not self.store.transact(delivery.nack, N, session, position, deliveries)
            self._give_back(self.taken.pop(one), due)
        self._serve()

    def _give_back(self, item: tuple[float, int, str, int], due: float = 0.0) -> None:
        if self.limit and item[3] >= self.limit:
            self.dead.append(item[2])
            self._finish()
        elif due:
            self.later.append((due, item))
        else:
            self.ready = sorted([*self.ready, item])

    # -- waiting ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.granted)
    @rule(data=st.data(), leaves=st.booleans())
    def collect(self, data: Any, leaves: bool) -> None:
        waiter = data.draw(st.sampled_from(sorted(self.granted)))
        assert self.store.read(waiters.is_granted, waiter)
        kind, session, batch = self.granted.pop(waiter)
        if kind == "put":
            assert self.store.transact(queue.collect_put, waiter) is batch
        elif leaves:
            self.store.transact(queue.withdraw_get, N, waiter)
            self.ready = sorted(self.ready + batch)
        elif kind == "get":
            number = self._next_get(session)
            answer = self.store.transact(queue.collect, N, waiter, *self._hand(session))
            self._check(answer, batch or CLOSED)
            if batch:
                self._in_hand(session, number, answer, batch, True)
        elif batch:
            self._is_taken(session, self.store.transact(delivery.collect, N, waiter, 1, 0), batch[0])
        else:
            assert self.store.transact(delivery.collect, N, waiter, 1, 0) is CLOSED
        self._serve()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        place = data.draw(st.integers(0, len(self.waiting) - 1))
        _, _, waiter, _ = self.waiting.pop(place)
        assert self.store.transact(queue.leave_get, N, waiter)
        self._serve()

    # -- dying, time, closing -----------------------------------------------------------------------------------------

    @rule(pick=st.integers(0, 2))
    def die(self, pick: int) -> None:
        session = self.living[pick]
        self.living[pick] = self.next_session
        self._join(self.next_session)
        self.next_session += 1
        self.waiting = [waiting for waiting in self.waiting if waiting[1] != session]
        self.putting = [putting for putting in self.putting if putting[0].session != session]
        back = [item for waiter, (_, whose, batch) in self.granted.items() if whose == session for item in batch]
        self.granted = {w: g for w, g in self.granted.items() if w.session != session}
        self.ready = sorted(self.ready + back)
        self._lose(session)
        self.store.transact(sessions.bury, session, 0, (), 0.0, [self.marks[session]])
        self._serve()

    def _lose(self, session: int) -> None:
        for one in sorted(one for one in self.taken if one[0] == session):
            self._give_back(self.taken.pop(one))
        for rank, number, text, deliveries in self.hands.pop(session, (None, []))[1]:
            if deliveries + 1 >= delivery.DEATHS_IN_HAND:
                self.dead.append(text)
                self._finish()
            else:
                self.ready = sorted([*self.ready, (rank, number, text, deliveries + 1)])

    @rule(seconds=st.sampled_from([0.5, 2, 10]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.store.transact(queue.ripen, N, self.now)
        self._ripen()
        self._serve()

    @rule(dice=st.integers(0, 5))
    def close_or_reopen(self, dice: int) -> None:
        if dice == 0:
            self.store.transact(queue.close, N, self.maxsize)
            self.closed = True
            self._serve()
        elif dice < 4:
            self.store.transact(queue.reopen, N)
            self.closed = False

    def _finish(self) -> None:
        """As `task_done` for one more; who said so too early has said it for another's."""
        self.done = min(self.done + 1, self.numbers)

    @precondition(lambda self: self.numbers > self.done)
    @rule()
    def task_done(self) -> None:
        self.store.transact(queue.task_done, N)
        self._finish()

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def the_numbers_agree(self) -> None:
        if not hasattr(self, "maxsize"):
            return
        told = self.store.read(of_queue, "n", N, self.maxsize)
        assert told.size == len(self.ready)
        assert told.delayed == len(self.later)
        assert told.unacked == len(self.taken)
        assert told.dead == len(self.dead)
        assert (told.getters, told.putters) == (len(self.waiting), len(self.putting))
        assert told.closed == self.closed
        assert told.unfinished == self.numbers - self.done
        record = self.store.read(queue.look, N)
        assert record.more is None or bool(record.more.due) == bool(self.later)
        found = [*self.store.read(lambda txn: txn.scan(queue.AHEAD + N))]
        assert record.ahead == len(found)
        found += [
            pair
            for pair in self.store.read(lambda txn: txn.scan(queue.ITEMS + N))
            if pair[0][3 + len("n") + 1] >= 0x20 or pair[0][len(queue.ITEMS + N) :] >= pack_int(record.first)
        ]
        assert [text_of(data) for _, data in found] == [text for _, _, text, _ in self.ready]

    def teardown(self) -> None:
        """When all are dead, what is left is what the model has, and nothing else is in the store."""
        if hasattr(self, "maxsize"):
            for pick in range(3):
                self.die(pick)
            self.now += 1000
            self.store.transact(queue.reopen, N)
            self._ripen()
            batch = self.store.transact(queue.get, N, 0, 0, 9, None, self.now)
            self._check(batch, self.ready)
            left = {key[:1] for key in self.store.keys}
            assert left <= {b"\x01", b"\x02", queue.QUEUES, queue.ITEMS}, left
            assert all(key.startswith(queue.ITEMS + DEAD) for key in self.store.keys if key[:1] == queue.ITEMS)


QueueModel.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_queue_does_as_its_model = QueueModel.TestCase


def test_random_programs_do_as_the_standard_queues() -> None:
    """As `queue.PriorityQueue` of (priority, count) and, where all priorities are equal, as `queue.Queue`."""
    for seed in range(2000):
        dice = random.Random(seed)
        store, maxsize = MemoryStore(), dice.choice([0, 0, 2, 5])
        ranks = dice.choice([[0], [0, 0, 1], [-2, -1, 0, 0.5, 3]])
        ours: list[Any] = []
        theirs: list[Any] = []
        twin: Any = standard.Queue(maxsize) if ranks == [0] else standard.PriorityQueue(maxsize)
        for count in range(dice.randrange(1, 40)):
            if dice.random() < 0.55:
                rank = dice.choice(ranks)
                item = queue.item(str(count).encode(), rank)
                ours.append(store.transact(queue.put, N, maxsize, item, None))
                try:
                    twin.put_nowait((rank, count))
                    theirs.append(True)
                except standard.Full:
                    theirs.append(BUSY)
            else:
                batch = store.transact(queue.get, N, maxsize, 1, 1, None)
                ours.append(batch if batch is BUSY else batch.items[0])
                try:
                    theirs.append(str(twin.get_nowait()[1]).encode())
                except standard.Empty:
                    theirs.append(BUSY)
            assert ours == theirs, f"seed {seed}"
            assert store.read(queue.size, N) == twin.qsize(), f"seed {seed}"


def test_the_dead_letters_have_the_name_that_a_handle_packs() -> None:
    for name in ("n", b"n", 7, ("a", ("b", 2.5)), "a\0b"):
        packed = pack_name("queue", name)
        assert queue.dead_letters(packed) == pack_name("queue", (name, "dead letters"))
        assert name_of(queue.dead_letters(packed)) == (name, "dead letters")


def test_nobody_is_served_before_all_that_the_dead_had_is_back() -> None:
    """Found by the model: a waiter got the item granted to the dead, and then the one that it had taken came back."""
    store = MemoryStore()
    for session in (1, 2):
        store.transact(sessions.join, sessions.Session(session, 100 + session, "process"))
    store.transact(queue.put_many, N, [packed("first")])
    store.transact(delivery.take, N, 0, 1, 1, 0, None)
    assert store.transact(queue.get, N, 0, 1, 1, Waiter(1, 1, 0)) is PARKED
    store.transact(queue.put_many, N, [packed("second")])
    assert store.transact(queue.get, N, 0, 1, 2, Waiter(2, 1, 0)) is PARKED
    store.transact(sessions.bury, 1)
    batch: Any = store.transact(queue.collect, N, Waiter(2, 1, 0))
    assert [text_of(item) for item in batch.items] == ["first"]
