"""Random users of each primitive: the same in simulated processes and in real ones.

A player is one process's part. `step` makes one random call, in which it may wait; it never asks for what it can only
get from itself. `audit` looks, when all processes are gone, at what is left. `terms` are what all handles of a program
agree on, and `model` is what they must be.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

import models

from guildhall import (
    Barrier,
    Condition,
    Counter,
    Election,
    Event,
    Lagged,
    Latch,
    Lock,
    MultiLock,
    Pub,
    Queue,
    RateLimiter,
    RLock,
    RWLock,
    Semaphore,
    StoreFull,
    Sub,
    Variable,
    deadline,
)
from guildhall.client import drive
from guildhall.engine.local import tasks
from guildhall.primitives import values, waiters
from guildhall.primitives.op import Answer
from guildhall.primitives.rwlock import READ, WRITE
from guildhall.testing.recorder import Log

Terms = dict[str, Any]


class Player:
    """One process's part in a program about one thing."""

    kind: ClassVar[str]
    in_a_storm: ClassVar[Terms] = {}
    """Terms for longer programs."""
    long_s = 5.0
    is_real: ClassVar[bool] = True

    def __init__(self, name: str, hall: Any, log: Log, dice: random.Random, terms: Terms) -> None:
        self.name, self.hall, self.log, self.dice, self.terms = name, hall, log, dice, terms
        self.session: int = hall.host.session
        self.holds = 0
        self.numbers = 0
        self.open()

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        """Random terms."""
        return {}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        raise NotImplementedError

    def open(self) -> None:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def audit(self) -> None:
        """Nothing can be asked."""

    def call(self, method: str, run: Callable[[], Any], *args: Any, then: Callable[[Any], Any] | None = None) -> Any:
        """A public call, which may be interrupted, and what to tell of its answer, which may not."""
        host = self.hall.host

        def run_and_tell() -> Any:
            answer = run()
            host.may_interrupt = False
            return answer if then is None else then(answer)

        host.may_interrupt = True
        result = self.log.call(self.session, self.kind, self.name, method, args, run_and_tell)
        host.may_interrupt = False
        return result

    def patience_s(self, *, may_be_endless: bool = False) -> float | None:
        """How long to wait: not at all, a moment, so long that one who is not woken is noticed, or for ever."""
        roll = self.dice.random()
        if roll < 0.2:
            return 0.0
        if roll < 0.6:
            return self.dice.uniform(0.0005, 0.01)
        return None if may_be_endless and roll < 0.8 else self.long_s

    def gives_back(self, method: str, run: Callable[[], Any], *args: Any) -> bool:
        """Call what gives something back. False if there was no room for that: it is held still. Who forgot that and
        asked again without end would wait for itself, and rightly be told so."""
        return bool(self.call(method, run, *args) != models.FULL)

    def pass_time(self, seconds: float) -> None:
        """Wait for what comes by itself."""
        sim = getattr(self.hall.host, "sim", None)
        sim.advance(seconds) if sim else time.sleep(seconds)

    def fresh(self) -> int:
        """A value that nobody else puts."""
        self.numbers += 1
        return self.session * 100_000 + self.numbers


# -- values -----------------------------------------------------------------------------------------------------------


