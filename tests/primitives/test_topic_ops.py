"""Ops of topics over the memory store: each rule by hand, then thousands of random programs against a plain model."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from guildhall.errors import Misuse
from guildhall.primitives import pattern, sessions, subscription, topic, values, waiters
from guildhall.primitives.op import BUSY, PARKED
from guildhall.primitives.subscription import BLOCK, DROP, FREE, OLDEST
from guildhall.primitives.values import FINISHED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N = pack_name("test", "n")
GROUP = pack_name("test", "group")
ONE, TWO, THREE = (values.object_id(session, 1) for session in (1, 2, 3))


@pytest.fixture
def rung() -> list[Waiter]:
    return []


@pytest.fixture
def store(rung: list[Waiter]) -> MemoryStore:
    made = MemoryStore(ring=rung.append)
    for number in (1, 2, 3):
        made.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
    return made


def publish(store: MemoryStore, *texts: str, name: bytes = N, at: float = 0.0, waiter: Waiter | None = None) -> Any:
    return store.transact(topic.publish, name, [text.encode() for text in texts], at, waiter)


def subscribe(store: MemoryStore, member: bytes, *args: Any, name: bytes = N, group: bytes = b"") -> int:
    return store.transact(subscription.subscribe, name, member, group or member, *args)


def fetch(
    store: MemoryStore, member: bytes, limit: int = 99, *, name: bytes = N, group: bytes = b"", **more: Any
) -> Any:
    """The texts fetched, BUSY or PARKED."""
    more.setdefault("waiter", None)
    answer = store.transact(
        lambda txn: subscription.fetch(txn, name, member, group or member, limit, session_of(member), **more)
    )
    return [m.decode() for m in answer.messages] if isinstance(answer, subscription.Fetched) else answer


def lagged(store: MemoryStore, member: bytes) -> int:
    answer = store.transact(subscription.fetch, N, member, member, 99, session_of(member), None)
    assert isinstance(answer, subscription.Fetched)
    return answer.lagged


def session_of(member: bytes) -> int:
    return topic.number_at(member, 0)[0]


def kept(store: MemoryStore, name: bytes = N) -> list[str]:
    return [data.decode() for _, data in store.read(lambda txn: txn.scan(topic.MESSAGES + name))]


# -- who reads what ---------------------------------------------------------------------------------------------------


def test_messages_are_numbered_in_one_order_for_all(store: MemoryStore) -> None:
    subscribe(store, ONE)
    publish(store, "a")
    subscribe(store, TWO)
    publish(store, "b", "c")
    assert fetch(store, ONE) == ["a", "b", "c"]
    answer: Any = store.transact(subscription.fetch, N, TWO, TWO, 1, 2, None)
    assert (answer.start, answer.messages) == (1, [b"b"])


def test_a_message_goes_when_the_last_subscriber_has_read_it(store: MemoryStore) -> None:
    subscribe(store, ONE)
    subscribe(store, TWO)
    publish(store, "a", "b", "c")
    fetch(store, ONE)
    assert kept(store) == ["a", "b", "c"]
    fetch(store, TWO, 2)
    assert kept(store) == ["c"]


def test_the_dead_hold_no_memory(store: MemoryStore) -> None:
    subscribe(store, ONE)
    subscribe(store, TWO)
    publish(store, "a", "b")
    fetch(store, ONE)
    store.transact(sessions.bury, 2)
    assert kept(store) == []


def test_a_topic_without_subscribers_leaves_nothing(store: MemoryStore) -> None:
    before = dict(store.data)
    subscribe(store, ONE)
    publish(store, "a", "b")
    store.transact(subscription.leave, ONE)
    assert store.data == before
    subscribe(store, TWO)
    publish(store, "c")
    assert store.transact(subscription.fetch, N, TWO, TWO, 1, 2, None).start == 0, "its numbers begin anew"


def test_sleeping_subscribers_are_rung_once_each(store: MemoryStore, rung: list[Waiter]) -> None:
    sleepers = [Waiter(session, 7, 1) for session in (1, 2, 3)]
    for member, waiter in zip((ONE, TWO, THREE), sleepers):
        subscribe(store, member)
        assert fetch(store, member, waiter=waiter) is PARKED
    publish(store, "a", "b")
    publish(store, "c")
    assert sorted(rung) == sleepers


def test_who_reads_costs_the_same_beside_many_others() -> None:
    """Counted, not timed: what one fetch and one publish look up and change, beside 2 and beside 200 others."""

    def calls(others: int) -> tuple[int, int]:
        store = MemoryStore()
        for number in range(others + 1):
            member = values.object_id(1, number)
            subscribe(store, member)
        counted = Counted()
        publish(store, "a")
        for number in range(others):
            fetch(store, values.object_id(1, number))
        store.transact(lambda txn: topic.publish(counted.over(txn), N, [b"b"]))
        published, counted.count = counted.count, 0
        last = values.object_id(1, others)
        store.transact(lambda txn: subscription.fetch(counted.over(txn), N, last, last, 1, 1, None))
        return published, counted.count

    assert calls(200) == calls(2)


class Counted:
    """Counts the calls of a transaction's methods, a scan as all that it finds."""

    count = 0

    def over(self, txn: Any) -> Any:
        self._txn = txn
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._txn, name)
        if not callable(method):
            return method

        def counted(*args: Any, **options: Any) -> Any:
            found = method(*args, **options)
            if name == "scan":
                found = list(found)
                self.count += len(found)
            self.count += 1
            return iter(found) if name == "scan" else found

        return counted


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_the_oldest_are_dropped_and_the_subscriber_is_told_once(store: MemoryStore) -> None:
    subscribe(store, ONE, None, DROP, 3)
    for text in "abcdefgh":
        publish(store, text)
    assert kept(store) == ["f", "g", "h"]
    assert lagged(store, ONE) == 5
    publish(store, "i")
    assert lagged(store, ONE) == 0
    assert store.read(topic.look, N).dropped == 5


