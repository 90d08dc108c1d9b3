"""Variables that are changed and watched: threads, processes that are killed, tasks, asyncio, Ctrl-C, bad input."""

from __future__ import annotations

import asyncio
import mmap
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from faults import Child, eventually
from test_ctrl_c import interrupted, pestered, records

import guildhall
from guildhall import Client, Counter, Event, Hall, Misuse, TimedOut, Unpicklable, Variable, Watch, aio
from guildhall.client.handles import change
from guildhall.hosts import current
from guildhall.primitives import variable as ops


@pytest.fixture
def current_hall(hall: Hall) -> Iterator[Hall]:
    current.add_default(hall.host)
    yield hall
    current.remove_default(hall.host)


@pytest.fixture
def v(hall: Hall) -> Variable:
    return Variable("v", hall=hall)


def turns(hall: Any) -> int:
    return int(hall.host.read(lambda txn: len(list(txn.scan(ops.TURNS)))))


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time; their results, in order."""
    results: list[Any] = [None] * len(calls)

    def run(place: int) -> None:
        results[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


# -- get --------------------------------------------------------------------------------------------------------------


def test_get_keeps_its_time_though_what_is_set_is_deleted_at_once(hall: Hall) -> None:
    class Fleeting(Variable):
        """Each time that a wait for the value is over, it is deleted just before we look."""

        def _get_flow(self, host: Any, timeout_s: float | None) -> Any:
            if timeout_s:
                time.sleep(min(timeout_s, 0.01))
                return None
            return (yield from super()._get_flow(host, timeout_s))

    with pytest.raises(TimedOut, match=r"nothing came within 0\.1 s"):
        Fleeting("v", hall=hall).get(timeout="100ms")


# -- update -----------------------------------------------------------------------------------------------------------


def test_update_gives_the_function_a_copy_and_returns_the_new_value(v: Variable) -> None:
    v.set([1])
    given: list[Any] = []

    def append(old: list[int]) -> list[int]:
        given.append(old)
        old.append(2)
        return old

    assert v.update(append) == [1, 2]
    given[0].append(3)
    assert v.get() == [1, 2]
    assert v.update(lambda _: None) is None
    assert v.get() is None


def test_update_waits_for_the_first_value(v: Variable) -> None:
    with pytest.raises(TimedOut, match="nothing came within 0"):
        v.update(lambda n: n + 1, timeout=0)
    with pytest.raises(TimedOut, match=r"nothing came within 0\.02"):
        v.update(lambda n: n + 1, timeout="20ms")
    got = in_threads(lambda: v.update(lambda n: n + 1, timeout=10), lambda: time.sleep(0.05) or v.set(1))
    assert got == [2, None]


def test_a_function_that_fails_changes_nothing(hall: Hall, v: Variable, monkeypatch: pytest.MonkeyPatch) -> None:
    v.set([1])
    for tries in (4, 0):
        monkeypatch.setattr(change, "FREE_TRIES", tries)
        before = v.version
        with pytest.raises(ZeroDivisionError):
            v.update(lambda n: n.append(2) or 1 / 0)
        with pytest.raises(Unpicklable):
            v.update(lambda n: threading.Lock())
        assert (v.get(), v.version) == ([1], before)
        assert turns(hall) == 0


def test_an_update_with_timeout_0_tries_once(v: Variable) -> None:
    v.set(0)

    def beaten(n: int) -> int:
        v.set(10)
        return n + 1

    with pytest.raises(TimedOut, match="others changed it at each of 1 tries"):
        v.update(beaten, timeout=0)
    assert v.get() == 10
    assert v.update(lambda n: n + 1, timeout=0) == 11


def test_an_update_that_is_always_beaten_takes_its_turn_and_succeeds(hall: Hall, v: Variable) -> None:
    v.set(0)
    tries = []

    def slow(n: int) -> int:
        tries.append(n)
        other = threading.Thread(target=lambda: Variable("v", hall=hall).update(lambda m: m + 1))
        other.start()
        other.join(0.1 if turns(hall) else 10)
        late.append(other)
        return n + 100

    late: list[threading.Thread] = []
    assert v.update(slow) == 104
    for other in late:
        other.join(10)
    assert tries == [0, 1, 2, 3, 4]
    assert v.get() == 105, "the last one waited for the turn"
    assert turns(hall) == records(hall) == 0


def test_a_set_does_not_wait_for_a_turn_and_counts_as_after_it(
    hall: Hall, v: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "FREE_TRIES", 0)
    for change_it, left in ((lambda: v.set(-1), -1), (v.delete, None)):
        v.set(1)
        assert v.update(lambda n, change_it=change_it: change_it() or n + 1) == 2
        assert v.statistics().is_set is (left is not None)
        assert left is None or v.get() == left
        assert turns(hall) == 0


def test_a_variable_that_is_unset_at_its_turn_lets_others_set_it(
    hall: Hall, v: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "FREE_TRIES", 0)
    waiting = lambda: v.update(lambda n: n + 1, timeout=10)  # noqa: E731

    def first() -> bool:
        assert eventually(lambda: records(hall) == 4)
        return v.compare_and_set(new=5, expected_version=0)

    assert sorted(in_threads(waiting, waiting, first)) == [True, 6, 7]
    assert turns(hall) == records(hall) == 0


def test_an_update_inside_itself_is_refused(hall: Hall, v: Variable) -> None:
    v.set(0)
    same, other = Variable("v", hall=hall), Variable("w", hall=hall)
    for inner in (lambda: same.update(lambda n: n), lambda: same.compare_and_set(0, 1)):
        with pytest.raises(Misuse, match="inside another change of it"):
            v.update(lambda n, inner=inner: inner())
    other.set(1)
    assert v.update(lambda n: other.update(lambda m: m + 1)) == 2
    assert v.update(lambda n: n + 1) == 3


def test_a_function_that_forks_does_not_end_its_parents_turn(
    hall: Hall, v: Variable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change, "FREE_TRIES", 0)
    v.set(0)
    pids: list[int] = []

    def fork(n: int) -> int:
        """The child comes back from it first, with its parent's turn in its hands."""
        if not pids:
            pids.append(os.fork())
            if pids[0]:
                time.sleep(0.2)
                assert turns(hall) == 1
        return n + 1

    new = 0
    try:
        new = v.update(fork)
    finally:
        if pids == [0]:
            os._exit(new)
    assert new == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 2
    assert v.get() == 2
    assert turns(hall) == records(hall) == 0


