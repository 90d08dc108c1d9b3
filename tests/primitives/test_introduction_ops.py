"""Introductions, on a store in memory: who is told of a change, and when it counts as made."""

from __future__ import annotations

from typing import Any

from guildhall.primitives import introduction, sessions, subscription, topic, values, waiters
from guildhall.primitives.introduction import MAIL, NEWS, ROUTE_S, Route
from guildhall.primitives.op import PARKED
from guildhall.primitives.sessions import Session
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

X, Y = pack_name("topic", "x"), pack_name("topic", "y")


class Scene:
    """A store, and what was rung."""

    def __init__(self) -> None:
        self.rung: list[Waiter] = []
        self.store = MemoryStore(ring=self.rung.append)
        for number in range(1, 10):
            self.do(sessions.join, Session(number, number, "worker"))
        self.numbers = iter(range(100, 1000))

    def do(self, op: Any, *args: Any) -> Any:
        return self.store.transact(op, *args)

    def route(self, session: int, now: float = 0.0, name: bytes = X) -> Route:
        found = self.do(introduction.route, name, session, now)
        assert isinstance(found, Route)
        return found

    def join(self, session: int, name: bytes = X) -> tuple[int | None, bytes, Waiter]:
        member = values.object_id(session, next(self.numbers))
        mail = Waiter(session, next(self.numbers), MAIL)
        return self.do(introduction.join, name, member, session, f"tcp://{session}", mail), member, mail

    def announce(self, session: int, now: float = 0.0, name: bytes = X) -> Waiter | None:
        """The wait, if there is something to wait for."""
        waiter = Waiter(session, next(self.numbers), 1)
        return waiter if self.do(introduction.announce, name, session, now, waiter) is PARKED else None

    def is_made(self, waiter: Waiter) -> bool:
        return self.store.read(waiters.is_granted, waiter)

    def told(self) -> list[int]:
        found = [waiter.session for waiter in self.rung if waiter.bell == NEWS]
        self.rung.clear()
        return found


def test_a_route_names_each_station_that_subscribes_once() -> None:
    scene = Scene()
    for session in (2, 3, 2):
        scene.join(session)
    scene.join(4, Y)
    route = scene.route(1)
    assert route.stations == ((2, "tcp://2"), (3, "tcp://3"))
    assert not route.is_heard


def test_what_was_found_behind_a_subscription_is_newer_than_it() -> None:
    scene = Scene()
    before = scene.route(1).revision
    joined = scene.join(2)[0]
    assert joined is not None
    assert before < joined < scene.route(1).revision


def test_a_change_is_made_when_all_have_forgotten_older_routes() -> None:
    scene = Scene()
    scene.route(1), scene.route(2), scene.route(3, name=Y)
    waiter = scene.announce(4)
    assert waiter is not None
    assert scene.told() == [1, 2], "not those of other topics"
    revision = scene.store.revision
    scene.do(introduction.forget, 1, revision, 0.0)
    assert not scene.is_made(waiter)
    scene.do(introduction.forget, 2, revision, 0.0)
    assert scene.is_made(waiter)
    assert scene.announce(4) is None


def test_who_asks_again_has_forgotten_the_older_route() -> None:
    scene = Scene()
    scene.route(1)
    waiter = scene.announce(4)
    assert waiter is not None
    scene.route(1)
    assert scene.is_made(waiter)
    later = scene.announce(4)
    assert later is not None
    scene.do(introduction.forget, 1, scene.store.revision - 1, 0.0)  # An answer to the first announcement.
    assert not scene.is_made(later), "it may use the newer one"


def test_nobody_waits_for_the_dead_or_for_those_whose_time_is_up() -> None:
    scene = Scene()
    scene.route(1), scene.route(2, now=1.0)
    waiter = scene.announce(4, now=1.0)
    assert waiter is not None
    scene.do(sessions.bury, 1)
    assert not scene.is_made(waiter)
    assert scene.do(introduction.expire, X, 1.5) == 1.0 + ROUTE_S - 1.5
    assert scene.do(introduction.expire, X, 1.0 + ROUTE_S) is None
    assert scene.is_made(waiter)