def test_a_slow_subscriber_with_a_bound_takes_nothing_from_others(store: MemoryStore) -> None:
    subscribe(store, ONE, None, DROP, 1)
    subscribe(store, TWO)
    publish(store, "a", "b", "c")
    assert kept(store) == ["a", "b", "c"]
    assert fetch(store, TWO) == ["a", "b", "c"]
    assert kept(store) == ["c"]
    assert fetch(store, ONE) == ["c"]
    assert kept(store) == []


def test_publishers_wait_in_line_for_a_full_subscriber(store: MemoryStore, rung: list[Waiter]) -> None:
    subscribe(store, ONE, None, BLOCK, 2)
    publish(store, "a", "b")
    assert publish(store, "c") is BUSY
    first, second = Waiter(2, 1, 1), Waiter(3, 1, 1)
    assert publish(store, "c", waiter=first) is PARKED
    assert publish(store, "d", waiter=second) is PARKED
    assert fetch(store, ONE, 1) == ["a"]
    assert rung == [first]
    assert publish(store, "e") is BUSY, "nobody overtakes who stands in line"
    assert fetch(store, ONE) == ["b"]
    assert rung == [first, second]
    assert [fetch(store, ONE), fetch(store, ONE)] == [["c"], ["d"]]
    assert publish(store, "e") == 1


@pytest.mark.parametrize("how", ["dies", "closes"])
def test_publishers_go_on_when_the_full_subscriber_goes(store: MemoryStore, rung: list[Waiter], how: str) -> None:
    subscribe(store, ONE, None, BLOCK, 1)
    subscribe(store, TWO)
    publish(store, "a")
    waiter = Waiter(3, 1, 1)
    publish(store, "b", waiter=waiter)
    if how == "dies":
        store.transact(sessions.bury, 1)
    else:
        store.transact(subscription.leave, ONE)
    assert rung == [waiter]
    assert fetch(store, TWO) == ["a", "b"]


def test_a_publisher_that_leaves_or_dies_in_line_lets_those_behind_it_go_on(
    store: MemoryStore, rung: list[Waiter]
) -> None:
    subscribe(store, ONE, None, BLOCK, 2)
    publish(store, "a")
    oid = values.object_id(2, 9)
    store.transact(values.make, oid, FINISHED, b"data")
    first, second, third = Waiter(2, 1, 1), Waiter(2, 2, 1), Waiter(3, 1, 1)
    large = [values.pack(b"ref", (oid,)), b"c"]
    assert store.transact(topic.publish, N, large, 0.0, first) is PARKED
    assert store.transact(topic.publish, N, large, 0.0, second) is PARKED
    assert publish(store, "d", waiter=third) is PARKED
    store.transact(values.release_for, 2, (oid,))
    assert store.transact(topic.withdraw, N, first, large)
    assert not rung
    assert store.read(values.look, oid) is not None
    store.transact(sessions.bury, 2)
    assert rung == [third]
    assert store.read(values.look, oid) is None
    assert not store.transact(topic.withdraw, N, third, [b"d"])
    assert [fetch(store, ONE), fetch(store, ONE)] == [["a"], ["d"]]