def test_threads_lose_no_update(hall: Hall, v: Variable) -> None:
    v.set(0)

    def work() -> list[int]:
        mine = Variable("v", hall=hall)
        return [mine.update(lambda n: n + 1) for _ in range(300)]

    got = in_threads(*[work] * 4)
    assert sorted(n for some in got for n in some) == list(range(1, 1201))
    assert turns(hall) == records(hall) == 0


def history(hall: Hall, number: int, seed: int, go: Event) -> list[tuple[float, float, int]]:
    """Updates, fast and slow, and compare_and_sets that append what is this process's own: (began, ended, what)."""
    dice, mine, done = random.Random(seed), Variable("v", hall=hall), []
    go.wait(10)
    for step in range(60):
        what = number * 1000 + step
        began = time.monotonic()
        kind = dice.randrange(3)
        if kind == 2:
            seen = mine.get()
            if not mine.compare_and_set(seen, (*seen, what)):
                continue
        else:
            nap_s = dice.random() * 0.004 * kind
            mine.update(lambda seen, what=what, nap_s=nap_s: time.sleep(nap_s) or (*seen, what))
        done.append((began, time.monotonic(), what))
    return done


def test_what_processes_did_is_one_history(hall: Hall, v: Variable) -> None:
    """The value is its own history: what succeeded is in it once, in an order that real time allows."""
    seed, go = random.randrange(1 << 30), Event("go", hall=hall)
    v.set(())
    children = [Child(history, hall, number, seed + number, go) for number in (1, 2, 3)]
    go.set()
    done = {what: (began, ended) for child in children for began, ended, what in child.result()}
    value = v.get()
    assert sorted(value) == sorted(done), f"seed {seed}"
    latest = 0.0
    for what in value:
        began, ended = done[what]
        assert ended >= latest, f"{what} ended before one ahead of it began, seed {seed}"
        latest = max(latest, began)
    assert turns(hall) == records(hall) == 0