class VariablePlayer(Player):
    kind = "variable"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"is_plain": dice.random() < 0.5}  # Plain: only what a register without versions knows.

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Variable()

    def open(self) -> None:
        self.variable = Variable(self.name, hall=self.hall)
        self.watch = self.variable.watch()
        self.last: Any = None

    def step(self) -> None:
        variable, roll = self.variable, self.dice.random()
        if roll < 0.15:
            value = self.fresh()
            self.call("set", lambda: variable.set(value), value)
        elif roll < 0.35:
            n = self.dice.randrange(1, 10)
            self.last = self.call("update", lambda: variable.update(lambda old: old + n, self.patience_s()), n)
        elif roll < 0.5:
            new = self.fresh()
            old = self.last or 0
            self.call("compare_and_set", lambda: variable.compare_and_set(old, new), old, None, new)
        elif roll < 0.6 and not self.terms["is_plain"]:
            version, new = self.call("version", lambda: variable.version), self.fresh()
            if version not in models.BROKEN_OFF:
                run = lambda: variable.compare_and_set(new=new, expected_version=version)  # noqa: E731
                self.call("compare_and_set", run, None, version, new)
        elif roll < 0.85:
            self.last = self.call("get", lambda: variable.get(self.patience_s()))
        elif roll < 0.92 and not self.terms["is_plain"]:
            self.call("watch", self._step_watch)
        elif roll < 0.96 and not self.terms["is_plain"]:
            self.call("wait_for", lambda: variable.wait_for(lambda value: value % 2, self.patience_s()))
        else:
            self.call("delete", variable.delete)
        if isinstance(self.last, str):
            self.last = None

    def _step_watch(self) -> list[Any]:
        value = self.watch.get(self.patience_s())
        return [self.watch.version, value]

    def audit(self) -> None:
        self.call("get", lambda: self.variable.get(0))
        if not self.terms["is_plain"]:
            self.call("version", lambda: self.variable.version)
        self.call("set", lambda: self.variable.set(1), 1)
        self.call("update", lambda: self.variable.update(lambda old: old + 1, 0), 1)
        self.call("delete", self.variable.delete)


class CounterPlayer(Player):
    kind = "counter"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Counter()

    def open(self) -> None:
        self.counter = Counter(self.name, hall=self.hall)

    def step(self) -> None:
        roll, n = self.dice.random(), self.dice.randrange(-300, 300)
        if roll < 0.7:
            self.call("add", lambda: self.counter.add(n), n)
        elif roll < 0.9:
            self.call("get", self.counter.get)
        elif roll < 0.95:
            self.call("set", lambda: self.counter.set(n), n)
        else:
            self.call("reset", self.counter.reset)

    def audit(self) -> None:
        self.call("get", self.counter.get)
        self.call("reset", self.counter.reset)


class QueuePlayer(Player):
    kind = "queue"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"maxsize": dice.choice((0, 1, 3)), "max_deliveries": dice.choice((0, 0, 2))}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Queue(**terms)

    def open(self) -> None:
        self.queue = Queue(self.name, hall=self.hall, **self.terms)
        self.taken: list[Any] = []

    def step(self) -> None:
        queue, roll = self.queue, self.dice.random()
        if roll < 0.4:
            self._put()
        elif roll < 0.45:
            items = [self.fresh() for _ in range(self.dice.randrange(1, 4))]
            self.call("put_many", lambda: queue.put_many(items), items)
        elif roll < 0.65:
            self._get()
        elif roll < 0.8:
            self._take() if len(self.taken) < 2 else self._finish()
        elif roll < 0.9:
            self._finish() if self.taken else self.call("task_done", queue.task_done)
        elif roll < 0.94:
            timeout_s = self.patience_s()
            self.call("join", lambda: queue.join(timeout_s))
        elif roll < 0.98:
            self.call("qsize", queue.qsize)
        else:
            self.call("close", queue.close)
            self.call("reopen", queue.reopen)

    def _put(self) -> None:
        item, timeout_s = self.fresh(), self.patience_s()
        rank = self.dice.choice((0, 0, 0, -1, 2.5))
        delay_s = self.dice.choice((None, None, None, None, 0.001, 0.05))
        self.call("put", lambda: self.queue.put(item, timeout_s, delay=delay_s, priority=rank), item, rank)

    def _get(self) -> None:
        n, timeout_s, roll = self.dice.randrange(2, 5), self.patience_s(), self.dice.random()
        if roll < 0.6:
            self.call("get", lambda: [self.queue.get(timeout_s)], 1)
        elif roll < 0.8:
            self.call("get", lambda: self.queue.get(timeout_s, batch=n), n)
        else:
            self.call("get", lambda: self.queue.get(batch=True), 0)

    def _take(self) -> None:
        timeout_s, got = self.patience_s(), []

        def run() -> Any:
            got.append(self.queue.take(timeout_s))
            return [got[0].value, got[0].deliveries]

        if isinstance(self.call("take", run), list):
            self.taken += got

    def _finish(self) -> None:
        taken = self.taken.pop(self.dice.randrange(len(self.taken)))
        delay_s = self.dice.choice((None, None, 0.001, 0.05))
        if self.dice.random() < 0.5:
            answer = self.call("ack", taken.ack, taken.value)
        else:
            answer = self.call("nack", lambda: taken.nack(delay_s), taken.value)
        if answer == models.FULL:  # It is held still.
            self.taken.append(taken)

    def audit(self) -> None:
        self.pass_time(0.2)  # What was delayed is there.
        self.call("reopen", self.queue.reopen)
        self.call("get", lambda: self.queue.get(batch=True), 0)
        self.call("dead", lambda: self.queue.dead_letters.get(batch=True))
        self.call("qsize", self.queue.qsize)
        self.call("put", lambda: self.queue.put(1, 0), 1, 0)
        self.call("get", lambda: [self.queue.get(0)], 1)