def test_a_subscriber_that_blocks_is_given_few_at_once(store: MemoryStore) -> None:
    subscribe(store, ONE, None, BLOCK, 40)
    publish(store, *[str(number) for number in range(40)])
    assert publish(store, "more") is BUSY
    assert fetch(store, ONE) == ["0", "1"]


def test_a_batch_larger_than_the_bound_waits_until_all_is_read(store: MemoryStore) -> None:
    subscribe(store, ONE, None, BLOCK, 2)
    publish(store, "a")
    assert publish(store, "b", "c", "d") is BUSY
    fetch(store, ONE)
    assert publish(store, "b", "c", "d") == 1
    assert publish(store, "e") is BUSY


def test_the_bound_of_a_topic_is_for_all_who_ask_for_none(store: MemoryStore, rung: list[Waiter]) -> None:
    subscribe(store, ONE)
    subscribe(store, TWO, None, DROP, 9)
    for text in "abcd":
        publish(store, text)
    store.transact(subscription.configure, N, None, (DROP, 2))
    subscribe(store, THREE)
    for text in "efg":
        publish(store, text)
    first: Any = store.transact(subscription.fetch, N, ONE, ONE, 99, 1, None)
    assert ([*first.messages], first.lagged, first.bound) == ([b"f", b"g"], 5, 2)
    third: Any = store.transact(subscription.fetch, N, THREE, THREE, 99, 3, None)
    assert ([*third.messages], third.lagged) == ([b"f", b"g"], 1)
    assert fetch(store, TWO) == [*"abcdefg"]
    store.transact(subscription.configure, N, None, (BLOCK, 1))
    publish(store, "h")
    waiter = Waiter(2, 7, 1)
    assert publish(store, "i", waiter=waiter) is PARKED
    store.transact(subscription.configure, N, None, (FREE, 0))
    assert rung == [waiter]
    assert fetch(store, ONE) == ["h", "i"]


def test_the_settings_of_a_topic_stay_without_subscribers(store: MemoryStore) -> None:
    before = dict(store.data)
    store.transact(subscription.configure, N, None, (DROP, 2))
    subscribe(store, ONE)
    store.transact(subscription.leave, ONE)
    assert store.read(topic.look, N).maxlen == 2
    store.transact(subscription.configure, N, None, (FREE, 0))
    assert store.data == before


# -- history ----------------------------------------------------------------------------------------------------------


def test_history_keeps_the_last_n_without_subscribers(store: MemoryStore) -> None:
    store.transact(subscription.configure, N, 3)
    for text in "abcde":
        publish(store, text)
    assert kept(store) == ["c", "d", "e"]
    store.transact(subscription.configure, N, 1)
    assert kept(store) == ["e"]
    store.transact(subscription.configure, N, 0)
    assert {key[:1] for key in store.keys} <= {sessions.SESSIONS, sessions.MEMBERSHIP[:1]}


@pytest.mark.parametrize(
    ("start", "texts", "lag"),
    [
        (None, [], 0), (OLDEST, ["c", "d", "e", "f"], 0), (4, ["e", "f"], 0), (6, [], 0), (0, ["c", "d", "e", "f"], 2),
        (-1, ["f"], 0), (-99, ["c", "d", "e", "f"], 0), (30.0, ["d", "e", "f"], 0), (30.1, ["f"], 0),
        (0.0, ["c", "d", "e", "f"], 0), (99.0, [], 0),
    ],
)  # fmt: skip
def test_a_late_subscriber_starts_where_it_asks(store: MemoryStore, start: Any, texts: list[str], lag: int) -> None:
    store.transact(subscription.configure, N, 4)
    for texts_then, at in ((("a", "b", "c"), 20.0), (("d", "e"), 30.0), (("f",), 40.0)):
        publish(store, *texts_then, at=at)
    subscribe(store, ONE, start)
    publish(store, "g")
    answer: Any = store.transact(subscription.fetch, N, ONE, ONE, 99, 1, None)
    assert ([m.decode() for m in answer.messages], answer.lagged) == ([*texts, "g"], lag)


