"""Messages from process to process: what is heard from when on, in which order, and what becomes of it when connections
break or processes die. Here the stations are in one process; on a real cluster: test_topics_between_workers.py."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from clusters import wait_for
from far import Far, FarHost

import guildhall
from guildhall import Broken, Hall, Lagged, Pub, Sub, TimedOut
from guildhall.client.handles.direct import Box
from guildhall.primitives import introduction, subscription, topic, waiters

REGIONS = (
    introduction.SENDERS, introduction.SENDING, introduction.STATIONS, subscription.CURSORS, subscription.SUBSCRIBED,
    topic.TOPICS, topic.MESSAGES, topic.PINS, waiters.LINES, waiters.WAITS,
)  # fmt: skip


@pytest.fixture
def halls(far: Far) -> Iterator[Callable[[], Hall]]:
    """Makes a station, each a session of its own."""
    made: list[Hall] = []

    def make() -> Hall:
        made.append(Hall(far.station()))
        return made[-1]

    yield make
    for one in made:
        one.close()


def drained(sub: Sub, n: int) -> list[Any]:
    return [sub.get(timeout=20) for _ in range(n)]


def leftovers(far: Far) -> list[bytes]:
    """What the hall has of topics and waits."""
    return [key for key in far.hall.store.keys if key[:1] in REGIONS]


def go_on_publishing(pub: Pub, begun: list[int], done: list[int], stop: threading.Event) -> None:
    """Numbers from 0 on: which put was begun last, and which has returned."""
    number = 0
    while not stop.is_set():
        begun[0] = number
        pub.put(number)
        done[0] = number
        number += 1
        if number % 4 == 0:
            time.sleep(0.001)  # Others have a turn.


def test_a_new_subscription_hears_what_is_put_from_then_on_and_nothing_before(
    far: Far, halls: Callable[[], Hall]
) -> None:
    """A thousand times, amid three publishers: one elsewhere, one here, and one that is relayed."""
    here, relayed = halls(), Hall(far.host())
    stop, progress, threads = threading.Event(), [], []
    for number, hall in enumerate((halls(), here, relayed)):
        begun, done = [-1], [-1]
        progress.append((begun, done))
        pub = Pub(f"t{number}", hall=hall)
        threads.append(threading.Thread(target=go_on_publishing, args=(pub, begun, done, stop)))
        threads[-1].start()
    dice = random.Random(1)
    try:
        kept: list[Sub] = []
        for _ in range(1000):
            which = dice.randrange(3)
            begun, done = progress[which]
            before = done[0]
            sub = Sub(f"t{which}", hall=here)
            after = begun[0] + 1
            first = sub.get(timeout=20)
            assert before < first <= after, which
            assert drained(sub, 3) == [first + 1, first + 2, first + 3]
            assert isinstance(sub._fetched, Box)
            kept.append(sub)
            if len(kept) > 2:  # Some are there already, and their messages under way.
                kept.pop(0).close()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        relayed.close()


def test_connections_that_break_lose_and_double_nothing(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub = Sub("t", hall=here)
    stop = threading.Event()
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        dice = random.Random(2)
        while not stop.wait(dice.random() * 0.01):
            for end in list(far.between):
                far.between.remove(end)
                with suppress(OSError):
                    end.shutdown(2)
                    cuts += 1

    breaking = threading.Thread(target=cut)
    breaking.start()
    pub = Pub("t", hall=there)
    try:
        for number in range(20_000):
            pub.put(number)
            if number % 100 == 0:
                time.sleep(0.002)
        assert drained(sub, 20_000) == list(range(20_000))
    finally:
        stop.set()
        breaking.join()
    assert cuts > 10, "they did break"
    pub.put("last")
    assert sub.get(timeout=20) == "last", "nothing came twice"


def test_what_is_put_while_the_other_cannot_be_reached_arrives_when_it_can(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub, pub = Sub("t", hall=here), Pub("t", hall=there)
    far.unreachable.add(here.host._office.address)
    for number in range(100):
        pub.put(number)
    with pytest.raises(TimedOut):
        sub.get(timeout=0.2)
    far.unreachable.clear()
    assert drained(sub, 100) == list(range(100))


def test_a_publisher_is_held_up_by_nobody_who_is_dead(far: Far, halls: Callable[[], Hall]) -> None:
    there, here, other = halls(), halls(), halls()
    sub, left = Sub("t", hall=other), Sub("t", hall=here)
    pub = Pub("t", hall=there)
    pub.put(0)
    assert left.get(timeout=5) == sub.get(timeout=5) == 0
    far.unreachable.add(here.host._office.address)
    far.do(lambda: far.hall.bury(far.hall.seats[here.host.session]))
    for end in list(far.between):
        end.shutdown(2)
    large = bytes(1 << 20)
    for _ in range(40):  # More than may be under way to one of them.
        pub.put(large)
    assert all(len(one) == 1 << 20 for one in drained(sub, 40))


def test_who_does_not_answer_holds_a_new_subscription_up_for_seconds_at_most(
    far: Far, halls: Callable[[], Hall]
) -> None:
    there, here = halls(), halls()
    pub = Pub("t", hall=there)
    pub.put("nobody hears it")
    there.host._office.on_knock = lambda bell, number: None  # Stopped, or cut off.
    began = time.monotonic()
    sub = Sub("t", hall=here)
    took = time.monotonic() - began
    assert 0.5 < took < introduction.ROUTE_S + 1
    pub.put("heard")
    assert sub.get(timeout=5) == "heard"


def test_a_new_subscription_does_not_wait_while_publishers_answer(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    pub = Pub("t", hall=there)
    times = []
    for number in range(20):
        pub.put(number)
        began = time.monotonic()
        Sub("t", hall=here)
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 0.2


def test_those_who_cannot_be_dialled_hear_and_are_heard(far: Far, halls: Callable[[], Hall]) -> None:
    there, here, client = halls(), halls(), Hall(far.host())
    with client:
        subs = [Sub("t", hall=one) for one in (there, here, client)]
        for hall in (client, there, here):
            Pub("t", hall=hall).put_many([(hall.host.session, number) for number in range(5)])
        for sub in subs:
            heard = drained(sub, 15)
            for hall in (client, there, here):
                session = hall.host.session
                assert [number for who, number in heard if who == session] == list(range(5))
        assert [isinstance(sub._fetched, Box) for sub in subs] == [True, True, False]


def test_a_subscriber_that_blocks_holds_publishers_of_all_kinds_up(far: Far, halls: Callable[[], Hall]) -> None:
    there, here, client = halls(), halls(), Hall(far.host())
    with client:
        slow, quick = Sub("t", maxlen=2, policy="block", hall=here), Sub("t", hall=here)
        for hall in (there, client):
            pub = Pub("t", hall=hall)
            pub.put_many([1, 2])
            with pytest.raises(TimedOut):
                pub.put(3, timeout=0.05)
            putting = threading.Thread(target=pub.put, args=(4,))
            putting.start()
            assert drained(slow, 3) == [1, 2, 4]
            putting.join(5)
            assert drained(quick, 3) == [1, 2, 4], "what was not published nobody heard"


def test_patterns_and_durable_subscriptions_hear_what_workers_put(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    pub = Pub("jobs.1", hall=there)
    pub.put("nobody hears it")
    fitting, lasting = Sub("jobs.*", hall=here), Sub("jobs.1", subscription="g", hall=here)
    plain = Sub("jobs.1", hall=here)
    pub.put_many(range(3))
    for sub in (fitting, lasting, plain):
        assert drained(sub, 3) == [0, 1, 2]
    assert fitting.topic == "jobs.1"


def test_settings_given_anywhere_hold_at_once_for_publishers_elsewhere(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub, pub = Sub("t", hall=here), Pub("t", hall=there)
    pub.put(0)
    Pub("t", maxlen=3, hall=here)
    pub.put_many(range(1, 11))
    assert drained(Sub("t", start="oldest", hall=there), 3) == [8, 9, 10]
    wait_for(lambda: sub.statistics().end == 11)
    with pytest.raises(Lagged) as lag:
        sub.get(timeout=5)
    assert lag.value.n == 8
    assert drained(sub, 3) == [8, 9, 10]


def test_what_is_dropped_and_what_is_read_is_all_that_was_put(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub = Sub("t", maxlen=10, hall=here)

    def put() -> None:
        pub = Pub("t", hall=there)
        for number in range(5_000):
            pub.put(number)

    putting = threading.Thread(target=put)
    putting.start()
    expected = 0
    while expected < 5_000:
        try:
            assert sub.get(timeout=20) == expected
            expected += 1
        except Lagged as lag:
            expected += lag.n
    putting.join()
    assert expected == 5_000


def test_large_messages_do_not_go_to_the_hall(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    subs = [Sub("t", hall=here), Sub("t", hall=there)]
    Pub("t", hall=there).put(bytes(3 << 20))
    assert [len(sub.get(timeout=5)) for sub in subs] == [3 << 20] * 2
    assert not far.hall.blobs.sizes()
    assert far.hall.store.size < 10_000


def test_nothing_is_left_in_the_hall_by_those_who_leave_or_die(far: Far) -> None:
    stations = [Hall(far.station()) for _ in range(4)]
    closed, _, *kept = subs = [Sub("t", hall=one) for one in stations]
    for one in stations:
        Pub("t", hall=one).put(1)
    for sub in subs:
        drained(sub, 4)
    closed.close()
    stations[1].close()
    for number in (2, 3):
        far.do(lambda number=number: far.hall.bury(far.hall.seats[stations[number].host._session]))
    assert kept
    stations[0].close()
    assert leftovers(far) == []


def test_who_was_counted_as_dead_is_told_and_then_subscribes_anew(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub, pub = Sub("t", hall=here), Pub("t", hall=there)
    pub.put(1)
    assert sub.get(timeout=5) == 1
    far.do(lambda: far.hall.bury(far.hall.seats[here.host.session]))
    with pytest.raises(Broken, match="counted as dead"):
        sub.get(timeout=20)
    with pytest.raises(TimedOut):
        sub.get(timeout=0)
    pub.put(2)
    assert sub.get(timeout=5) == 2
    assert isinstance(sub._fetched, Box)


def test_a_topic_that_somebody_subscribes_to_is_not_deleted(far: Far, halls: Callable[[], Hall]) -> None:
    there, here = halls(), halls()
    sub = Sub("t", hall=here)
    with pytest.raises(guildhall.Misuse, match="1 now"):
        Pub("t", hall=there).delete()
    sub.close()
    Pub("t", hall=there).delete()


def test_a_forked_child_is_no_station(far: Far, halls: Callable[[], Hall]) -> None:
    host = halls().host
    assert isinstance(host, FarHost)
    assert host.post_office() is not None
    host._mark, host._pid = [0], -1  # As a child finds it.
    host.rejoin()
    assert host.post_office() is None