class TopicPlayer(Player):
    kind = "topic"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Topic()

    def open(self) -> None:
        self.pub = Pub(self.name, hall=self.hall)
        self.sub: Any = None

    def step(self) -> None:
        if self.sub is None and self.dice.random() < 0.5:
            self.call("subscribe", self._subscribe)
        elif self.sub is not None and self.dice.random() < 0.6:
            self.call("get", lambda: self.sub.get(self.patience_s()))
        else:
            message = self.fresh()
            self.call("put", lambda: self.pub.put(message), message)

    def _subscribe(self) -> None:
        self.sub = Sub(self.name, hall=self.hall)

    def audit(self) -> None:
        self.call("put", lambda: self.pub.put(1), 1)


class BoundedPlayer(Player):
    """Subscriptions with a bound: some drop the oldest and are told how many, some have publishers wait; some replay
    what is kept."""

    kind = "bounded topic"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"keep": dice.choice((0, 2, 5)), "maxlen": dice.choice((1, 2, 4)), "may_block": dice.random() < 0.6}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.BoundedTopic(terms["keep"])

    def open(self) -> None:
        while True:
            with suppress(StoreFull):
                self.pub = Pub(self.name, keep=self.terms["keep"], hall=self.hall)
                break
            self.pass_time(0.01)
        self.sub: Any = None

    def step(self) -> None:
        roll = self.dice.random()
        if self.sub is None and roll < 0.6:
            policy = "block" if self.terms["may_block"] and self.dice.random() < 0.5 else "drop-oldest"
            maxlen = self.dice.choice((None, self.terms["maxlen"]))
            start = None if maxlen and policy == "block" else self.dice.choice((None, None, "oldest", -2))
            self.call("subscribe", lambda: self._subscribe(start, maxlen, policy), start, maxlen, policy)
        elif self.sub is not None and roll < 0.55:
            self.call("get", self._get)
        elif self.sub is not None and roll < 0.62:
            self.call("close", self.sub.close)
            self.sub = None
        else:
            message, timeout_s = self.fresh(), self.patience_s()
            self.call("put", lambda: self.pub.put(message, timeout_s), message)

    def _subscribe(self, start: Any, maxlen: int | None, policy: str) -> None:
        self.sub = Sub(self.name, start=start, maxlen=maxlen, policy=policy if maxlen else None, hall=self.hall)

    def _get(self) -> Any:
        try:
            return [self.sub.get(self.patience_s()), self.sub.seq]
        except Lagged as lagged:
            return ["lagged", lagged.n]

    def audit(self) -> None:
        """Who comes late gets what is kept, and that is all that is there."""
        self.call("subscribe", lambda: self._subscribe("oldest", None, ""), "oldest", None, "")
        while isinstance(self.call("get", lambda: [self.sub.get(0), self.sub.seq]), list):
            pass
        self.call("close", self.sub.close)
        self.call("delete", self.pub.delete)