def test_a_clock_that_is_set_back_does_not_disorder_history(store: MemoryStore) -> None:
    store.transact(subscription.configure, N, 9)
    publish(store, "a", at=50.0)
    publish(store, "b", at=10.0)
    subscribe(store, ONE, 40.0)
    assert fetch(store, ONE) == ["a", "b"]


def test_a_start_that_was_not_reached_is_refused(store: MemoryStore) -> None:
    with pytest.raises(Misuse, match="only 0 messages"):
        subscribe(store, ONE, 1)


# -- durable subscriptions --------------------------------------------------------------------------------------------


def test_a_durable_subscription_goes_on_where_it_was(store: MemoryStore) -> None:
    subscribe(store, ONE, group=GROUP)
    publish(store, "a", "b", "c")
    assert fetch(store, ONE, group=GROUP) == ["a"]
    assert fetch(store, ONE, group=GROUP, had=0) == ["b"]
    store.transact(subscription.leave, ONE, 1)
    assert kept(store) == ["c"]
    publish(store, "d")
    subscribe(store, TWO, group=GROUP)
    assert fetch(store, TWO, group=GROUP) == ["c"]
    assert fetch(store, TWO, group=GROUP, had=2) == ["d"]


def test_the_message_in_hand_of_a_dead_member_comes_again_first(store: MemoryStore, rung: list[Waiter]) -> None:
    for member in (ONE, TWO, THREE):
        subscribe(store, member, group=GROUP)
    publish(store, "a", "b")
    assert fetch(store, ONE, group=GROUP) == ["a"]
    assert fetch(store, TWO, group=GROUP) == ["b"]
    waiter = Waiter(3, 1, 1)
    assert fetch(store, THREE, group=GROUP, waiter=waiter) is PARKED
    store.transact(sessions.bury, 1)
    assert rung == [waiter]
    publish(store, "c")
    assert fetch(store, THREE, group=GROUP) == ["a"]
    assert fetch(store, THREE, group=GROUP, had=0) == ["c"]
    assert fetch(store, TWO, group=GROUP, had=1) is BUSY
    assert kept(store) == ["c"]


def test_a_message_whose_reply_was_lost_is_given_again(store: MemoryStore) -> None:
    subscribe(store, ONE, group=GROUP)
    publish(store, "a", "b")
    assert fetch(store, ONE, group=GROUP) == ["a"]
    assert fetch(store, ONE, group=GROUP) == ["a"]
    assert fetch(store, ONE, group=GROUP, had=0) == ["b"]
    store.transact(subscription.leave, ONE, 0)
    subscribe(store, TWO, group=GROUP)
    assert fetch(store, TWO, group=GROUP) == ["b"], "it was not had when its member left"


def test_a_durable_subscription_that_nobody_reads_is_bounded(store: MemoryStore, rung: list[Waiter]) -> None:
    subscribe(store, ONE, None, BLOCK, 2, group=GROUP)
    publish(store, "a", "b")
    waiter = Waiter(2, 1, 1)
    assert publish(store, "c", waiter=waiter) is PARKED
    store.transact(sessions.bury, 1)
    assert rung == [waiter]
    for text in "defg":
        publish(store, text)
    assert kept(store) == ["f", "g"]
    subscribe(store, THREE, group=GROUP)
    assert publish(store, "h") is BUSY
    answer: Any = store.transact(subscription.fetch, N, THREE, GROUP, 1, 3, None)
    assert (answer.messages, answer.lagged) == ([b"f"], 5)


def test_unsubscribing_ends_a_durable_subscription_for_all(store: MemoryStore) -> None:
    subscribe(store, ONE, group=GROUP)
    publish(store, "a")
    assert store.transact(subscription.end, N, GROUP)
    assert not store.transact(subscription.end, N, GROUP)
    assert kept(store) == []
    assert fetch(store, ONE, group=GROUP) is None
    store.transact(subscription.leave, ONE)


