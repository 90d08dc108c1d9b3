"""Ops of Barrier, Latch, Condition, Election and RateLimiter over the memory store: no processes, no sleep."""

from __future__ import annotations

from typing import Any

import pytest

from guildhall.errors import BrokenBarrier, Misuse, NotHeld
from guildhall.primitives import barrier, condition, election, latch, limiter, lock, sessions, values, waiters
from guildhall.primitives.condition import Guard
from guildhall.primitives.limiter import Moment, Terms
from guildhall.primitives.op import BUSY, PARKED
from guildhall.primitives.values import FINISHED
from guildhall.store.keys import pack_name
from guildhall.store.memory import MemoryStore
from guildhall.store.transaction import Waiter

N, GUARD = pack_name("test", "n"), pack_name("test", "guard")
W1, W2, W3 = Waiter(1, 1, 1), Waiter(2, 1, 1), Waiter(3, 1, 1)


@pytest.fixture
def rung() -> list[Waiter]:
    return []


@pytest.fixture
def store(rung: list[Waiter]) -> MemoryStore:
    made = MemoryStore(ring=rung.append)
    for number in (1, 2, 3):
        made.transact(sessions.join, sessions.Session(number, 100 + number, "process"))
    return made


def lines(store: MemoryStore) -> int:
    return sum(key[:1] in (waiters.LINES, waiters.WAITS, condition.NOTIFIED) for key in store.keys)


# Latch


def test_a_latch_lets_all_go_at_zero_and_stays_open(store: MemoryStore, rung: list[Waiter]) -> None:
    assert store.transact(latch.wait, N, 2, None) is BUSY
    assert store.transact(latch.wait, N, 2, W2) is PARKED
    assert store.transact(latch.wait, N, 2, W3) is PARKED
    assert store.transact(latch.count_down, N, 2, 1) == 1
    assert rung == []
    assert store.transact(latch.count_down, N, 2, 5) == 0
    assert rung == [W2, W3]
    assert store.transact(latch.wait, N, 2, None) is True
    assert store.transact(latch.count_down, N, 2, 1) == 0


def test_a_latch_of_another_count_is_refused(store: MemoryStore) -> None:
    store.transact(latch.count_down, N, 3, 1)
    with pytest.raises(Misuse, match="made with count 3, here with 2"):
        store.transact(latch.count_down, N, 2, 1)


# Barrier


def test_the_last_party_lets_all_go_and_the_next_round_is_another(store: MemoryStore, rung: list[Waiter]) -> None:
    for _ in range(2):
        assert store.transact(barrier.wait, N, 3, W1) is PARKED
        assert store.transact(barrier.wait, N, 3, W2) is PARKED
        assert store.transact(barrier.wait, N, 3, W3) == 2
        assert rung == [W1, W2]
        assert [store.transact(barrier.collect, w).index for w in (W1, W2)] == [0, 1]
        rung.clear()
    assert store.read(barrier.look, N, 3).trips == 2
    assert lines(store) == 0


def test_a_party_that_dies_while_it_waits_breaks_the_barrier_for_the_others(store: MemoryStore) -> None:
    store.transact(barrier.wait, N, 3, W1)
    store.transact(barrier.wait, N, 3, W2)
    store.transact(sessions.bury, 2)
    assert "session 2" in store.transact(barrier.collect, W1).broken
    with pytest.raises(BrokenBarrier, match=r"session 2\) died while it waited; reset"):
        store.transact(barrier.wait, N, 3, W3)
    store.transact(barrier.reset, N, 3)
    assert store.transact(barrier.wait, N, 3, W3) is PARKED


def test_a_party_that_dies_after_the_round_breaks_nothing(store: MemoryStore) -> None:
    store.transact(barrier.wait, N, 2, W1)
    assert store.transact(barrier.wait, N, 2, W2) == 1
    store.transact(sessions.bury, 1)
    assert not store.read(barrier.look, N, 2).broken
    assert lines(store) == 0


def test_a_timeout_breaks_and_an_interruption_only_leaves(store: MemoryStore) -> None:
    store.transact(barrier.wait, N, 3, W1)
    store.transact(barrier.wait, N, 3, W2)
    store.transact(barrier.withdraw, N, 3, W1)
    assert store.read(barrier.look, N, 3) == barrier.Barrier(3, 1)
    store.transact(barrier.wait, N, 3, W3)
    assert store.transact(barrier.give_up, N, 3, W3)
    assert "time of a party (session 3)" in store.transact(barrier.collect, W2).broken
    assert not store.transact(barrier.give_up, N, 3, W3)
    assert lines(store) == 0