class DurablePlayer(Player):
    """Members of one durable subscription share it; it goes on where it was, whoever dies."""

    kind = "durable topic"
    group = "group"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.DurableTopic()

    def open(self) -> None:
        self.pub = Pub(self.name, hall=self.hall)
        self.sub: Any = None

    def step(self) -> None:
        roll = self.dice.random()
        if self.sub is None and roll < 0.5:
            self.call("subscribe", self._subscribe)
        elif self.sub is not None and roll < 0.6:
            self.call("get", self._get)
        elif self.sub is not None and roll < 0.68:
            self.call("close", self.sub.close)
            self.sub = None
        else:
            message = self.fresh()
            self.call("put", lambda: self.pub.put(message), message)

    def _subscribe(self) -> None:
        self.sub = Sub(self.name, subscription=self.group, hall=self.hall)

    def _get(self) -> Any:
        return [self.sub.get(self.patience_s()), self.sub.seq]

    def audit(self) -> None:
        """One more member gets all that is left, and the group ends."""
        self.call("subscribe", self._subscribe)
        while isinstance(self.call("get", lambda: [self.sub.get(0), self.sub.seq]), list):
            pass
        self.call("unsubscribe", self.sub.unsubscribe)


# -- what is held -----------------------------------------------------------------------------------------------------


class LockPlayer(Player):
    kind = "lock"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"lease_s": None}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Lock(**terms)

    def open(self) -> None:
        self.lock = Lock(self.name, hall=self.hall, **self.terms)

    def step(self) -> None:
        if self.holds and self.dice.random() < 0.7:
            self.holds = not self.gives_back("release", self.lock.release)
        elif self.holds and self.terms["lease_s"] and self.dice.random() < 0.5:
            self.call("renew", self.lock.renew)
        elif self.holds or self.dice.random() < 0.1:
            self.call("locked", self.lock.locked)
        else:
            timeout_s = self.patience_s(may_be_endless=True)
            self.holds = isinstance(self._acquire(timeout_s), list)

    def _acquire(self, timeout_s: float | None) -> Any:
        return self.call("acquire", lambda: self.lock.acquire(timeout=timeout_s), then=self._facts)

    def _facts(self, is_held: bool) -> Any:
        lock = self.lock
        return is_held and [True, lock.fencing_token, lock.previous_holder_died, lock.took_over]

    def audit(self) -> None:
        self.call("locked", self.lock.locked)
        self._acquire(0)
        self.call("release", self.lock.release)


class LeasePlayer(LockPlayer):
    kind = "lease"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"lease_s": dice.choice((0.002, 0.01))}

    def audit(self) -> None: ...


class CirclesPlayer(Player):
    kind = "circles"
    names = "ab"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Circles(CirclesPlayer.names)

    def open(self) -> None:
        self.locks = {name: Lock(f"{self.name} {name}", hall=self.hall) for name in self.names}
        self.held: list[str] = []

    def step(self) -> None:
        free = [name for name in self.names if name not in self.held]
        if self.held and (not free or self.dice.random() < 0.3):
            self._release(self.dice.choice(self.held))
        elif self._acquire(self.dice.choice(free)) == models.DEADLOCK:
            for name in list(self.held):
                self._release(name)

    def _acquire(self, name: str, timeout_s: float | None = None) -> Any:
        lock = self.locks[name]
        if timeout_s is None and self.dice.random() < 0.2:
            timeout_s = self.patience_s()
        answer = self.call(
            "acquire",
            lambda: lock.acquire(timeout=timeout_s),
            name,
            timeout_s is None,
            then=lambda held: held and [True, lock.fencing_token, lock.previous_holder_died, lock.took_over],
        )
        if isinstance(answer, list):
            self.held.append(name)
        return answer

    def _release(self, name: str) -> None:
        if self.gives_back("release", self.locks[name].release, name):
            self.held.remove(name)

    def audit(self) -> None:
        for name in self.names:
            self._acquire(name, 0.0)
        for name in list(self.held):
            self._release(name)


class RLockPlayer(Player):
    kind = "rlock"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.RLock()

    def open(self) -> None:
        self.rlock: Any = RLock(self.name, hall=self.hall)

    def step(self) -> None:
        if self.holds and self.dice.random() < 0.6:
            self.holds -= self.gives_back("release", self.rlock.release)
        else:
            timeout_s = self.patience_s(may_be_endless=True)
            self.holds += self._acquire(timeout_s) not in (False, *models.BROKEN_OFF)

    def _acquire(self, timeout_s: float | None) -> Any:
        count = lambda is_held: is_held and self.rlock.count  # noqa: E731
        return self.call("acquire", lambda: self.rlock.acquire(timeout=timeout_s), then=count)

    def audit(self) -> None:
        self._acquire(0)
        self._acquire(0)
        self.call("release", self.rlock.release)
        self.call("release", self.rlock.release)