def test_a_member_of_an_ended_subscription_is_none_of_a_new_one_of_that_name(store: MemoryStore) -> None:
    subscribe(store, ONE, group=GROUP)
    store.transact(subscription.end, N, GROUP)
    subscribe(store, TWO, group=GROUP)
    publish(store, "a")
    assert fetch(store, ONE, group=GROUP) is None
    store.transact(sessions.bury, 1)
    assert fetch(store, TWO, group=GROUP) == ["a"]


# -- patterns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "fits", "others"),
    [
        ("jobs.*", ["jobs.a", "jobs."], ["jobs", "jobs.a.b", "job.a", ".jobs.a"]),
        ("jobs.>", ["jobs.a", "jobs.a.b"], ["jobs", "job.a"]),
        (">", ["a", "a.b"], []),
        ("*", ["a", "jobs"], ["a.b"]),
        ("*.a.*", ["x.a.y", ".a."], ["x.b.y", "x.a", "x.a.y.z"]),
        ("a.*.>", ["a.b.c", "a.b.c.d"], ["a.b", "b.b.c"]),
    ],
)
def test_patterns_fit_as_in_nats(store: MemoryStore, wanted: str, fits: list[str], others: list[str]) -> None:
    key = pack_name("topic", wanted)
    subscribe(store, ONE, name=key)
    for text in [*others, *fits]:
        assert publish(store, text, name=pack_name("topic", text)) == (text in fits)
    assert publish(store, "number", name=pack_name("topic", 5)) == 0
    answer: Any = store.transact(subscription.fetch, key, ONE, ONE, 99, 1, None)
    assert [m.decode() for m in answer.messages] == fits
    assert answer.sources == [pack_name("topic", text) for text in fits]
    assert list(store.read(lambda txn: txn.scan(topic.SOURCES))) == []
    store.transact(subscription.leave, ONE)
    assert store.data.get(pattern.SHAPES) is None


@pytest.mark.parametrize("name", ["a*", "a.b*", ">.a", "a.>b", "", ".", "a", ("*",), b"*", 5])
def test_names_without_a_wildcard_of_their_own_are_no_patterns(name: Any) -> None:
    assert pattern.shape_of(pack_name("topic", name)) == ""


def test_publishing_costs_the_same_beside_many_patterns() -> None:
    def calls(patterns: int) -> int:
        store, counted = MemoryStore(), Counted()
        for number in range(patterns):
            subscribe(store, values.object_id(1, number), name=pack_name("topic", f"user.{number}.*"))
        name = pack_name("topic", "user.1.x")
        assert store.transact(lambda txn: topic.publish(counted.over(txn), name, [b"m"])) == 1
        return counted.count

    assert calls(200) == calls(2)


# -- random programs against a plain model ----------------------------------------------------------------------------


@dataclass
class Reader:
    """A subscription, as the model has it."""

    at: int
    policy: int
    maxlen: int
    lagged: int
    is_durable: bool
    members: set[bytes] = field(default_factory=set)
    held: dict[bytes, int] = field(default_factory=dict)
    returned: list[int] = field(default_factory=list)
    is_own: bool = False

    @property
    def reach(self) -> int:
        return self.maxlen if self.policy == DROP or (self.is_durable and not self.members) else 0

    @property
    def blocks(self) -> bool:
        return self.policy == BLOCK and bool(self.members)

    def needs(self, end: int) -> int:
        lowest = min([self.at, *self.held.values(), *self.returned])
        return max(lowest, end - self.reach) if self.reach else lowest

    def catch_up(self, end: int) -> None:
        floor = end - self.reach if self.reach else 0
        self.lagged += max(0, floor - self.at) + sum(number < floor for number in self.returned)
        self.returned = [number for number in self.returned if number >= floor]
        self.held = {member: number for member, number in self.held.items() if number >= floor}
        self.at = max(self.at, floor)