def test_trying_once_breaks_a_barrier_unless_it_is_the_last(store: MemoryStore) -> None:
    assert store.transact(barrier.wait, N, 1, None) == 0
    other = pack_name("test", "other")
    store.transact(barrier.wait, other, 2, W1)
    assert store.transact(barrier.wait, other, 2, None) == 1
    assert store.transact(barrier.wait, other, 2, None) is BUSY
    assert store.read(barrier.look, other, 2).broken


def test_the_first_reason_for_which_a_barrier_broke_is_kept(store: MemoryStore) -> None:
    store.transact(barrier.abort, N, 2)
    store.transact(barrier.abort, N, 2)
    with pytest.raises(BrokenBarrier, match="aborted"):
        store.transact(barrier.wait, N, 2, W1)
    with pytest.raises(Misuse, match="made for 2 parties, here for 3"):
        store.transact(barrier.wait, N, 3, W1)


# Condition


def hold(store: MemoryStore, session: int, attempt: int = -1) -> None:
    assert isinstance(store.transact(lock.acquire, GUARD, session, 1, attempt, None), lock.Lock)


def guard(session: int) -> Guard:
    return Guard(lock.LOCKS + GUARD, session, 1)


def sleep(store: MemoryStore, waiter: Waiter) -> None:
    hold(store, waiter.session)
    assert store.transact(condition.wait, N, guard(waiter.session), waiter, 0.0) is PARKED


def notify(store: MemoryStore, session: int, number: int | None = 1) -> None:
    hold(store, session)
    store.transact(condition.notify, N, guard(session), number, 0.0)
    store.transact(lock.release, GUARD, session, 1)


def holder(store: MemoryStore) -> int:
    held: Any = store.read(lock.look, GUARD)
    return 0 if held is None else held.session


def test_waiting_frees_the_lock_and_a_notified_waiter_is_rung_when_it_has_it(
    store: MemoryStore, rung: list[Waiter]
) -> None:
    sleep(store, W2)
    assert holder(store) == 0
    hold(store, 1)
    store.transact(condition.notify, N, guard(1), 1, 0.0)
    assert rung == []
    assert not store.read(waiters.is_granted, W2)
    store.transact(lock.release, GUARD, 1, 1)
    assert rung == [W2]
    held: Any = store.transact(condition.collect, guard(2), W2)
    assert (held.session, held.grant) == (2, 1)
    store.transact(lock.release, GUARD, 2, 1)
    assert lines(store) == 0


def test_all_who_are_notified_at_once_are_served_in_their_order_even_with_equal_numbers(store: MemoryStore) -> None:
    for waiter in (W3, W1, W2):
        sleep(store, waiter)
    sessions_in_turn = []
    store.transact(sessions.join, sessions.Session(4, 104, "process"))
    notify(store, 4, None)
    while (session := holder(store)) != 0:
        sessions_in_turn.append(session)
        store.transact(condition.collect, guard(session), Waiter(session, 1, 1))
        store.transact(lock.release, GUARD, session, 1)
    assert sessions_in_turn == [3, 1, 2]
    assert lines(store) == 0


@pytest.mark.parametrize("when", ["in the lock's line", "when it had the lock"])
def test_what_a_waiter_was_told_before_it_died_is_passed_on(store: MemoryStore, when: str) -> None:
    sleep(store, W2)
    sleep(store, W3)
    hold(store, 1)
    store.transact(condition.notify, N, guard(1), 1, 0.0)
    if when == "when it had the lock":
        store.transact(lock.release, GUARD, 1, 1)
        store.transact(sessions.bury, 2)
    else:
        store.transact(sessions.bury, 2)
        store.transact(lock.release, GUARD, 1, 1)
    assert holder(store) == 3
    assert store.transact(condition.collect, guard(3), W3) is not None


def test_what_an_interrupted_waiter_was_told_is_passed_on(store: MemoryStore) -> None:
    sleep(store, W2)
    sleep(store, W3)
    notify(store, 1)
    kept = store.transact(condition.turn_back, N, guard(2), W2, 0.0)
    assert kept is not None, "it has the lock"
    store.transact(lock.release, GUARD, 2, 1)
    assert holder(store) == 3


def test_a_waiter_that_returned_has_consumed_what_it_was_told(store: MemoryStore) -> None:
    sleep(store, W2)
    sleep(store, W3)
    notify(store, 1)
    store.transact(condition.collect, guard(2), W2)
    store.transact(sessions.bury, 2)
    assert holder(store) == 0
    assert not store.read(waiters.is_granted, W3)


