"""What makes no sense is refused at once, by an error that names the object, what was expected and what came."""

from __future__ import annotations

import math
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

import guildhall
from guildhall import (
    Client,
    Event,
    Hall,
    LocalCluster,
    Lock,
    Misuse,
    NoHall,
    Pub,
    Queue,
    Semaphore,
    Sub,
    TimedOut,
    Variable,
    aio,
    as_completed,
    wait,
)
from guildhall.client import client as client_module
from guildhall.hosts import current

KINDS = [Variable, Queue, Lock, Event, Pub, Sub]


@pytest.fixture
def hall(hall: Hall) -> Iterator[Hall]:
    """The current hall of the test."""
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [{"a": 1}, {1}, 3.5j, object(), print, bytearray(b"x"), ("a", {}), ["a", object()]])
def test_a_name_of_another_type_is_refused(hall: Hall, kind: Any, name: Any) -> None:
    with pytest.raises(TypeError, match=r"name .*expected text, bytes, a number or a tuple of these, got"):
        kind(name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["x" * 10_240, b"x" * 10_240, "é" * 300, ("x",) * 300, 1 << 100_000, ("a" * 50,) * 9],
    ids=["text", "bytes", "letters", "tuple", "number", "texts"],
)
def test_a_name_that_is_too_long_is_refused(hall: Hall, kind: Any, name: Any) -> None:
    with pytest.raises(ValueError, match=r"name .*at most") as refused:
        kind(name)
    assert len(str(refused.value)) < 400


def test_a_name_nested_without_end_is_refused(hall: Hall) -> None:
    name: Any = 1
    for _ in range(100_000):
        name = (name,)
    with pytest.raises(ValueError, match="nested"):
        Lock(name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [None, 0, "", b"", (), [], 0.0, False])
def test_a_false_name_is_a_fresh_unique_one(hall: Hall, kind: Any, name: Any) -> None:
    one, other = kind(name), kind(name)
    assert isinstance(one.name, str)
    assert one.name != other.name
    prefix = "topic" if kind in (Pub, Sub) else kind.__name__.lower()
    assert one.name.startswith(f"{prefix}-")


@pytest.mark.parametrize("module", [guildhall, aio])
@pytest.mark.parametrize(
    ("kind", "word"),
    [("Semaphore", "max_leases"), ("Barrier", "parties"), ("Latch", "count"), ("RateLimiter", "rate")],
)
@pytest.mark.parametrize("number", [3, 0, True, 2.5])
def test_a_number_where_the_name_comes_is_refused_and_told_what_to_write(
    hall: Hall, module: Any, kind: str, word: str, number: Any
) -> None:
    """Others' semaphores and barriers take it first; a semaphore of the name 3, for one at a time, is nobody's wish."""
    make = getattr(module, kind)
    with pytest.raises(TypeError, match=rf"write {kind}\({word}={number}\) or {kind}\('some name', {word}={number}\)"):
        make(number)
    assert make(7, 3).name == 7
    assert isinstance(make(**{word: 3}).name, str)


def test_who_gives_the_peers_order_is_told_that_the_name_comes_first(hall: Hall) -> None:
    with pytest.raises(TypeError, match=r"max_leases 'db': expected a whole number, got str; the name comes first"):
        Semaphore(3, "db")  # type: ignore[arg-type]


ODD_NAMES: list[Any] = [
    "a", "a\0", "a\0b", "a\0\xff", b"a", b"a\0", "\ud800", "\ud800\udc00", "\U00010000", "é", "e\u0301", "A", " a",
    1, -1, 255, 256, 2**63, 2**64, -(2**64), "1", b"1", True, 1.0, 1.5, -0.5, math.inf, -math.inf,
    ("a",), ("a", None), ("a", None, "b"), ("a", ("b",)), ("a", "b"), (("a",), "b"), (1,), ("1",), (True,), (1.0,),
    (None,), "a ", ((),), ("",), (0,), "x" * 390, "../../etc", "/", ".", "\n",
]  # fmt: skip


def test_names_that_differ_are_different_things(hall: Hall) -> None:
    """Numbers of different types too: 1, True and 1.0 are three names, where a dict of the peer would see one."""
    for number, name in enumerate(ODD_NAMES):
        Variable(name).set(number)
        Queue(name).put(number)
        assert Lock(name).acquire(blocking=False)
        Event(name).set()
    for number, name in enumerate(ODD_NAMES):
        assert Variable(name).get(timeout=0) == number, repr(name)
        assert Queue(name).get(batch=True) == [number], repr(name)
        assert Lock(name).locked()
        Event(name).clear()
    subs = [Sub(name) for name in ODD_NAMES]
    for number, name in enumerate(ODD_NAMES):
        Pub(name).put(number)
    for number, sub in enumerate(subs):
        assert sub.get(timeout=0) == number
        with pytest.raises(TimedOut):
            sub.get(timeout=0)