@dataclass
class Log:
    """A topic, as the model has it: everything that was ever published, and from where on it must still be there."""

    name: bytes
    all: list[bytes] = field(default_factory=list)
    sources: list[bytes] = field(default_factory=list)
    times: list[tuple[int, int, float]] = field(default_factory=list)
    first: int = 0
    keep: int = 0
    bound: tuple[int, int] = (FREE, 0)
    newest: float = 0.0
    readers: dict[bytes, Reader] = field(default_factory=dict)
    line: list[tuple[Waiter, list[bytes], float]] = field(default_factory=list)

    @property
    def end(self) -> int:
        return len(self.all)

    def is_full(self, count: int) -> bool:
        return any(
            self.end + min(count, reader.maxlen) > reader.at + reader.maxlen
            for reader in self.readers.values()
            if reader.blocks
        )

    def trim(self) -> None:
        needs = [reader.needs(self.end) for reader in self.readers.values()]
        self.first = max(self.first, min([self.end - self.keep, *needs]))
        if not self.readers and not self.keep and not self.bound[1]:  # Nothing is left of it: its numbers begin anew.
            self.all, self.sources, self.times, self.first, self.newest = [], [], [], 0, 0.0

    def usual(self, is_durable: bool) -> tuple[int, int]:
        return self.bound if self.bound[1] or not is_durable else (DROP, subscription.DURABLE_MAXLEN)

    def since(self, at: float) -> int:
        return next((max(self.first, a) for a, b, time in self.times if time >= at and b > self.first), self.end)