class SemaphorePlayer(Player):
    kind = "semaphore"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"max_leases": dice.choice((1, 2, 3))}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Pool(terms["max_leases"])

    def open(self) -> None:
        self.semaphore = Semaphore(self.name, hall=self.hall, **self.terms)

    def step(self) -> None:
        if self.holds and self.dice.random() < 0.6:
            self.holds -= self.gives_back("release", self.semaphore.release)
        elif self.dice.random() < 0.1:
            self.call("get_value", self.semaphore.get_value)
        else:
            timeout_s = self.patience_s(may_be_endless=not self.holds)
            self.holds += self.call("acquire", lambda: self.semaphore.acquire(timeout=timeout_s)) is True

    def audit(self) -> None:
        self.call("get_value", self.semaphore.get_value)
        for _ in range(self.terms["max_leases"] + 1):
            self.call("acquire", lambda: self.semaphore.acquire(timeout=0))
        for _ in range(self.terms["max_leases"]):
            self.call("release", self.semaphore.release)


class RWLockPlayer(Player):
    kind = "rwlock"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Pool(WRITE, {"acquire_read": READ, "acquire_write": WRITE})

    def open(self) -> None:
        self.rwlock = RWLock(self.name, hall=self.hall)
        self.side = ""

    def step(self) -> None:
        rwlock = self.rwlock
        if self.side and self.dice.random() < 0.7:
            release = rwlock.release_read if self.side == "read" else rwlock.release_write
            if self.gives_back(f"release_{self.side}", release):
                self.side = ""
        elif self.side:
            self.call("locked", rwlock.locked)
        else:
            side, timeout_s = self.dice.choice(("read", "read", "write")), self.patience_s(may_be_endless=True)
            acquire = rwlock.acquire_read if side == "read" else rwlock.acquire_write
            if self.call(f"acquire_{side}", lambda: acquire(timeout=timeout_s)) is True:
                self.side = side

    def audit(self) -> None:
        self.call("acquire_write", lambda: self.rwlock.acquire_write(timeout=0))
        self.call("acquire_read", lambda: self.rwlock.acquire_read(timeout=0))
        self.call("release_write", self.rwlock.release_write)


class MultiLockPlayer(Player):
    kind = "multilock"
    names = "abcd"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.MultiLock()

    def open(self) -> None:
        self.locks: dict[tuple[str, ...], MultiLock] = {}
        self.mine: MultiLock | None = None

    def step(self) -> None:
        if self.mine is not None:
            if self.gives_back("release", self.mine.release):
                self.mine = None
            return
        names = tuple(self.dice.sample(self.names, self.dice.randrange(1, 4)))
        count = self.dice.randrange(1, len(names) + 1)
        self._acquire(names, count, self.patience_s(may_be_endless=True))

    def _acquire(self, names: tuple[str, ...], count: int, timeout_s: float | None) -> None:
        full = [f"{self.name} {name}" for name in names]
        lock = self.locks.setdefault(names, MultiLock(full, hall=self.hall))
        run = lambda: lock.acquire(timeout=timeout_s, num_locks=count)  # noqa: E731
        if isinstance(self.call("acquire", run, full, count, then=lambda held: held and list(lock.held)), list):
            self.mine = lock

    def audit(self) -> None:
        self._acquire(tuple(self.names), len(self.names), 0)
        if self.mine is not None:
            self.call("release", self.mine.release)


