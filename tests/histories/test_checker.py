"""The checker itself: histories made by hand, right ones and each kind of wrong one."""

from __future__ import annotations

from typing import Any

import models
import pytest
from checker import check, mutex, register, search
from models import Model, Wrong

from guildhall.primitives.limiter import Moment
from guildhall.store.keys import pack_int
from guildhall.testing.recorder import Call, Commit, History, assemble


class Story:
    """A history in the making, of one thing. By default a call's commits are inside of its time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.history = History()

    def call(self, session: int, method: str, args: tuple[Any, ...], result: Any, begin: int, end: int | None) -> Call:
        call = Call(session, "thing", "it", method, args, begin, end, result)
        self.history.calls.append(call)
        return call

    def commit(
        self,
        call: Call | None,
        number: int,
        op: str,
        /,
        answer: str = "yes",
        at: int = 0,
        wrote: bool = True,
        **facts: Any,
    ) -> Story:
        begin = call.begin if call is not None and not at else at - 1
        end = call.end if call is not None and not at else at + 1
        at = at or (begin + (end or begin)) // 2
        self.history.commits.append(Commit(number, wrote, op, facts, answer, begin, at, end, call))
        return self

    def check(self, prompt_ns: int | None = None) -> None:
        for position, c in enumerate(self.history.commits):
            c.position = position
        check(self.history, {("thing", "it"): self.model}, 1, prompt_ns)


def refused(story: Story, why: str, prompt_ns: int | None = None) -> None:
    with pytest.raises(Wrong, match=why):
        story.check(prompt_ns)


# -- values -----------------------------------------------------------------------------------------------------------


def updates(second: int, seen: int) -> Story:
    """A value is set to 0 and added to twice; the second adder read version `seen` and was told `second`."""
    story = Story(models.Variable())
    story.commit(story.call(1, "set", (0,), None, 0, 10), 1, "variable.put", "no")
    story.commit(story.call(1, "update", (1,), 1, 20, 40), 2, "variable.swap", seen=1)
    story.commit(story.call(2, "update", (1,), second, 20, 60), 3, "variable.swap", seen=seen)
    return story


def test_two_updates_after_each_other_are_right() -> None:
    story = updates(2, seen=2)
    story.check()
    search(story.history.calls, register)


def test_a_lost_update_is_found() -> None:
    refused(updates(1, seen=1), "replaces version 2, having read 1")
    refused(updates(1, seen=2), "but it came to 2")
    with pytest.raises(Wrong):
        search(updates(1, seen=1).history.calls, register)


def test_an_update_at_its_turn_counts_as_before_a_set_that_came_meanwhile() -> None:
    story = Story(models.Variable())
    story.commit(story.call(1, "set", (5,), None, 0, 10), 1, "variable.put", "no")
    story.commit(story.call(1, "set", (9,), None, 30, 40), 2, "variable.put", "no")
    story.commit(story.call(2, "update", (1,), 6, 20, 60), 3, "variable.finish", seen=1, at=55)
    story.commit(story.call(2, "update", (1,), 10, 70, 80), 4, "variable.swap", seen=2)
    story.check()
    search(story.history.calls, register)


def read_at(begin: int, end: int, result: Any) -> Story:
    """Set to 1 at 5, to 2 at 25, and read."""
    story = Story(models.Variable())
    story.commit(story.call(1, "set", (1,), None, 0, 10), 1, "variable.put", "no")
    story.commit(story.call(1, "set", (2,), None, 20, 30), 2, "variable.put", "no")
    story.call(2, "get", (), result, begin, end)
    return story


@pytest.mark.parametrize(("begin", "end", "result"), [(12, 15, 1), (12, 26, 1), (12, 26, 2), (31, 33, 2), (28, 29, 1)])
def test_a_read_may_see_what_was_there_in_its_time(begin: int, end: int, result: Any) -> None:
    read_at(begin, end, result).check()
    search(read_at(begin, end, result).history.calls, register)


@pytest.mark.parametrize(("begin", "end", "result"), [(31, 33, 1), (12, 15, 2), (31, 33, 3), (31, 33, "TimedOut")])
def test_a_stale_read_is_found_and_one_of_the_future(begin: int, end: int, result: Any) -> None:
    refused(read_at(begin, end, result), "not so at any time")
    with pytest.raises(Wrong):
        search(read_at(begin, end, result).history.calls, register)


def test_a_read_that_sees_less_than_a_read_before_it_is_found() -> None:
    story = read_at(25, 26, 2)
    story.call(3, "get", (), 1, 27, 28)
    refused(story, "not so at any time")
    with pytest.raises(Wrong):
        search(story.history.calls, register)


def test_a_number_given_twice_is_found() -> None:
    story = Story(models.Counter())
    story.commit(story.call(1, "add", (1,), 1, 0, 10), 1, "counter.add")
    story.commit(story.call(2, "add", (1,), 1, 0, 12), 2, "counter.add")
    refused(story, "but it came to 2")


# -- queues and topics ------------------------------------------------------------------------------------------------


def items(*got: tuple[int, list[int] | str]) -> Story:
    """7 and 8 are put, and then gotten by those sessions."""
    story = Story(models.Queue())
    for number, item in enumerate((7, 8)):
        story.commit(story.call(1, "put", (item, 0), None, number * 10, number * 10 + 5), number + 1, "queue.put")
    for number, (session, result) in enumerate(got, 3):
        call = story.call(session, "get", (1,), result, number * 10, number * 10 + 5)
        is_late = isinstance(result, str)
        story.commit(call, number, "queue.get", "busy" if is_late else "yes", wrote=not is_late)
    return story


def test_items_in_their_order_are_right() -> None:
    items((2, [7]), (3, [8]), (2, "TimedOut")).check()


def test_an_item_gotten_twice_is_found() -> None:
    refused(items((2, [7]), (3, [7])), r"but it came to \[8\]")
    refused(items((2, [7]), (3, [8]), (2, [8])), "not there or another's")


def test_a_lost_item_is_found() -> None:
    refused(items((2, [7]), (3, "TimedOut")), "has to wait, though there are items")


def test_a_broken_order_is_found() -> None:
    refused(items((2, [8]), (3, [7])), r"but it came to \[7\]")


def test_an_item_that_went_with_its_getter_before_that_fetched_it_is_found() -> None:
    def story(number_after: int) -> Story:
        told = Story(models.Queue())
        waiting = told.call(2, "get", (1,), None, 0, None)
        told.commit(waiting, 1, "queue.get", "parked", at=5)
        told.commit(told.call(1, "put", (7, 0), None, 10, 20), 2, "queue.put")
        told.commit(None, 3, "sessions.bury", at=30, session=2)
        found = [[7], []][number_after]
        told.commit(told.call(1, "get", (0,), found, 40, 50), 4, "queue.get")
        return told

    story(0).check()
    refused(story(1), r"but it came to \[7\]")


def died_in_hand(*found: int, arrived: bool, is_over: bool = False, may_die_unseen: bool = False) -> Story:
    """A session dies in its get, or behind it, and says by its mark whether the item had arrived."""
    told = Story(models.Queue())
    told.model.may_die_unseen = may_die_unseen
    told.commit(told.call(1, "put", (7, 0), None, 0, 5), 1, "queue.put")
    call = told.call(2, "get", (1,), [7] if is_over else None, 10, 20 if is_over else None)
    told.commit(call, 2, "queue.get", at=15, lane=pack_int(2) + pack_int(0), number=3)
    told.commit(None, 3, "sessions.bury", at=30, session=2, marks={0: 3 if arrived else 2})
    told.commit(told.call(1, "get", (0,), list(found), 40, 50), 4, "queue.get")
    return told


def test_an_item_comes_back_from_a_get_that_its_process_died_in_and_not_from_one_that_was_over() -> None:
    died_in_hand(7, arrived=False).check()
    died_in_hand(arrived=True, is_over=True).check()
    refused(died_in_hand(arrived=True), "which are lost")
    refused(died_in_hand(arrived=False), r"but it came to \[7\]")
    refused(died_in_hand(7, arrived=True, is_over=True), r"but it came to \[\]")


def test_where_nobody_knows_whether_a_get_returned_both_are_right() -> None:
    died_in_hand(7, arrived=False, may_die_unseen=True).check()
    died_in_hand(arrived=True, may_die_unseen=True).check()
    refused(died_in_hand(7, arrived=True, may_die_unseen=True), r"but it came to \[\]")


def messages(*got: Any) -> Story:
    story = Story(models.Topic())
    story.commit(story.call(2, "subscribe", (), None, 0, 5), 1, "topic.subscribe", "no")
    for number, message in enumerate((7, 8)):
        at = number * 10 + 10
        story.commit(story.call(1, "put", (message,), None, at, at + 5), number + 2, "topic.publish")
    for number, result in enumerate(got):
        story.call(2, "get", (), result, number * 10 + 30, number * 10 + 35)
    return story


def test_messages_lost_or_out_of_order_or_twice_are_found() -> None:
    messages(7, 8, "TimedOut").check()
    for got in ((8, 7), (7, 7), (8,), (7, "TimedOut", 8), (7, 8, 8)):
        refused(messages(*got), "not so at any time")


# -- what is held -----------------------------------------------------------------------------------------------------


def test_a_double_grant_is_found() -> None:
    story = Story(models.Lock())
    story.commit(story.call(1, "acquire", (), [True, 1, False, False], 0, 10), 1, "lock.acquire")
    story.commit(story.call(2, "acquire", (), [True, 2, False, False], 20, 30), 2, "lock.acquire")
    refused(story, "gets it, though it should wait")
    with pytest.raises(Wrong):
        search(story.history.calls, mutex)


def line(heir: int, told: int | None = None, late_ns: int = 0) -> Story:
    """Session 1 holds, 2 and then 3 wait, 1 releases; `heir` is told that it holds (as `told`, if not by that)."""
    story = Story(models.Lock())
    story.commit(story.call(1, "acquire", (), [True, 1, False, False], 0, 10), 1, "lock.acquire")
    for session in (2, 3):
        gets_it = session == heir
        result = [True, told or 4, False, False] if gets_it else None
        call = story.call(session, "acquire", (), result, session * 10, 60 + late_ns if gets_it else None)
        story.commit(call, session, "lock.acquire", "parked", at=session * 10 + 5)
    story.commit(story.call(1, "release", (), True, 45, 55), 4, "lock.release")
    return story


def test_a_hand_over_to_the_longest_waiter_is_right() -> None:
    line(heir=2).check(prompt_ns=100)
    search(line(heir=2).history.calls, mutex)


def test_an_unfair_hand_over_is_found() -> None:
    refused(line(heir=3), "is over, and stands in line still")


def test_a_wrong_token_is_found() -> None:
    refused(line(heir=2, told=3), "but it came to")


def test_a_waiter_that_sleeps_on_is_found() -> None:
    refused(line(heir=2, late_ns=1000), "slept on", prompt_ns=100)


def test_a_grant_before_its_time_is_found() -> None:
    story = line(heir=2)
    waiting = story.history.calls[1]
    waiting.end = 40
    refused(story, "it had its answer before there was one")


def test_a_lock_that_a_dead_holder_keeps_is_found() -> None:
    story = Story(models.Lock())
    story.commit(story.call(1, "acquire", (), None, 0, None), 1, "lock.acquire", at=5)
    story.commit(None, 2, "sessions.bury", at=15, session=1)
    story.commit(story.call(2, "acquire", (), False, 20, 30), 3, "lock.acquire", "busy", wrote=False)
    refused(story, "is refused, though it should get it at once")


def test_one_lease_too_many_is_found() -> None:
    story = Story(models.Pool(2))
    for number in (1, 2, 3):
        story.commit(story.call(number, "acquire", (), True, number * 10, number * 10 + 5), number, "semaphore.acquire")
    refused(story, "gets it, though it should wait")


# -- order and doubt --------------------------------------------------------------------------------------------------


def test_a_commit_that_was_done_before_one_of_a_lower_number_began_is_found() -> None:
    story = Story(models.Counter())
    story.commit(story.call(1, "add", (1,), 1, 20, 30), 1, "counter.add")
    story.commit(story.call(2, "add", (1,), 2, 0, 10), 2, "counter.add")
    refused(story, "was done before one began")


@pytest.mark.parametrize(("second", "why"), [(1, "two commits have one number"), (3, "commit 2 is nobody's")])
def test_a_number_used_twice_or_by_nobody_is_found(second: int, why: str) -> None:
    story = Story(models.Counter())
    story.commit(story.call(1, "add", (1,), 1, 0, 10), 1, "counter.add")
    story.commit(story.call(2, "add", (1,), 2, 20, 30), second, "counter.add")
    refused(story, why)


def log(number: int, *, done: bool, at: int) -> list[tuple[Any, ...]]:
    """A process that adds 1 to a counter, as commit `number`, and may die there."""
    records: list[tuple[Any, ...]] = [
        ("call", 1, number, "thing", "it", "add", (1,), at),
        ("inside", number, True, "counter.add", {}, "yes", at + 1, at + 2, 1, 0),
    ]
    return [*records, ("done", at + 3), ("over", number, at + 4)] if done else records


def decided(*logs: list[tuple[Any, ...]]) -> list[int]:
    """The times of those commits that took place."""
    history = assemble(logs)
    assert all(call.is_over == (call.result is not None) for call in history.calls)
    return [c.inside for c in history.commits]


def test_of_what_died_inside_a_commit_the_number_tells_whether_it_took_place() -> None:
    assert decided(log(1, done=False, at=0), log(1, done=True, at=10)) == [12], "the next one used the number"
    assert decided(log(1, done=False, at=0), log(2, done=True, at=10)) == [2, 12], "nobody else used it"
    assert decided(log(1, done=False, at=20), log(1, done=False, at=0), log(2, done=True, at=30)) == [22, 32]


def test_a_call_that_died_may_have_happened_or_not() -> None:
    def story(seen: int) -> list[Call]:
        return [
            Call(1, "thing", "it", "set", (1,), 0, 10),
            Call(2, "thing", "it", "set", (2,), 20, None),
            Call(3, "thing", "it", "get", (), 30, 40, seen),
        ]

    search(story(1), register)
    search(story(2), register)
    with pytest.raises(Wrong):
        search(story(3), register)


def test_a_barrier_that_lets_go_one_too_early_is_found() -> None:
    story = Story(models.Barrier(3))
    story.commit(story.call(1, "wait", (), 0, 0, 40), 1, "barrier.wait", "parked", at=5)
    story.commit(story.call(2, "wait", (), 1, 20, 30), 2, "barrier.wait", "yes")
    refused(story, "gets it, though it should wait")


def test_a_limiter_that_lets_go_too_many_is_found() -> None:
    def story(third_ns: int) -> Story:
        told = Story(models.RateLimiter(2, 1000))
        for number, ns in enumerate((0, 500, third_ns), 1):
            call = told.call(number, "acquire", (1,), True, number * 10, number * 10 + 5)
            told.commit(call, number, "limiter.acquire", now=Moment("", ns))
        return told

    story(1000).check()
    refused(story(999), "gets it, though it should wait")
