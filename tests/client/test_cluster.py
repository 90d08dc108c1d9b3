"""Real workers: results, failures, faults."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import guildhall
from guildhall import (
    CancelledError,
    Client,
    Event,
    KilledWorker,
    Lock,
    NotHeld,
    Pub,
    Queue,
    Sub,
    TimedOut,
    Unpicklable,
    Variable,
    aio,
    as_completed,
    get_client,
    wait,
)


def add(a: Any, b: Any = 1) -> Any:
    return a + b


def fail(text: str) -> None:
    raise LookupError(text)


def die(path: str, how: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_dependencies_and_containers(client: Client) -> None:
    one = client.submit(add, 1)
    assert client.submit(add, one, b=one).result(timeout=20) == 4
    nested = client.submit(lambda d: d["x"][0] + d["y"], {"x": [one], "y": one})
    assert nested.result(timeout=20) == 4
    assert client.gather(client.map(add, range(500))) == list(range(1, 501))
    assert client.gather({"a": one, "b": [one]}) == {"a": 2, "b": [2]}


def test_an_exception_arrives_with_its_traceback(client: Client) -> None:
    future = client.submit(fail, "no such thing")
    with pytest.raises(LookupError, match="no such thing"):
        future.result(timeout=20)
    assert "in fail" in str(future.traceback())
    assert future.status == "error"
    assert isinstance(client.submit(add, future).exception(timeout=20), LookupError)


def test_unpicklable_argument_and_result_are_type_errors_and_the_worker_lives(client: Client) -> None:
    with pytest.raises(TypeError, match="argument of add"):
        client.submit(add, threading.Lock())
    with pytest.raises(Unpicklable, match="result of task"):
        client.submit(lambda: threading.Lock()).result(timeout=20)
    assert client.submit(add, 1).result(timeout=20) == 2


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_a_task_that_kills_its_worker_runs_four_times_then_fails(client: Client, tmp_path: Path, how: str) -> None:
    runs = tmp_path / "runs"
    future = client.submit(die, str(runs), how)
    others = client.map(add, range(50))
    with pytest.raises(KilledWorker, match="die"):
        future.result(timeout=60)
    assert runs.read_text() == "xxxx"
    assert client.gather(others) == list(range(1, 51))


def test_retries(client: Client, tmp_path: Path) -> None:
    def flaky(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            raise ValueError("not yet")
        return os.path.getsize(path)

    assert client.submit(flaky, str(tmp_path / "a"), retries=2).result(timeout=20) == 3
    with pytest.raises(ValueError, match="not yet"):
        client.submit(flaky, str(tmp_path / "b"), retries=1).result(timeout=20)


def test_blocked_tasks_do_not_starve_the_one_that_frees_them(client: Client) -> None:
    event = Event()
    blocked = [client.submit(event.wait, 30) for _ in range(6)]
    time.sleep(0.2)
    freeing = client.submit(event.set)
    assert client.gather(blocked) == [True] * 6
    assert freeing.result() is None


def test_nested_submits(client: Client) -> None:
    def fib(n: int) -> int:
        if n < 2:
            return n
        mine = get_client()
        return sum(f.result(timeout=30) for f in mine.map(fib, [n - 1, n - 2]))

    assert client.submit(fib, 6).result(timeout=60) == 8


def test_waiter_gets_the_lock_of_a_killed_worker(client: Client) -> None:
    lock, held = Lock("doomed"), Event("doomed")

    def hold() -> None:
        if not Variable("died").get():
            Variable("died").set(True)
            Lock("doomed").acquire()
            Event("doomed").set()
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)

    Variable("died").set(False)
    future = client.submit(hold)
    assert held.wait(20)
    assert lock.acquire(timeout=20)
    assert lock.previous_holder_died
    lock.release()
    future.result(timeout=30)


def test_increments_under_a_lock_are_never_lost(client: Client) -> None:
    counter, guard = Variable("counter"), Lock("guard")
    counter.set(0)

    def increment(times: int, lock: Lock) -> None:
        for _ in range(times):
            with lock:
                counter.set(counter.get() + 1)

    client.gather([client.submit(increment, 300, guard) for _ in range(4)])
    assert counter.get() == 1200


def test_scattered_array_is_shared_and_writable(client: Client) -> None:
    array = np.arange(200_000.0)
    future = client.scatter(array)

    def write(a: Any) -> float:
        a[0] = 7.0
        return float(a.sum())

    assert client.gather([client.submit(write, future) for _ in range(3)]) == [array.sum() + 7] * 3
    assert future.result()[0] == 0.0
    assert list(client.scatter({"a": 1})) == ["a"]


@pytest.mark.parametrize("size", [1_000_000, 3_000_001])
def test_a_large_array_arrives_whole(client: Client, size: int) -> None:
    array = np.arange(float(size))
    pair = client.scatter(((array, array[::-1].copy()),))[0]
    forth, back = pair.result()
    assert (forth == array).all()
    assert (back == array[::-1]).all()


def test_futures_travel_through_variables_and_queues(client: Client) -> None:
    future = client.submit(add, 40, 2)
    Variable("f").set({"deep": [future]})
    Queue("fq").put(future)
    del future
    assert Variable("f").get()["deep"][0].result(timeout=20) == 42
    assert Queue("fq").get(timeout=5).result(timeout=20) == 42


def test_cancel_wait_and_as_completed(client: Client) -> None:
    slow = client.submit(lambda: Event("slow").wait(20))  # Gives its slot up: one worker may be starting anew.
    quick = client.submit(add, 1)
    assert next(as_completed([slow, quick], timeout=20)) is quick
    Event("slow").set()
    assert wait([slow, quick], timeout=20).not_done == set()
    event = Event()
    stuck = client.submit(event.wait, 20)
    stuck.cancel()
    with pytest.raises(CancelledError):
        stuck.result(timeout=5)
    event.set()


def test_queue_timeouts_bounds_and_batches(client: Client) -> None:
    queue = Queue("bounded", maxsize=2)
    queue.put(None)
    queue.put([2**100])
    with pytest.raises(TimedOut):
        queue.put(3, timeout=0.05)
    assert queue.qsize() == 2
    assert queue.get(batch=2) == [None, [2**100]]
    assert queue.get(batch=True) == []
    with pytest.raises(TimeoutError):
        queue.get(timeout="20ms")


def test_locks_are_exclusive_and_belong_to_the_object(client: Client) -> None:
    one, other = Lock("mine"), Lock("mine")
    assert one.acquire()
    assert not other.acquire(timeout=0.05)
    assert not one.acquire(blocking=False)
    with pytest.raises(NotHeld):
        other.release()
    assert isinstance(NotHeld("x"), RuntimeError)
    assert other.locked()
    one.release()
    assert not other.locked()


def test_subscribers_get_large_messages_in_order(client: Client) -> None:
    sub = Sub("topic")
    client.gather(client.map(lambda i: [Pub("topic").put((i, n, "x" * 100_000)) for n in range(5)][:0], range(2)))
    got = [sub.get(timeout=10) for _ in range(10)]
    for task in range(2):
        assert [n for t, n, _ in got if t == task] == list(range(5))


def test_asyncio(client: Client) -> None:
    async def main() -> Any:
        lock, queue, variable = aio.Lock("a"), aio.Queue("aq"), aio.Variable("av")
        assert await lock.acquire()
        assert not await aio.Lock("a").acquire(timeout=0.05)
        waiting = asyncio.create_task(queue.get(timeout=10))
        cancelled = asyncio.create_task(aio.Lock("a").acquire())
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        await queue.put(5)
        await variable.set(6)
        await lock.release()
        assert not lock.locked()
        return await waiting, await variable.get(), await client.submit(add, 1)

    assert asyncio.run(main()) == (5, 6, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Variable(3.5j),
        lambda: Lock("x" * 10_240),
        lambda: Queue("q", maxsize=-1),
        lambda: Lock("x").acquire(timeout=-1),
        lambda: Queue("x").get(timeout="soon"),
        lambda: Client(n_workers=0),
        lambda: guildhall.open(""),
    ],
)
def test_bad_input_is_refused_at_once(client: Client, call: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        call()


def test_an_empty_name_is_a_fresh_one(client: Client) -> None:
    assert Variable("").name != Variable("").name


def run_script(text: str, tmp_path: Path) -> subprocess.Popen[str]:
    path = tmp_path / "script.py"
    path.write_text(text)
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


BLOCKED = """
import sys
from guildhall import *
client = Client(n_workers=1)
client.submit(Lock("l").acquire).result()
print(client.cluster.pool.processes[0].pid, client.host.directory, flush=True)
{call}
"""


@pytest.mark.parametrize("call", ["Queue('q').get()", "Lock('l').acquire()", "client.submit(Event('e').wait).result()"])
def test_ctrl_c_ends_a_wait_and_leaves_nothing(tmp_path: Path, call: str) -> None:
    process = run_script(BLOCKED.format(call=call), tmp_path)
    assert process.stdout is not None
    worker, directory = process.stdout.readline().split()
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert "KeyboardInterrupt" in errors
    assert not os.path.exists(directory)
    assert not os.path.exists(f"/proc/{worker}")


def test_workers_end_with_a_killed_client_and_the_next_open_sweeps(tmp_path: Path) -> None:
    process = run_script(BLOCKED.format(call="client.submit(__import__('time').sleep, 60).result()"), tmp_path)
    assert process.stdout is not None
    worker, directory = process.stdout.readline().split()
    process.kill()
    process.communicate()
    until = time.monotonic() + 2
    while os.path.exists(f"/proc/{worker}") and time.monotonic() < until:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{worker}")
    guildhall.open().close()
    assert not os.path.exists(directory)


def test_a_forked_child_has_a_session_of_its_own() -> None:
    with guildhall.open() as hall:
        lock = Lock("forked", hall=hall)
        lock.acquire()
        pid = os.fork()
        if not pid:
            os._exit(10 if not Lock("forked", hall=hall).acquire(timeout=0) and hall.host.session != 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 10
        assert lock.locked()
        lock.release()


def test_a_client_starts_where_its_working_directory_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); from guildhall import Client\n"
        "with Client(n_workers=1) as client: print(client.submit(abs, -1).result())"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "gone")], text=True) == "1\n"