class ElectionPlayer(Player):
    kind = "election"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Election()

    def open(self) -> None:
        self.election = Election(self.name, hall=self.hall)

    def step(self) -> None:
        roll = self.dice.random()
        if self.holds and roll < 0.5:
            self.holds = not self.gives_back("resign", self.election.resign)
        elif roll < 0.75:
            value, timeout_s = self.fresh(), self.patience_s(may_be_endless=True)
            self.holds = isinstance(self._campaign(value, timeout_s), list) or self.holds
        else:
            self.call("leader", lambda: self.election.leader(self.patience_s()))

    def _campaign(self, value: int, timeout_s: float | None) -> Any:
        facts = lambda leads: leads and [True, self.election.term]  # noqa: E731
        return self.call("campaign", lambda: self.election.campaign(value, timeout_s), value, then=facts)

    def audit(self) -> None:
        self.call("leader", lambda: self.election.leader(0))
        self._campaign(1, 0)
        self.call("resign", self.election.resign)


# -- what is waited for together --------------------------------------------------------------------------------------


class EventPlayer(Player):
    kind = "event"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Event()

    def open(self) -> None:
        self.event = Event(self.name, hall=self.hall)

    def step(self) -> None:
        method = self.dice.choice(("set", "clear", "clear", "is_set", "wait", "wait", "wait"))
        if method == "wait":
            timeout_s = self.patience_s()
            self.call("wait", lambda: self.event.wait(timeout_s))
        else:
            self.call(method, getattr(self.event, method))

    def audit(self) -> None:
        self.call("is_set", self.event.is_set)
        self.call("set", self.event.set)
        self.call("clear", self.event.clear)


class LatchPlayer(Player):
    kind = "latch"
    in_a_storm: ClassVar[Terms] = {"count": 2000}

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"count": dice.randrange(1, 25)}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Latch(**terms)

    def open(self) -> None:
        self.latch = Latch(self.name, hall=self.hall, **self.terms)

    def step(self) -> None:
        method, n = self.dice.choice(("count_down", "count", "wait", "wait")), self.dice.randrange(1, 3)
        if method == "count_down":
            self.call(method, lambda: self.latch.count_down(n), n)
        elif method == "count":
            self.call(method, lambda: self.latch.count)
        else:
            timeout_s = self.patience_s()
            self.call(method, lambda: self.latch.wait(timeout_s))

    def audit(self) -> None:
        self.call("count_down", lambda: self.latch.count_down(100), 100)
        self.call("wait", lambda: self.latch.wait(0))


class BarrierPlayer(Player):
    kind = "barrier"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        return {"parties": dice.choice((1, 2, 2, 3))}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Barrier(**terms)

    def open(self) -> None:
        self.barrier = Barrier(self.name, hall=self.hall, **self.terms)

    def step(self) -> None:
        method = self.dice.choice(("wait",) * 8 + ("reset", "reset", "abort", "broken"))
        if method == "wait":
            timeout_s = 0 if self.dice.random() < 0.05 else self.dice.uniform(0.005, 0.05)
            self.call(method, lambda: self.barrier.wait(timeout_s))
        elif method == "broken":
            self.call(method, lambda: self.barrier.broken)
        else:
            self.call(method, getattr(self.barrier, method))

    def audit(self) -> None:
        self.call("broken", lambda: self.barrier.broken)
        self.call("reset", self.barrier.reset)
        self.call("wait", lambda: self.barrier.wait(0))


class ConditionPlayer(Player):
    kind = "condition"

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Condition()

    def open(self) -> None:
        self.condition = Condition(self.name, hall=self.hall)

    def step(self) -> None:
        condition, roll = self.condition, self.dice.random()
        if not self.holds and roll < 0.95:
            timeout_s = self.patience_s(may_be_endless=True)
            self._acquire(timeout_s)
        elif roll < 0.4:
            self.call("release", condition.release)
        elif roll < 0.5:
            self._acquire(None)
        elif roll < 0.75:
            timeout_s = self.patience_s()
            self.call("wait", lambda: condition.wait(timeout_s))
        else:
            n = self.dice.choice((0, 1, 1, 2))
            self.call("notify", lambda: condition.notify(n) if n else condition.notify_all(), n)
        self.holds = self._count()

    def _acquire(self, timeout_s: float | None) -> None:
        count = lambda is_held: is_held and self._count()  # noqa: E731
        self.call("acquire", lambda: self.condition.acquire(timeout=timeout_s), then=count)

    def _count(self) -> int:
        lock: Any = self.condition.lock
        return int(lock.count)

    def audit(self) -> None:
        self._acquire(0)
        self.call("notify", self.condition.notify_all, 0)
        self.call("release", self.condition.release)