@pytest.mark.parametrize(
    ("short", "long"),
    [("a", "a\0b"), (b"a", b"a\0b"), (("a",), ("a", None)), ((), ((None,),)), (("a\0",), ("a\0", None, 1))],
)
def test_waiters_of_a_name_are_not_served_by_one_that_begins_it(hall: Hall, short: Any, long: Any) -> None:
    """The first name's packed form is the beginning of the other's."""
    short = short or ("", None)
    holder = Lock(long)
    holder.acquire()
    got: list[Any] = []
    waits: list[Callable[[], Any]] = [
        lambda: Lock(long).acquire(timeout=0.5),
        lambda: _or_late(lambda: Queue(long).get(timeout=0.5)),
        lambda: Event(long).wait(0.5),
        lambda: _or_late(lambda: Variable(long).get(timeout=0.5)),
    ]
    threads = [threading.Thread(target=lambda w=w: got.append(w())) for w in waits]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    with Lock(short):
        pass
    Queue(short).put("wrong")
    Event(short).set()
    Variable(short).set("wrong")
    assert Lock(short).acquire(blocking=False), "the lock went to a waiter of another one"
    assert Queue(short).qsize() == 1
    for thread in threads:
        thread.join()
    assert got.count("late") == 2
    assert got.count(False) == 2


def _or_late(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except TimedOut:
        return "late"


def test_a_tuple_and_an_equal_list_are_one_name(hall: Hall) -> None:
    Variable(["a", ["b", 1]]).set(1)
    assert Variable(("a", ("b", 1))).get(timeout=0) == 1
    assert Lock(["a"]).name == ("a",)


NONSENSE: list[Any] = [
    -1,
    -0.001,
    float("nan"),
    -math.inf,
    "soon",
    "",
    "-1s",
    "1 fortnight",
    "nan",
    "inf",
    timedelta(-1),
    10**400,
]
WRONG: list[Any] = [b"1", [], {}, object(), True, False, 1j, Decimal(1), (1,)]


def blocking_calls(client: Client) -> dict[str, Callable[[Any], Any]]:
    """Every call that waits, on something for which it need not: nonsense is refused there too."""
    done = client.submit(int, 1)
    done.result(timeout=20)
    Variable("set").set(1)
    Queue("one").put_many(range(1000))
    Event("up").set()
    sub = Sub("many")
    return {
        "Variable.get": lambda t: Variable("unset").get(t),
        "Variable.get of a value": lambda t: Variable("set").get(t),
        "Variable.set": lambda t: Variable("set").set(1, t),
        "Queue.get": lambda t: Queue("none").get(t),
        "Queue.get of an item": lambda t: Queue("one").get(t),
        "Queue.put": lambda t: Queue("one").put(1, t),
        "Lock.acquire": lambda t: Lock("free").acquire(timeout=t),
        "Event.wait": lambda t: Event("down").wait(t),
        "Event.wait for one set": lambda t: Event("up").wait(t),
        "Sub.get": lambda t: sub.get(t),
        "Sub.next": lambda t: sub.next(t),
        "Future.result": lambda t: done.result(t),
        "Future.exception": lambda t: done.exception(t),
        "Future.traceback": lambda t: done.traceback(t),
        "wait": lambda t: wait([done], t),
        "wait for the first": lambda t: wait([done], t, "FIRST_COMPLETED"),
        "as_completed": lambda t: as_completed([done], timeout=t),
    }


def test_nonsense_timeouts_are_refused_by_every_blocking_call(client: Client) -> None:
    for what, call in blocking_calls(client).items():
        for timeout in NONSENSE:
            with pytest.raises(ValueError, match="timeout"):
                pytest.fail(f"{what} took {timeout!r:.40}: {call(timeout)!r}")
        for timeout in WRONG:
            with pytest.raises(TypeError, match="timeout"):
                pytest.fail(f"{what} took {timeout!r}: {call(timeout)!r}")
    assert not Lock("free").locked()
    assert Queue("one").qsize() == 1000


def test_good_timeouts_of_every_kind_are_taken(hall: Hall) -> None:
    for timeout in (0, 0.0, 0.001, "1ms", "0.001 s", " 1 ms ", "1us", "0s", timedelta(milliseconds=1), timedelta(0)):
        with pytest.raises(TimeoutError):
            Queue("none").get(timeout)
        assert Event("down").wait(timeout) is False
    Queue("q").put(1)
    for timeout in (math.inf, "1h", "9" * 400, timedelta.max, 1e300, 10**20):
        Queue("q").put(1, timeout)
        assert Queue("q").get(timeout) == 1
        sub = Sub("t")
        Pub("t").put(1)
        assert sub.get(timeout) == 1


@pytest.mark.parametrize("size", [-1, -(2**80), 2**80])
def test_a_size_out_of_range_is_refused(hall: Hall, size: int) -> None:
    with pytest.raises(ValueError, match=r"'q'.*maxsize.*expected"):
        Queue("q", maxsize=size)


@pytest.mark.parametrize("size", [True, False, 1.0, "1", None, [1]])
def test_a_size_that_is_no_whole_number_is_refused(hall: Hall, size: Any) -> None:
    with pytest.raises(TypeError, match=r"'q'.*maxsize.*expected a whole number"):
        Queue("q", maxsize=size)


@pytest.mark.parametrize("batch", [-1, 1.5, "2", None, [], 1j])
def test_a_batch_that_is_no_number_of_items_is_refused(hall: Hall, batch: Any) -> None:
    with pytest.raises(ValueError, match=r"'q'.*batch.*expected True or a number"):
        Queue("q").get(batch=batch)


@pytest.mark.parametrize("given", [1, "jobs", object(), [], Lock])
def test_a_hall_that_is_none_is_refused(given: Any) -> None:
    for kind in KINDS:
        with pytest.raises(TypeError, match="expected a Hall or a Client"):
            kind("x", hall=given)


def test_without_a_hall_constructors_work_and_calls_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "now", None)
    monkeypatch.setattr(client_module, "_clients", [])
    monkeypatch.delenv("GUILDHALL", raising=False)
    calls: list[Callable[[], Any]] = [
        Variable("x").get, lambda: Variable("x").set(1), Queue("x").get, lambda: Queue("x").put(1), Queue("x").qsize,
        Lock("x").acquire, Lock("x").release, Lock("x").locked, Event("x").wait, Event("x").set,
        lambda: Pub("x").put(1), lambda: Sub("x"), guildhall.get_client, Client.current,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NoHall, match=r"make a Client\(\)"):
            call()
    assert issubclass(NoHall, RuntimeError)
    assert issubclass(NoHall, ValueError)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Client(5),
        lambda: Client("jobs"),
        lambda: Client(""),
        lambda: LocalCluster("2"),
        lambda: Client(n_workers=1.0),
    ],
)
def test_a_cluster_of_another_type_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match="expected"):
        call()