def test_a_waiter_whose_time_is_up_stands_in_line_for_the_lock(store: MemoryStore) -> None:
    sleep(store, W2)
    hold(store, 1)
    assert store.transact(condition.time_up, N, W2, 0.0)
    store.transact(lock.release, GUARD, 1, 1)
    assert holder(store) == 2
    assert store.transact(condition.collect, guard(2), W2) is not None
    store.transact(lock.release, GUARD, 2, 1)
    sleep(store, W3)
    assert store.transact(condition.time_up, N, W3, 0.0)
    assert holder(store) == 3, "a free lock is taken at once"


def test_a_waiter_that_was_told_before_its_time_was_up_is_not_late(store: MemoryStore) -> None:
    sleep(store, W2)
    hold(store, 1)
    store.transact(condition.notify, N, guard(1), 1, 0.0)
    assert not store.transact(condition.time_up, N, W2, 0.0)
    store.transact(lock.release, GUARD, 1, 1)
    assert not store.transact(condition.time_up, N, W2, 0.0)
    assert store.transact(condition.collect, guard(2), W2) is not None


def test_a_notified_waiter_that_is_first_in_line_is_rung_to_look_when_a_lease_ends(
    store: MemoryStore, rung: list[Waiter]
) -> None:
    sleep(store, W2)
    sleep(store, W3)
    held = store.transact(lock.acquire, GUARD, 1, 1, -1, None, 0.0, 5.0)
    assert isinstance(held, lock.Lock)
    store.transact(condition.notify, N, guard(1)._replace(lease_s=5.0, grant=held), None, 1.0)
    assert rung == [W2], "only the first in line takes over"
    assert store.transact(lock.lapse, GUARD, 5.0)
    assert holder(store) == 2


def test_only_the_holder_waits_and_notifies(store: MemoryStore) -> None:
    with pytest.raises(NotHeld, match="only the holder of its lock 'guard' can wait"):
        store.transact(condition.wait, N, guard(1), W1, 0.0)
    hold(store, 2)
    with pytest.raises(NotHeld, match="can notify"):
        store.transact(condition.notify, N, guard(1), 1, 0.0)
    assert holder(store) == 2


def test_a_condition_with_two_locks_is_refused(store: MemoryStore) -> None:
    sleep(store, W2)
    store.transact(lock.acquire, N, 1, 1, -1, None)
    with pytest.raises(Misuse, match="others wait with lock 'guard', here it is lock 'n'"):
        store.transact(condition.notify, N, Guard(lock.LOCKS + N, 1, 1), 1, 0.0)


# Election


def stand(store: MemoryStore, session: int, value: bytes = b"v", waiter: Waiter | None = None) -> Any:
    attempt = -1 if waiter is None else waiter.number
    return store.transact(election.campaign, N, session, 1, attempt, value, waiter)


def test_the_longest_candidate_leads_when_the_leader_dies_and_terms_grow(
    store: MemoryStore, rung: list[Waiter]
) -> None:
    first = stand(store, 1, b"one")
    assert stand(store, 2, b"two") is BUSY
    assert stand(store, 3, b"three", W3) is PARKED
    assert stand(store, 2, b"two", W2) is PARKED
    store.transact(sessions.bury, 1)
    assert rung == [W3]
    second: Any = store.read(election.look, N)
    assert (second.session, second.value) == (3, b"three")
    assert second.term > first.term
    store.transact(election.resign, N, 3, 1)
    third: Any = store.read(election.look, N)
    assert (third.session, third.value) == (2, b"two")
    assert third.term > second.term


def test_observers_hear_of_every_change(store: MemoryStore, rung: list[Waiter]) -> None:
    assert store.transact(election.await_change, N, 0, W3) is PARKED
    led = stand(store, 1)
    assert rung == [W3]
    assert store.transact(election.await_change, N, 0, W3) == led
    assert store.transact(election.await_change, N, led.changed, W3) is PARKED
    changed = stand(store, 1, b"new value")
    assert (changed.term, changed.value) == (led.term, b"new value")
    assert store.transact(election.await_change, N, led.changed, None) == changed
    assert store.transact(election.await_change, N, changed.changed, None) is BUSY
    store.transact(election.resign, N, 1, 1)
    assert store.transact(election.await_change, N, changed.changed, None) is None


def test_only_the_leader_resigns(store: MemoryStore) -> None:
    with pytest.raises(NotHeld, match="nobody leads"):
        store.transact(election.resign, N, 1, 1)
    stand(store, 1)
    with pytest.raises(NotHeld, match="led by handle 1 of session 1"):
        store.transact(election.resign, N, 2, 1)