class RateLimiterPlayer(Player):
    kind = "rate limiter"

    @staticmethod
    def draw(dice: random.Random) -> Terms:
        rate = dice.randrange(1, 6)
        return {"rate": rate, "per_s": dice.choice((0.001, 0.004)), "burst": dice.choice((None, None, 1, rate))}

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.RateLimiter(terms["rate"], round(terms["per_s"] * 1e9), terms["burst"] or 0)

    def open(self) -> None:
        self.limiter = RateLimiter(self.name, hall=self.hall, **self.terms)

    def step(self) -> None:
        n, timeout_s = self.dice.randint(1, self.terms["burst"] or self.terms["rate"]), self.patience_s()
        if self.dice.random() < 0.2:
            timeout_s = None
        self.call("acquire", lambda: self.limiter.acquire(n, timeout_s), n)


# -- tasks ------------------------------------------------------------------------------------------------------------


class TasksPlayer(Player):
    """Submits tasks, and works: by the ops, as client and worker do, for their processes are not played."""

    kind = "tasks"
    is_real = False

    @staticmethod
    def model(terms: Terms) -> models.Model:
        return models.Tasks()

    def open(self) -> None:
        host = self.hall.host
        host.words.append(0)  # The lane of its work; that before it is for what it gets.
        host.insist(tasks.enlist, host.session, tasks.WorkerInfo(host.session))
        self.mine: list[bytes] = []
        self.key = b""
        self.todo: list[bytes] = []

    def surely(self, method: str, op: Callable[..., Any], told: tuple[Any, ...], *args: Any) -> Any:
        """A call that is made until there was room for it. Ctrl-C is not for workers."""
        while True:
            run = lambda: self.hall.host.transact(op, *args)  # noqa: E731
            result = self.log.call(self.session, self.kind, self.name, method, told, run)
            if result != models.FULL:
                return result

    def step(self) -> None:
        roll = self.dice.random()
        if self.todo and roll < 0.6:
            self._work()
        elif roll < 0.75:
            self._submit()
        elif self.mine and roll < 0.95:
            self._look_after(self.dice.choice(self.mine), self.dice.random())
        elif not self.todo:
            patience_s = 8.0 if self.dice.random() < 0.4 else self.patience_s() or 0.0
            self._claim(self.dice.choice((1, 1, 2, 5)), patience_s)

    def _submit(self) -> None:
        specs, known = [], list(self.mine)
        for _ in range(self.dice.choice((1, 1, 1, 2, 4))):
            deps = tuple(self.dice.sample(known, min(len(known), self.dice.choice((0, 0, 1, 2)))))
            oid = self.hall.host.new_object()
            specs.append((oid, deps, self.dice.choice((0, 1, 1)), self.dice.choice((0, 0, 0, 1))))
            known.append(oid)
        is_nested = self.dice.random() < 0.3
        batch = [
            (oid, tasks.Recipe("task", b"", b"", deps, retries, priority=priority), deps)
            for oid, deps, retries, priority in specs
        ]
        if self.surely("submit", tasks.submit, (tuple(specs), is_nested), batch, is_nested) is None:
            self.mine += [oid for oid, *_ in specs]

    def _look_after(self, oid: bytes, roll: float) -> None:
        if roll < 0.5:
            self.call("result", lambda: self._result(oid), oid)
        elif roll < 0.6:
            self.surely("fire", tasks.fire, (oid,), [oid])
        elif roll < 0.75:
            self.surely("cancel", tasks.cancel, ((oid,),), [oid])
            self.call("result", lambda: self._result(oid), oid)
        else:
            self.mine.remove(oid)
            self.surely("release", values.release_for, (oid,), self.session, [oid])

    def _result(self, oid: bytes) -> Any:
        host = self.hall.host
        found = drive.run(
            host,
            drive.waiting(
                host,
                lambda waiter: host.transact(values.wait_settled, oid, waiter),
                lambda waiter: host.read(values.settled, oid),
                lambda waiter: host.transact(waiters.withdraw, waiter),
                self.patience_s(),
            ),
        )
        if found is drive.LATE:
            return models.LATE
        if found.state == values.CANCELLED:
            return ["cancelled", None]
        _, data = tasks.chain_of(found.data)
        if found.state == values.FINISHED:
            return ["finished", data]
        return ["error", "killed" if data[:1] == tasks.KILLED else data]

    # -- working ------------------------------------------------------------------------------------------------------

    def _claim(self, limit: int, timeout_s: float) -> None:
        def run() -> Any:
            found = self._claimed(limit, timeout_s)
            if found is None:
                return models.LATE
            self.key, self.todo = found[0], [oid for oid, _ in found[1]]
            return list(self.todo)

        self.log.call(self.session, self.kind, self.name, "claim", (limit,), run)

    def _claimed(self, limit: int, timeout_s: float) -> Any:
        """As a worker's thread does it; with a time limit, it ends as one that retires."""
        host, until = self.hall.host, deadline.after(timeout_s)
        while True:
            waiter = host.waiter() if timeout_s else None
            found = host.transact(tasks.claim, host.session, limit, waiter, tasks.Able(), deadline.now(), 1)
            if not isinstance(found, Answer):
                return found
            if waiter is None:
                return None
            bell = host.bell()
            try:
                is_asleep = host.transact(tasks.doze, waiter, bell.number)
            except StoreFull:
                host.insist(waiters.withdraw, waiter)
                raise
            if not is_asleep:
                continue
            while not host.read(waiters.is_granted, waiter):
                left_s = deadline.left(until)
                if left_s == 0:
                    host.insist(waiters.withdraw, waiter)
                    host.insist(tasks.pass_on)
                    return None
                host.sleep(bell, left_s)

    def _work(self) -> None:
        host, oid = self.hall.host, self.todo[0]
        host.words[1] = tasks.mark_of(oid)
        host.step()  # It runs.
        if len(self.todo) > 1 and self.dice.random() < 0.2:
            rest, self.todo = tuple(self.todo[1:]), self.todo[:1]
            self.surely("unclaim", tasks.unclaim, (self.key, rest), self.key, rest)
        host.step()
        count = self.dice.choice((1, 1, len(self.todo)))
        ends, self.todo = [self._end(one) for one in self.todo[:count]], self.todo[count:]
        told = tuple((one.oid, STATES[one.state], one.data, one.again) for one in ends)
        self.surely("finish", tasks.finish, (self.key, told), self.key, ends)

    def _end(self, oid: bytes) -> tasks.Done:
        data = b"." + str(self.fresh()).encode()
        if self.dice.random() < 0.6:
            return tasks.Done(oid, values.FINISHED, data)
        return tasks.Done(oid, values.ERROR, data, again=True)

    def audit(self) -> None:
        """One more worker ends what is left, and there is no more."""
        while True:
            self._claim(5, 0.0)
            if not self.todo:
                break
            while self.todo:
                self._work()
        self.call("ready", lambda: self.hall.host.read(tasks.ready))
        left = [key for key, _ in self.hall.host.read(_scan, tasks.READY)]
        assert not left, f"in line, though nobody is there: {left}"


STATES = {values.FINISHED: "finished", values.ERROR: "error"}


def _scan(txn: Any, prefix: bytes) -> list[tuple[bytes, bytes]]:
    return list(txn.scan(prefix))


PLAYERS: dict[str, type[Player]] = {
    player.kind: player
    for player in (
        VariablePlayer, CounterPlayer, QueuePlayer, TopicPlayer, BoundedPlayer, DurablePlayer, LockPlayer, LeasePlayer,
        CirclesPlayer, RLockPlayer, SemaphorePlayer, RWLockPlayer, MultiLockPlayer, ElectionPlayer, EventPlayer,
        LatchPlayer, BarrierPlayer, ConditionPlayer, RateLimiterPlayer, TasksPlayer,
    )
}  # fmt: skip
REAL = [kind for kind, player in PLAYERS.items() if player.is_real]
"""Those that real processes can play, too."""