@pytest.mark.parametrize("name", ["", b"jobs", 5, ".hidden", "private-1", "x" * 200, "a\0b"])
def test_a_hall_name_of_no_use_is_refused(name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="hall"):
        guildhall.open(name)


def test_tasks_refuse_what_makes_no_sense(client: Client) -> None:
    future = client.submit(int, 1)
    refused: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: client.submit(5), TypeError),
        (lambda: client.submit(None), TypeError),
        (lambda: client.map(int), TypeError),
        (lambda: client.map(int, 5), TypeError),
        (lambda: client.gather([future], errors="maybe"), ValueError),
        (lambda: wait([1, 2]), TypeError),
        (lambda: wait(future, future), TypeError),  # type: ignore[arg-type]
        (lambda: wait([future], return_when="SOON"), ValueError),
        (lambda: list(as_completed([1])), TypeError),
        (lambda: client.cancel([1]), TypeError),
        (lambda: future.add_done_callback(5), TypeError),  # type: ignore[arg-type]
    ]
    for call, kind in refused:
        with pytest.raises(kind):
            call()
    assert future.result(timeout=20) == 1


def test_errors_survive_pickling() -> None:
    for name in (
        "Misuse",
        "NotHeld",
        "NoHall",
        "TimedOut",
        "Broken",
        "StoreFull",
        "HallRefused",
        "HallDamaged",
        "TaskFailed",
        "KilledWorker",
        "Unpicklable",
    ):
        for args in (("words",), (28, "words")):
            error = getattr(guildhall, name)(*args)
            again = pickle.loads(pickle.dumps(error))
            assert type(again) is type(error)
            assert again.args == error.args
            assert str(again) == str(error)


def test_misuse_of_a_lock_names_it_and_its_holder(hall: Hall) -> None:
    lock = Lock("build")
    with pytest.raises(RuntimeError, match=r"'build'.*nobody holds it"):
        lock.release()
    lock.acquire()
    with pytest.raises(RuntimeError, match=r"'build'.*session"):
        Lock("build").release()
    with pytest.raises(RuntimeError, match="'build'"):
        pickle.loads(pickle.dumps(lock)).release()
    with pytest.raises(Misuse, match=r"'build'.*blocking"):
        lock.acquire(blocking=False, timeout=1)
    assert lock.release() is True
    with pytest.raises(RuntimeError):
        lock.release()
    assert isinstance(guildhall.NotHeld("x"), Misuse)