def test_a_candidate_that_leaves_after_it_was_elected_resigns(store: MemoryStore) -> None:
    stand(store, 1)
    stand(store, 2, b"v", W2)
    store.transact(election.resign, N, 1, 1)
    assert not store.transact(election.leave, W2, b"v")
    store.transact(election.withdraw, N, W2, b"v")
    assert store.read(election.look, N) is None


def test_values_of_leaders_and_candidates_keep_their_objects_no_longer_than_needed(store: MemoryStore) -> None:
    oids = [values.object_id(9, number) for number in range(1, 5)]
    for oid in oids:
        store.transact(values.make, oid, FINISHED, b"data")
    one, two, three, four = (values.pack(b"ref", (oid,)) for oid in oids)
    stand(store, 1, one)
    stand(store, 2, two, W2)
    stand(store, 3, three, W3)
    store.transact(values.release_for, 9, oids[:3])

    def alive() -> list[bool]:
        return [store.read(values.look, oid) is not None for oid in oids[:3]]

    assert alive() == [True, True, True]
    stand(store, 1, four)
    assert alive() == [False, True, True]
    store.transact(sessions.bury, 2)
    assert alive() == [False, False, True]
    store.transact(sessions.bury, 1)
    assert alive() == [False, False, True]
    store.transact(election.resign, N, 3, 1)
    assert alive() == [False, False, False]


# RateLimiter


TEN = Terms(10, 1_000_000_000, 1)
T = 100_000_000


def at(ns: int) -> Moment:
    return Moment("boot", ns)


def take(store: MemoryStore, ns: int, terms: Terms = TEN, number: int = 1, waiter: Waiter | None = None) -> Any:
    return store.transact(limiter.acquire, N, terms, number, at(ns), waiter)


def test_units_are_evenly_spaced_without_a_burst(store: MemoryStore) -> None:
    assert take(store, 5) is True
    assert take(store, 5 + T - 1) is BUSY
    assert take(store, 5 + T) is True
    assert take(store, 5 + 20 * T) is True
    assert take(store, 5 + 20 * T) is BUSY, "what was not used is not saved"


def test_a_burst_goes_at_once_and_is_saved_again(store: MemoryStore) -> None:
    terms = Terms(10, 1_000_000_000, 4)
    assert take(store, 0, terms, 3) is True
    assert take(store, 0, terms, 2) is BUSY
    assert take(store, 0, terms) is True
    assert take(store, T, terms, 2) is BUSY
    assert take(store, 2 * T, terms, 2) is True
    assert take(store, 10 * T, terms, 4) is True


FIVE = Terms(5, 1_000_000_000, 0)
S = 1_000_000_000


def test_without_a_burst_all_go_at_once_and_no_more_in_any_period(store: MemoryStore) -> None:
    for at_ns in (0, 0, 600, 700):
        assert take(store, at_ns, FIVE) is True
    assert take(store, 700, FIVE, 2) is BUSY
    assert take(store, 800, FIVE) is True
    assert take(store, S - 1, FIVE) is BUSY
    assert take(store, S, FIVE, 3) is BUSY
    assert take(store, S, FIVE, 2) is True
    assert take(store, S + 599, FIVE) is BUSY
    assert take(store, S + 600, FIVE) is True


def test_without_a_burst_waiters_go_when_those_a_period_ago_went(store: MemoryStore) -> None:
    assert take(store, 0, FIVE, 2) is True
    assert take(store, 300, FIVE, 3) is True
    many = [Waiter(1, number, 1) for number in range(1, 5)]
    for waiter in many:
        assert take(store, 400, FIVE, 2, waiter) is PARKED
    assert [store.read(limiter.due, waiter) for waiter in many] == [S, S + 300, 2 * S, 2 * S + 300]
    assert store.transact(limiter.turn, N, FIVE, at(S + 300), many[1]) is None
    assert store.read(limiter.due, many[0]) is None
    assert store.transact(limiter.turn, N, FIVE, at(2 * S), many[2]) == 2 * S + 300, "those before it were late"