def test_what_a_pattern_changes_is_told_to_the_publishers_of_all_topics() -> None:
    scene = Scene()
    scene.route(1), scene.route(2, name=Y), scene.route(2)
    waiter = scene.announce(4, name=b"")
    other = scene.announce(5)
    assert waiter is not None
    assert other is not None
    assert scene.told() == [1, 2, 1, 2]
    for session in (1, 2):
        assert not scene.is_made(waiter)
        scene.do(introduction.forget, session, scene.store.revision, 0.0)
    assert scene.is_made(waiter)
    assert scene.is_made(other)


def test_its_own_routes_a_session_forgets_by_itself() -> None:
    scene = Scene()
    scene.route(1)
    assert scene.announce(1) is None


def test_the_hall_hears_what_it_has_a_use_for() -> None:
    scene = Scene()
    name = pack_name("topic", "a.b")
    assert not scene.route(1, name=name).is_heard
    member = values.object_id(7, 1)
    scene.do(subscription.subscribe, pack_name("topic", "a.*"), member, member)
    assert scene.route(1, name=name).is_heard
    assert not scene.route(1).is_heard
    scene.do(subscription.configure, X, 5, (subscription.DROP, 5))
    assert scene.route(1)[2:] == (True, 5)


def test_what_is_relayed_is_collected_and_told() -> None:
    scene = Scene()
    _, member, mail = scene.join(2)
    scene.rung.clear()
    scene.do(topic.publish, X, (b"1", b"2"), 0.0, None, introduction.relay_of(X))
    scene.do(topic.publish, X, (b"direct",), 0.0, None)
    assert scene.rung == [mail]
    found: list[subscription.Fetched] = []
    assert scene.do(introduction.collect, found, X, member, 10, mail)
    assert list(found[0].messages) == [b"1", b"2"]
    assert not scene.do(introduction.collect, found, X, member, 10, mail)
    scene.rung.clear()
    scene.do(topic.publish, X, (b"3",), 0.0, None, introduction.relay_of(X))
    assert scene.rung == [mail], "each time anew"


def test_a_message_in_line_is_relayed_when_it_is_published() -> None:
    scene = Scene()
    _, member, mail = scene.join(2)
    slow = values.object_id(3, 1)
    scene.do(subscription.subscribe, X, slow, slow, None, subscription.BLOCK, 1)
    publish = (topic.publish, X)
    scene.do(*publish, (b"1",), 0.0, None, introduction.relay_of(X))
    assert scene.do(*publish, (b"2",), 0.0, Waiter(5, 1, 0), introduction.relay_of(X)) is PARKED
    assert scene.do(*publish, (b"direct",), 0.0, Waiter(6, 1, 0)) is PARKED
    found: list[subscription.Fetched] = []
    scene.do(introduction.collect, found, X, member, 10, mail)
    assert list(found[0].messages) == [b"1"]
    for _ in range(3):
        scene.do(subscription.fetch, X, slow, slow, 1, 3, None)
    scene.do(introduction.collect, found, X, member, 10, mail)
    assert list(found[0].messages) == [b"2"], "not what went there directly"


def test_topics_with_settings_are_subscribed_to_in_the_hall() -> None:
    scene = Scene()
    scene.do(subscription.configure, X, 5)
    assert scene.join(2)[0] is None


def test_all_who_leave_or_die_leave_nothing() -> None:
    scene = Scene()
    before = dict(scene.store.data)
    _, member, mail = scene.join(2)
    scene.join(3)
    scene.route(2), scene.route(3), scene.route(3, name=Y)
    scene.announce(4)
    scene.do(introduction.leave, member, mail)
    for session in (2, 3, 4):
        scene.do(sessions.bury, session)
    left = {key for key in scene.store.data if key not in before}
    assert left == set()