def test_updates_survive_kills_at_any_moment(hall: Hall, v: Variable) -> None:
    """Each kill leaves at most one update that was made and not noted; nobody waits for a dead one's turn."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    v.set(0)
    memory = mmap.mmap(-1, 8 * 64)
    noted = memoryview(memory).cast("q")

    def labour(place: int) -> None:
        while True:
            nap_s = random.random() * 0.002
            v.update(lambda n, nap_s=nap_s: time.sleep(nap_s) or n + 1, timeout=20)
            noted[place] += 1

    children = [Child(labour, place) for place in range(3)]
    for place in range(3, 43):
        before = noted.tolist()
        assert eventually(lambda before=before: noted.tolist() != before, 20), f"nobody goes on, seed {seed}"
        time.sleep(dice.random() * 0.01)
        children.pop(0).kill()
        children.append(Child(labour, place))
    for child in children:
        child.kill()
    v.update(lambda n: n, timeout=20)
    assert sum(noted) <= v.get() <= sum(noted) + 43, f"seed {seed}"
    assert turns(hall) == records(hall) == 0
    noted.release()
    memory.close()


def test_who_dies_at_its_turn_passes_it_on(hall: Hall, v: Variable) -> None:
    v.set(0)
    at_turn = Event("at turn", hall=hall)

    def hold() -> None:
        change.FREE_TRIES = 0
        v.update(lambda n: at_turn.set() or time.sleep(60))

    holder = Child(hold)
    assert at_turn.wait(10)
    with pytest.raises(TimedOut, match="its turn to be changed did not come within"):
        v.update(lambda n: n + 1, timeout=0.05)
    with pytest.raises(TimedOut, match="its turn"):
        v.compare_and_set(0, 1, timeout=0.05)
    assert v.compare_and_set(7, 1) is False
    v.set(5)
    got = in_threads(lambda: v.update(lambda n: n + 1, timeout=20), lambda: time.sleep(0.1) or holder.kill())
    assert got[0] == 6
    assert turns(hall) == records(hall) == 0


# -- compare_and_set, version -----------------------------------------------------------------------------------------


def test_compare_and_set_compares_values_and_versions(v: Variable) -> None:
    assert not v.compare_and_set(None, 1), "unset equals nothing"
    assert v.compare_and_set(new=[1], expected_version=0)
    assert not v.compare_and_set(new=[2], expected_version=0)
    seen = v.version
    assert v.compare_and_set([1], [2], expected_version=seen)
    assert not v.compare_and_set([2], [3], expected_version=seen)
    assert not v.compare_and_set([1], [3])
    assert v.compare_and_set([2], None)
    assert v.compare_and_set(None, 1.0)
    assert v.compare_and_set(1, 2), "as == compares"
    assert v.get() == 2


def test_one_of_many_compare_and_sets_succeeds(hall: Hall, v: Variable) -> None:
    for number in range(100):
        v.set(number)
        got = in_threads(*[lambda number=number: v.compare_and_set(number, -1)] * 4)
        assert sorted(got) == [False, False, False, True]


def test_compare_and_set_succeeds_though_equal_values_are_set_all_the_time(hall: Hall, v: Variable) -> None:
    class Slow:
        def __eq__(self, other: object) -> bool:
            v.set("same")
            return other == "same"

        __hash__ = None  # type: ignore[assignment]

    v.set("same")
    assert v.compare_and_set(Slow(), "new")
    assert v.get() == "same", "the set during the turn counts as after it"
    assert turns(hall) == 0


def test_an_error_in_comparing_changes_nothing(hall: Hall, v: Variable) -> None:
    np = pytest.importorskip("numpy")
    v.set(np.arange(3))
    with pytest.raises(ValueError, match="ambiguous"):
        v.compare_and_set(np.arange(3), 1)
    assert v.compare_and_set(new=1, expected_version=v.version)
    assert turns(hall) == records(hall) == 0


def test_a_version_is_never_used_again(v: Variable) -> None:
    seen = [v.version]
    for _ in range(3):
        for write in (lambda: v.set(1), lambda: v.update(lambda n: n), lambda: v.compare_and_set(1, 1)):
            write()
            seen.append(v.version)
        v.delete()
        assert v.version == 0
    assert seen[0] == 0
    assert all(one < other for one, other in pairwise(seen))


# -- futures and large values -----------------------------------------------------------------------------------------


def test_futures_and_large_values_live_as_long_as_the_value(client: Client) -> None:
    v = Variable("kept", hall=client)
    v.set([client.submit(pow, 2, 10)])
    v.update(lambda old: [*old, client.submit(pow, 3, 2)])
    assert [future.result(timeout=20) for future in v.get()] == [1024, 9]
    assert v.compare_and_set(new=b"x" * 300_000, expected_version=v.version)
    assert v.statistics().size_bytes >= 300_000
    assert v.update(lambda old: old + b"y") == b"x" * 300_000 + b"y"
    assert next(v.watch(timeout=5)) == v.wait_for(lambda value: value[-1:] == b"y", timeout=5)
    v.delete()
    blobs = os.path.join(client.host.directory, "blobs")
    assert eventually(lambda: client.host.settle() or os.listdir(blobs) == [], 10)


def test_a_stored_future_lives_until_update_or_compare_and_set_replaces_it(client: Client) -> None:
    v, blobs = Variable("kept", hall=client), os.path.join(client.host.directory, "blobs")
    large = lambda: b"x" * 200_000  # noqa: E731

    def kept() -> int:
        client.host.settle()
        return len(os.listdir(blobs))

    for replace in (
        lambda: v.update(lambda old: "another"),
        lambda: v.compare_and_set(new="another", expected_version=v.version),
    ):
        v.set(client.submit(large))
        v.update(lambda old: [old, client.submit(large)])
        assert [len(future.result(timeout=20)) for future in v.get()] == [200_000] * 2
        assert kept() == 2
        v.update(lambda old: old[1:])
        assert eventually(lambda: kept() == 1)
        assert len(v.wait_for(lambda old: old[0].done(), timeout=20)[0].result(timeout=20)) == 200_000
        replace()
        assert eventually(lambda: kept() == 0)


def test_an_update_that_is_beaten_leaves_no_blob(hall: Hall, v: Variable) -> None:
    v.set(0)
    beaten = iter([True, True, False])
    v.update(lambda n: (v.set(1) if next(beaten) else None) or b"x" * 200_000)
    v.set(0)
    hall.host.settle()
    assert os.listdir(os.path.join(hall.path, "blobs")) == []


# -- watch, wait_for --------------------------------------------------------------------------------------------------


def test_a_watch_gives_the_value_that_is_there_and_then_the_newest(v: Variable) -> None:
    v.set(1)
    watch = v.watch(timeout=5)
    assert next(watch) == 1
    for number in range(2, 10):
        v.set(number)
    assert next(watch) == 9
    assert watch.version == v.version
    with pytest.raises(TimedOut):
        watch.get(timeout=0.02)
    v.delete()
    with pytest.raises(TimedOut):
        watch.get(timeout=0)
    v.set(9)
    assert watch.get() == 9, "the same value set again is a change"


def test_a_watch_of_an_unset_variable_waits(hall: Hall, v: Variable) -> None:
    def first() -> None:
        assert eventually(lambda: v.statistics().watchers == 1)
        v.set(1)

    assert in_threads(lambda: next(v.watch(timeout=10)), first)[0] == 1
    assert v.statistics().watchers == 0


def test_every_watcher_ends_with_the_last_value_and_sees_them_in_order(hall: Hall, v: Variable) -> None:
    def watch() -> list[int]:
        seen = []
        for value in v.watch(timeout=20):
            seen.append(value)
            if value == 999:
                return seen
            if value % 7 == 0:
                time.sleep(0.001)
        return []

    watchers = [Child(watch) for _ in range(3)]
    for number in range(1000):
        v.set(number)
    for watcher in watchers:
        seen = watcher.result()
        assert seen[-1] == 999
        assert all(one < other for one, other in pairwise(seen))
    assert records(hall) == 0


def test_close_ends_a_watch_also_one_that_waits(hall: Hall, v: Variable) -> None:
    with v.watch() as watch:
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.extend(watch))
        thread.start()
        v.set("last")
        assert eventually(lambda: got == ["last"] and v.statistics().watchers == 1)
        began = time.monotonic()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - began < 0.8, "it looked again by itself only"
    watch.close()
    assert list(watch) == []
    with pytest.raises(Misuse, match="closed"):
        watch.get()
    assert records(hall) == 0


def test_close_at_any_moment_ends_the_watch(hall: Hall, v: Variable) -> None:
    for _ in range(100):
        watch = v.watch()
        thread = threading.Thread(target=lambda watch=watch: list(watch))
        thread.start()
        time.sleep(random.random() * 0.001)
        watch.close()
        thread.join(10)
        assert not thread.is_alive()
    assert records(hall) == 0


def test_a_watch_in_a_forked_child_is_its_own(hall: Hall, v: Variable) -> None:
    watch = v.watch(timeout=10)
    v.set(1)
    assert next(watch) == 1
    thread = threading.Thread(target=lambda: next(watch))
    thread.start()
    assert eventually(lambda: v.statistics().watchers == 1)
    assert Child(lambda: watch.close() or v.statistics().watchers).result() == 1
    v.set(2)
    thread.join(10)
    assert not thread.is_alive()


def test_wait_for_returns_what_satisfied_it(hall: Hall, v: Variable) -> None:
    v.set(0)
    assert v.wait_for(lambda n: n == 0, timeout=0) == 0
    with pytest.raises(TimedOut, match=r"no value satisfied the predicate within 0 s"):
        v.wait_for(lambda n: n > 0, timeout=0)
    with pytest.raises(ZeroDivisionError):
        v.wait_for(lambda n: 1 / n)

    def count() -> None:
        for _ in range(200):
            v.update(lambda n: n + 1)

    got = in_threads(lambda: v.wait_for(lambda n: n >= 50, timeout=20), lambda: v.wait_for((200).__eq__, 20), count)
    assert 50 <= got[0] <= 200
    assert got[1] == 200
    assert records(hall) == 0


def test_a_watcher_that_is_killed_leaves_nothing(hall: Hall, v: Variable) -> None:
    v.set(0)
    watchers = [Child(lambda: list(v.watch())) for _ in range(3)]
    assert eventually(lambda: v.statistics().watchers == 3)
    for watcher in watchers:
        watcher.kill()
    hall.host.bury_dead()
    assert v.statistics().watchers == records(hall) == 0


# -- any process ------------------------------------------------------------------------------------------------------

PLAIN = """
import datetime, sys
import guildhall