class Program:
    """Random ops on the store and on the model at once."""

    PLAIN = ("a.b", "a.c", "a.b.c")
    PATTERNS = ("a.*", ">")
    FITS = {"a.*": ("a.b", "a.c"), ">": PLAIN}  # noqa: RUF012

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.rung: list[Waiter] = []
        self.store = MemoryStore(ring=self.rung.append)
        self.logs = {text: Log(pack_name("topic", text)) for text in (*self.PLAIN, *self.PATTERNS)}
        self.members: dict[bytes, tuple[Log, bytes]] = {}
        self.had: dict[bytes, int | None] = {}
        self.parked: dict[bytes, Waiter] = {}
        self.numbers = 0
        self.now = 100.0
        self.granted: set[Waiter] = set()
        self.objects = 0
        for session in (1, 2, 3):
            self.store.transact(sessions.join, sessions.Session(session, 100, "process"))

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    # The model's side of publishing.

    def deliver(self, text: str, messages: list[bytes], at: float) -> int:
        log = self.logs[text]
        heard = [log, *(self.logs[p] for p in self.PATTERNS if text in self.FITS[p])]
        for one in heard:
            if not one.readers and not one.keep:
                continue
            if one.keep:
                one.newest = max(one.newest, at)
                one.times.append((one.end, one.end + len(messages), one.newest))
            one.all += messages
            one.sources += [log.name] * len(messages)
            one.trim()
        return sum(len(one.readers) for one in heard)

    def serve(self, log: Log) -> None:
        log.trim()
        text = next(text for text, one in self.logs.items() if one is log)
        while log.line and not log.is_full(len(log.line[0][1])):
            waiter, messages, at = log.line.pop(0)
            self.granted.add(waiter)
            self.deliver(text, messages, at)

    # Steps.

    def step(self) -> None:
        steps = [self.publish] * 6 + [self.fetch] * 8 + [self.subscribe] * 2
        steps += [self.leave, self.withdraw, self.dice.choice([self.keep, self.bound]), self.end]
        self.dice.choice([*steps, self.bury] if self.dice.random() < 0.2 else steps)()
        self.check()

    def publish(self) -> None:
        text, count = self.dice.choice(self.PLAIN), self.dice.choice((1, 1, 1, 2, 5))
        log, session = self.logs[text], self.dice.choice((1, 2, 3))
        self.now += self.dice.choice((0.0, 1.0, 5.0, -3.0))
        messages = [f"{text} {self.number()}".encode() for _ in range(count)]
        oid = b""
        if self.dice.random() < 0.2:
            oid = values.object_id(session, 10_000 + self.number())
            self.store.transact(values.make, oid, FINISHED, b"data")
            messages[0] = values.pack(messages[0], (oid,))
        waiter = Waiter(session, self.number(), 1) if self.dice.random() < 0.5 else None
        answer = self.store.transact(topic.publish, log.name, messages, self.now, waiter)
        if oid:
            self.store.transact(values.release_for, session, (oid,))
        if log.line or log.is_full(count):
            assert answer is (BUSY if waiter is None else PARKED)
            if waiter is not None:
                log.line.append((waiter, messages, self.now))
        else:
            assert answer == self.deliver(text, messages, self.now)

    def subscribe(self) -> None:
        text = self.dice.choice((*self.PLAIN, *self.PATTERNS))
        log, is_pattern = self.logs[text], text in self.PATTERNS
        member = values.object_id(self.dice.choice((1, 2, 3)), self.number())
        group = pack_name("test", self.dice.choice("xy")) if self.dice.random() < 0.4 else b""
        policy = self.dice.choice((FREE, DROP) if is_pattern else (FREE, DROP, BLOCK))
        maxlen = self.dice.choice((1, 2, 3, 8)) if policy else 0
        start: Any = None
        if not is_pattern:
            start = self.dice.choice(
                (None, OLDEST, self.dice.randint(0, log.end), -self.dice.randint(1, 9), self.now - 4)
            )
        at = self.store.transact(subscription.subscribe, log.name, member, group or member, start, policy, maxlen)
        reader = log.readers.get(group or member)
        if reader is None:
            wanted = {type(None): lambda: log.end, str: lambda: log.first, float: lambda: log.since(start)}.get(
                type(start), lambda: start if start >= 0 else max(log.first, log.end + start)
            )()
            first = max(wanted, log.first)
            is_own = bool(policy)
            if not is_own:
                policy, maxlen = log.usual(bool(group))
            reader = Reader(first, policy, maxlen, first - wanted, bool(group), is_own=is_own)
            log.readers[group or member] = reader
        else:
            reader.catch_up(log.end)
            if policy:
                reader.policy, reader.maxlen, reader.is_own = policy, maxlen, True
        reader.members.add(member)
        assert at == reader.at
        self.members[member] = log, group or member
        self.had[member] = None
        self.serve(log)

    def fetch(self) -> None:
        awake = [member for member in self.members if member not in self.parked]
        if not awake:
            return
        member = self.dice.choice(awake)
        log, subscriber = self.members[member]
        limit, had = self.dice.choice((1, 2, 99)), self.had[member]
        if self.dice.random() < 0.1:
            had = None  # The reply was lost: a durable subscription gives it again.
        waiter = Waiter(session_of(member), self.number(), 1) if self.dice.random() < 0.5 else None
        answer = self.store.transact(
            subscription.fetch, log.name, member, subscriber, limit, session_of(member), waiter, had
        )
        if subscriber not in log.readers or member not in log.readers[subscriber].members:
            assert answer is None
            return
        reader = log.readers[subscriber]
        reader.catch_up(log.end)
        if reader.is_durable:
            numbers = self.next_of(log, reader, member, had)
        else:
            most = 1 if reader.policy == BLOCK else reader.maxlen or limit
            numbers = list(range(reader.at, min(reader.at + min(limit, most), log.end)))
            reader.at += len(numbers)
        if not numbers and not reader.lagged:
            assert answer is (BUSY if waiter is None else PARKED)
            if waiter is not None:
                self.parked[member] = waiter
        else:
            assert isinstance(answer, subscription.Fetched)
            assert [*answer.messages] == [log.all[number] for number in numbers]
            assert answer.lagged == reader.lagged
            assert not numbers or answer.start == numbers[0]
            if log.name in (self.logs[p].name for p in self.PATTERNS):
                assert [*answer.sources] == [log.sources[number] for number in numbers]
            for message in answer.messages:
                self.store.transact(values.release_for, session_of(member), values.uses_of(message))
            if numbers:
                self.had[member] = numbers[-1]
            reader.lagged = 0
        self.serve(log)

    @staticmethod
    def next_of(log: Log, reader: Reader, member: bytes, had: int | None) -> list[int]:
        held = reader.held.pop(member, None)
        if held is not None and held != had:
            number = held
        elif reader.returned:
            number = reader.returned.pop(0)
        elif reader.at < log.end:
            number, reader.at = reader.at, reader.at + 1
        else:
            return []
        reader.held[member] = number
        return [number]

    def leave(self) -> None:
        if self.members:
            member, is_done = self.dice.choice(list(self.members)), self.dice.random() < 0.5
            if member in self.parked:
                self.store.transact(waiters.withdraw, self.parked.pop(member))
            self.store.transact(subscription.leave, member, self.had[member] if is_done else None)
            self.left(member, is_done)

    def left(self, member: bytes, is_done: bool) -> None:
        log, subscriber = self.members.pop(member)
        reader = log.readers.get(subscriber)
        if reader is None or member not in reader.members:
            return
        reader.members.discard(member)
        held = reader.held.pop(member, None)
        if not reader.is_durable:
            del log.readers[subscriber]
        elif held is not None and not is_done:
            reader.returned = sorted([*reader.returned, held])
        self.serve(log)

    def withdraw(self) -> None:
        log = self.dice.choice(list(self.logs.values()))
        if log.line:
            waiter, messages, _ = gone = self.dice.choice(log.line)
            assert self.store.transact(topic.withdraw, log.name, waiter, messages)
            log.line.remove(gone)
            self.serve(log)

    def keep(self) -> None:
        log = self.logs[self.dice.choice(self.PLAIN)]
        log.keep = self.dice.choice((0, 1, 4))
        self.store.transact(subscription.configure, log.name, log.keep)
        log.trim()

    def bound(self) -> None:
        log = self.logs[self.dice.choice(self.PLAIN)]
        log.bound = self.dice.choice([(FREE, 0), (DROP, 2), (DROP, 5), (BLOCK, 2), (BLOCK, 4)])
        self.store.transact(subscription.configure, log.name, None, log.bound)
        for reader in log.readers.values():
            if not reader.is_own:
                reader.catch_up(log.end)
                reader.policy, reader.maxlen = log.usual(reader.is_durable)
        self.serve(log)

    def end(self) -> None:
        log, group = self.dice.choice(list(self.logs.values())), pack_name("test", self.dice.choice("xy"))
        assert self.store.transact(subscription.end, log.name, group) == (group in log.readers)
        if log.readers.pop(group, None):
            self.serve(log)

    def bury(self) -> None:
        session = self.dice.choice((1, 2, 3))
        self.store.transact(sessions.bury, session)
        self.store.transact(sessions.join, sessions.Session(session, 100, "process"))
        for log in self.logs.values():
            log.line = [one for one in log.line if one[0].session != session]
        for log in self.logs.values():
            self.serve(log)
        for member in sorted(self.members):
            if session_of(member) == session:
                self.parked.pop(member, None)
                self.left(member, is_done=False)

    # What must be true after each step.

    def check(self) -> None:
        for log in self.logs.values():
            there = [data for _, data in self.store.read(lambda txn, log=log: txn.scan(topic.MESSAGES + log.name))]
            found = self.store.read(topic.look, log.name)
            assert (found.first, found.end) == (log.first, log.end)
            assert there == log.all[log.first :]
            assert found.subscribers == len(log.readers)
            assert found.blockers == sum(reader.blocks for reader in log.readers.values())
            for waiter, messages, _ in log.line:
                assert not self.store.read(waiters.is_granted, waiter)
                assert log.is_full(len(messages)) or waiter != log.line[0][0]
        for waiter in self.granted:
            assert self.store.read(waiters.is_granted, waiter)
        assert self.granted <= set(self.rung), "who is served is rung"
        assert len(set(self.rung)) == len(self.rung), "nobody is rung twice for one wait"
        for member, waiter in list(self.parked.items()):
            if self.store.read(waiters.is_granted, waiter):
                del self.parked[member]
                continue
            log, subscriber = self.members[member]
            reader = log.readers.get(subscriber)
            assert reader is not None, "who waits with a subscription that ended is told"
            assert member in reader.members
            assert reader.at == log.end, "somebody sleeps beside a message"
            assert not reader.returned

    def finish(self) -> None:
        """When all are gone, nothing is left."""
        for session in (1, 2, 3):
            self.store.transact(sessions.bury, session)
        for log in self.logs.values():
            for text in "xy":
                self.store.transact(subscription.end, log.name, pack_name("test", text))
            self.store.transact(subscription.configure, log.name, 0, (FREE, 0))
        assert {key[:1] for key in self.store.keys} <= {b"\x01"}


def test_random_programs_behave_as_the_model() -> None:
    seed = random.randrange(1 << 30)
    for number in range(int(os.environ.get("PROGRAMS", "1500"))):
        program = Program(random.Random(seed * 1_000_003 + number))
        try:
            for _ in range(60):
                program.step()
            program.finish()
        except BaseException:
            print(f"seed {seed}, program {number}")
            raise