def test_the_log_of_a_limiter_is_no_longer_than_a_period(store: MemoryStore) -> None:
    for at_ns in range(0, 20 * S, S // 7):
        take(store, at_ns, FIVE)
    assert sum(key.startswith(limiter.LOGS) for key in store.keys) <= 5


def test_the_log_of_a_high_rate_is_kept_in_grains(store: MemoryStore) -> None:
    fast = Terms(10**9, S, 0)
    for at_ns in range(0, 3 * S, S // 3000):
        assert take(store, at_ns, fast, 100) is True
    assert limiter.GRAINS / 2 < sum(key.startswith(limiter.LOGS) for key in store.keys) <= limiter.GRAINS + 2


def test_waiters_go_in_turn_each_at_its_time(store: MemoryStore, rung: list[Waiter]) -> None:
    take(store, 0)
    for waiter in (W1, W2, W3):
        assert take(store, 0, waiter=waiter) is PARKED
    assert [store.read(limiter.due, waiter) for waiter in (W1, W2, W3)] == [T, 2 * T, 3 * T]
    assert take(store, 50 * T) is BUSY, "not before those who wait"
    assert store.transact(limiter.turn, N, TEN, at(T), W1) is None
    assert store.transact(limiter.turn, N, TEN, at(2 * T - 1), W2) == 2 * T
    assert store.transact(limiter.turn, N, TEN, at(3 * T), W3) == 4 * T, "it woke the one before it, who was late"
    assert rung == [W2], "who asks is awake"
    assert store.transact(limiter.turn, N, TEN, at(4 * T), W3) is None


def test_those_behind_a_waiter_that_leaves_or_dies_move_up(store: MemoryStore, rung: list[Waiter]) -> None:
    take(store, 0)
    for waiter in (W1, W2, W3):
        take(store, 0, waiter=waiter)
    assert store.transact(limiter.leave, N, 1, W1)
    assert rung == [W2]
    assert store.read(limiter.due, W2) == T
    store.transact(sessions.bury, 2)
    assert rung == [W2, W3]
    assert store.read(limiter.due, W3) == T
    assert store.transact(limiter.turn, N, TEN, at(T), W3) is None
    assert not store.transact(limiter.leave, N, 1, W3)
    assert store.read(limiter.look, N, TEN, at(T)).queued == 0
    assert lines(store) == 0


def test_thirds_of_a_nanosecond_are_not_lost(store: MemoryStore) -> None:
    terms = Terms(3, 1_000_000_000, 2)
    assert take(store, 0, terms, 2) is True
    for number in range(1, 301):
        due = -(-number * 1_000_000_000 // 3)
        assert take(store, due - 1, terms) is BUSY
        assert take(store, due, terms) is True


def test_a_clock_that_was_read_earlier_and_a_machine_started_anew_let_nothing_more_go(store: MemoryStore) -> None:
    assert take(store, 10 * T) is True
    assert take(store, 9 * T) is BUSY
    terms = Terms(10, 1_000_000_000, 1)
    assert store.transact(limiter.acquire, N, terms, 1, Moment("next boot", 5), None) is BUSY
    assert store.transact(limiter.acquire, N, terms, 1, Moment("next boot", 5 + T), None) is True


def test_a_machine_started_anew_begins_with_a_whole_period(store: MemoryStore) -> None:
    assert take(store, 10 * S, FIVE, 3) is True
    for ns, answer in ((5, BUSY), (4 + S, BUSY), (5 + S, True)):
        assert store.transact(limiter.acquire, N, FIVE, 5, Moment("next boot", ns), None) is answer
    assert take(store, 10 * S, FIVE) is BUSY, "nor does the one before"


def test_a_limiter_on_other_terms_is_refused(store: MemoryStore) -> None:
    take(store, 0)
    with pytest.raises(Misuse, match="made with 10 in 1 s, burst 1, here with 5 in 1 s, burst 1"):
        take(store, 0, Terms(5, 1_000_000_000, 1))


def test_nothing_is_left_in_line_when_all_are_buried(store: MemoryStore) -> None:
    store.transact(latch.wait, pack_name("test", "latch"), 1, Waiter(1, 11, 0))
    store.transact(barrier.wait, N, 3, Waiter(1, 12, 0))
    store.transact(barrier.wait, N, 3, Waiter(2, 12, 0))
    sleep(store, Waiter(1, 13, 0))
    sleep(store, Waiter(2, 13, 0))
    notify(store, 3)
    stand(store, 1)
    stand(store, 2, b"v", Waiter(2, 14, 0))
    store.transact(election.await_change, N, 0, Waiter(3, 15, 0))
    take(store, 0)
    take(store, 0, waiter=Waiter(3, 16, 0))
    for number in (2, 1, 3):
        store.transact(sessions.bury, number)
    assert lines(store) == 0
    assert store.read(election.look, N) is None
    assert store.read(limiter.look, N, TEN, at(0)).queued == 0