with guildhall.open(sys.argv[1]) as hall:
    stock, sold = guildhall.Variable("stock", client=hall), guildhall.Counter("sold", client=hall)
    stock.wait_for(lambda left: left == 9, timeout=datetime.timedelta(seconds=20))
    assert stock.update(lambda left: left - 1, timeout="20 s") == 8
    assert sold.add(2) == 2
    assert stock.compare_and_set(8, 7)
"""


def test_processes_that_only_opened_the_hall_share_them(hall: Hall) -> None:
    stock = Variable("stock", client=hall)
    ran = subprocess.Popen([sys.executable, "-c", PLAIN, hall.path], stderr=subprocess.PIPE, text=True)
    stock.set(9)
    assert stock.wait_for((7).__eq__, timeout=20) == 7
    assert ran.communicate(timeout=20)[1] == ""
    assert Counter("sold", client=hall).get() == 2


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_update_watch_and_wait(client: Client) -> None:
    total = Variable("total", hall=client)
    total.set(0)

    def add(n: int, total: Variable) -> int:
        return int(total.update(lambda old: old + n))

    def until(total: Variable) -> int:
        return int(total.wait_for(lambda n: n >= 45, timeout=30))

    def watch(total: Variable) -> list[int]:
        seen = []
        for value in total.watch(timeout=30):
            seen.append(value)
            if value >= 45:
                break
        return seen

    waiting = [client.submit(until, total), client.submit(watch, total)]  # More than there are workers, with the adds.
    client.gather(client.map(lambda n: add(n, Variable("total")), range(10)))
    assert waiting[0].result(timeout=30) == 45
    assert waiting[1].result(timeout=30)[-1] == 45


def test_a_watch_and_statistics_pickle(client: Client) -> None:
    v = Variable("pickled", hall=client)
    v.set(3)
    watch = v.watch(timeout=5)
    assert next(watch) == 3
    assert client.submit(next, watch).result(timeout=20) == 3, "there it begins anew"
    assert pickle.loads(pickle.dumps(v.statistics())) == v.statistics()


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_same_with_await(current_hall: Hall) -> None:
    async def slow(n: int) -> int:
        await asyncio.sleep(0.001)
        return n + 1

    async def main() -> Any:
        v = aio.Variable("v")
        await v.set(0)
        new = await asyncio.gather(*(v.update(slow if n % 2 else lambda old: old + 1) for n in range(20)))
        assert sorted(new) == list(range(1, 21))
        assert await v.compare_and_set(20, 21)
        assert not await v.compare_and_set(20, 22)
        assert await v.compare_and_set(new=21, expected_version=v.version)
        waiting = asyncio.ensure_future(v.wait_for(lambda n: n == 30))
        later = asyncio.ensure_future(v.wait_for(is_large, timeout=10))
        await asyncio.sleep(0)
        await v.set(30)
        assert await waiting == 30
        await v.set(1000)
        assert await later == 1000
        with pytest.raises(TimedOut):
            await v.wait_for(lambda n: n < 0, timeout=0.01)
        with pytest.raises(TimedOut):
            await v.watch().get(timeout=0) == 1000 and await aio.Variable("unset").update(slow, timeout=0.01)
        assert isinstance(v.watch(), Watch)
        return v.statistics()

    async def is_large(n: int) -> bool:
        await asyncio.sleep(0)
        return n > 100

    assert asyncio.run(main()).watchers == 0
    assert turns(current_hall) == records(current_hall) == 0


def test_an_async_watch_ends_when_closed(current_hall: Hall) -> None:
    async def main() -> list[int]:
        v, seen = aio.Variable("v"), []

        async def follow() -> None:
            async with watch:
                async for value in watch:
                    seen.append(value)

        watch = v.watch()
        following = asyncio.ensure_future(follow())
        for number in range(5):
            await v.set(number)
            while seen[-1:] != [number]:
                await asyncio.sleep(0.001)
        watch.close()
        await asyncio.wait_for(following, 5)
        return seen

    assert asyncio.run(main()) == list(range(5))
    assert records(current_hall) == 0


def test_cancelled_at_any_moment_nothing_is_lost(current_hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "FREE_TRIES", 1)
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)

    async def slow(n: int) -> int:
        await asyncio.sleep(0.0005)
        return n + 1

    async def main() -> None:
        v, done = aio.Variable("v"), 0
        await v.set(0)
        for _ in range(100):
            calls = [v.update(slow), v.update(slow), v.update(slow), v.wait_for(lambda n: n < 0), anext(v.watch())]
            tasks = [asyncio.ensure_future(call) for call in calls]
            await asyncio.sleep(dice.random() * 0.003)
            for task in tasks:
                if dice.random() < 0.6 or task is tasks[3]:
                    task.cancel()
            ends = await asyncio.wait_for(asyncio.gather(*tasks[:3], return_exceptions=True), 20)
            await asyncio.gather(*tasks, return_exceptions=True)
            done += sum(isinstance(end, int) for end in ends)
            assert await v.get() == done, f"seed {seed}"
        assert turns(current_hall) == records(current_hall) == 0, f"seed {seed}"

    asyncio.run(main())


# -- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_a_wait_and_the_same_thing_works_again(hall: Hall) -> None:
    def child() -> None:
        import signal

        signal.signal(signal.SIGINT, signal.default_int_handler)
        change.FREE_TRIES = 0
        v, unset = Variable("v", hall=hall), Variable("unset", hall=hall)
        v.set(0)
        watch = v.watch()
        next(watch)
        calls = [lambda: v.wait_for(lambda n: n > 0), lambda: next(watch), lambda: unset.update(lambda n: n)]
        calls.append(lambda: v.update(lambda n: time.sleep(30)))
        for call in calls:
            assert interrupted(call) < 1
            assert turns(hall) == records(hall) == 0
        assert v.update(lambda n: n + 1) == 1
        assert next(watch) == v.wait_for(lambda n: n > 0) == 1

    Child(child).result()


@pytest.mark.parametrize("free_tries", [0, 4])
def test_ctrl_c_at_any_moment_gives_the_turn_up(hall: Hall, free_tries: int) -> None:
    seed = random.randrange(1 << 30)

    def child() -> None:
        change.FREE_TRIES = free_tries
        v, unset, done = Variable("v", hall=hall), Variable("unset", hall=hall), [0]
        v.set(0)

        def step() -> None:
            v.update(lambda n: n + 1)
            done[0] += 1
            v.compare_and_set(-1, 0)
            for wait in (lambda: v.wait_for(lambda n: n < 0, timeout=0.0003), lambda: unset.update(abs, 0.0002)):
                with suppress(TimedOut):
                    wait()

        def check(place: str) -> None:
            hall.host.settle()
            assert turns(hall) == records(hall) == 0, f"pressed in {place}, seed {seed}"
            assert done[0] <= v.get() <= done[0] + 1, f"pressed in {place}, seed {seed}"
            done[0] = v.get()

        pestered(step, check, 800, seed)

    Child(child).result()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda v: v.update(1), TypeError, r"'v'.*a function of the value, got int 1"),
        (lambda v: v.update(None), TypeError, "got NoneType"),
        (lambda v: v.update(abs, timeout=-1), ValueError, "timeout -1"),
        (lambda v: v.update(abs, timeout="soon"), ValueError, "timeout 'soon'"),
        (lambda v: v.wait_for("x"), TypeError, "got str 'x'"),
        (lambda v: v.wait_for(bool, timeout=float("nan")), ValueError, "timeout nan"),
        (lambda v: v.watch(timeout=-1), ValueError, "timeout -1"),
        (lambda v: v.watch().get([]), TypeError, "timeout"),
        (lambda v: v.compare_and_set(), ValueError, "expected a new value, and"),
        (lambda v: v.compare_and_set(1), ValueError, "expected a new value, and"),
        (lambda v: v.compare_and_set(new=1), ValueError, "expected_version="),
        (lambda v: v.compare_and_set(1, 2, expected_version="1"), TypeError, "what `version` gave, got '1'"),
        (lambda v: v.compare_and_set(1, 2, expected_version=True), TypeError, "got True"),
        (lambda v: v.compare_and_set(1, threading.Lock()), TypeError, "cannot be pickled"),
        (lambda v: v.compare_and_set(1, 2, timeout=-1), ValueError, "timeout -1"),
    ],
)
def test_what_makes_no_sense_is_refused(v: Variable, call: Any, error: Any, says: str) -> None:
    v.set(1)
    with pytest.raises(error, match=says):
        call(v)
    assert v.get() == 1
    assert isinstance(v.update(lambda n: n + 1, timeout=1), int)


def test_without_a_hall_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "now", None)
    for call in (lambda v: v.update(abs), lambda v: v.version, lambda v: next(v.watch()), lambda v: v.statistics()):
        with pytest.raises(guildhall.NoHall, match="no hall"):
            call(Variable("v"))
