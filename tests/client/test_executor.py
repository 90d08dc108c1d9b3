"""What the standard library promises of executors and their futures, kept by ours."""

from __future__ import annotations

import asyncio
import concurrent.futures as standard
import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import Ahead, eventually, script

from guildhall import Client, Event, Executor, KilledWorker, Unpicklable, get_client
from guildhall.primitives import values


@pytest.fixture(scope="module")
def executor(client: Client) -> Iterator[standard.Executor]:
    with client.get_executor() as made:
        yield made


def square(x: int) -> int:
    return x * x


def capture(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def fail(after_s: float, text: str) -> None:
    time.sleep(after_s)
    raise LookupError(text)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_it_is_an_executor_and_its_futures_are_the_standard_ones(executor: standard.Executor) -> None:
    assert isinstance(executor, standard.Executor)
    assert isinstance(executor, Executor)
    future = executor.submit(pow, 2, 8)
    assert isinstance(future, standard.Future)
    assert future.result() == 256
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()


def test_keywords_of_any_name_are_the_functions(executor: standard.Executor) -> None:
    given = {"self": 2, "fn": 3, "function": 4, "retries": 5, "key": 6, "pure": 7, "x": 8}
    assert executor.submit(capture, 1, **given).result(20) == ((1,), given)
    assert executor.submit(capture, x=1).result(20) == ((), {"x": 1})
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]


def test_what_cannot_be_called_or_travel_is_refused(executor: standard.Executor) -> None:
    with pytest.raises(TypeError):
        executor.submit(3)  # type: ignore[arg-type]
    with pytest.raises(Unpicklable):
        executor.submit(id, threading.Lock())
    assert executor.submit(abs, -1).result(20) == 1


def test_errors_come_back_with_their_type_text_and_traceback(executor: standard.Executor) -> None:
    future = executor.submit(fail, 0, "no such thing")
    with pytest.raises(LookupError, match="no such thing") as caught:
        future.result(20)
    assert "in fail" in "".join(traceback.format_exception(caught.value))
    assert isinstance(future.exception(), LookupError)
    assert future.exception() is future.exception()


def test_a_result_is_read_once(executor: standard.Executor) -> None:
    future = executor.submit(list, "abc")
    assert future.result() is future.result()


def test_map_is_like_the_builtin_one(executor: standard.Executor) -> None:
    expected = list(map(pow, range(10), range(10)))
    for chunksize in (1, 3, 100):
        assert list(executor.map(pow, range(10), range(10), chunksize=chunksize)) == expected
    assert list(executor.map(pow, [], [])) == []
    assert list(executor.map(capture)) == []
    assert list(executor.map(abs, (-x for x in range(5)))) == [0, 1, 2, 3, 4]
    assert sum(executor.map(abs, range(5000), chunksize=100)) == sum(range(5000))
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(pow, [1], [2], chunksize=0)


def test_a_map_with_a_buffer_takes_the_memory_of_that_however_long_it_is(client: Client) -> None:
    ahead, counts = Ahead(client.host, 4_000), []
    with client.get_executor() as executor:
        for result in executor.map(square, ahead, buffersize=200):
            assert result == ahead.given**2
            ahead.given += 1
            if ahead.given in (1_000, 3_000):
                counts.append(eventually(lambda: ahead.objects() <= 210))  # Other threads let go of some.
        assert (ahead.given, ahead.sent) == (4_000, 4_000)
        assert ahead.most <= 201
        assert counts == [True, True]
        assert list(executor.map(pow, [1, 2, 3, 4, 5], [2] * 9, chunksize=2, buffersize=1)) == [1, 4, 9, 16, 25]
        assert list(executor.map(square, [], buffersize=3)) == []
        for wrong, error in ((0, ValueError), (True, TypeError), ("2", TypeError)):
            with pytest.raises(error, match="buffersize"):
                executor.map(square, [1], buffersize=wrong)


def test_map_raises_where_the_call_failed(executor: standard.Executor) -> None:
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_has_one_time_for_all_results(executor: standard.Executor) -> None:
    go = Event("map goes on")
    results = executor.map(go.wait, [0, 0, 30], timeout=1.0)
    began = time.monotonic()
    assert [next(results), next(results)] == [False, False]
    with pytest.raises(TimeoutError):
        next(results)
    assert 0.5 < time.monotonic() - began < 5
    go.set()


def test_map_submits_before_anybody_iterates(executor: standard.Executor, tmp_path: Path) -> None:
    executor.map(os.mkdir, [tmp_path / str(x) for x in range(4)])
    assert eventually(lambda: len(list(tmp_path.iterdir())) == 4)


@pytest.mark.parametrize("buffersize", [None, 40])
def test_a_map_that_is_left_early_cancels_the_rest(client: Client, tmp_path: Path, buffersize: int | None) -> None:
    with client.get_executor() as executor:
        paths = (str(tmp_path / str(x)) for x in range(50))
        results = executor.map(_touch_slowly, paths, buffersize=buffersize)  # type: ignore[call-arg]
        next(results)
        results.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 20


def _touch_slowly(path: str) -> None:
    time.sleep(0.05)
    Path(path).touch()


def test_nothing_keeps_the_arguments_or_a_dropped_result(executor: standard.Executor) -> None:
    class Thing:
        def method(self) -> None: ...

    thing = Thing()
    gone = weakref.ref(thing)
    executor.submit(thing.method)
    del thing
    gc.collect()
    assert eventually(lambda: gone() is None)
    for result in executor.map(set, [(1,), (2,)]):
        held = weakref.ref(result)
        del result
        assert held() is None


# -- states -----------------------------------------------------------------------------------------------------------


def test_running_cancel_and_done_say_how_it_is(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Executor(1) as executor:
        running = executor.submit(_busy_until, go)
        waiting = executor.submit(abs, -1)
        assert eventually(running.running)
        assert not running.cancel()
        assert not running.done()
        assert not waiting.running()
        assert not waiting.done()
        assert waiting.cancel()
        assert waiting.cancel()
        assert waiting.cancelled()
        assert waiting.done()
        with pytest.raises(standard.CancelledError):
            waiting.result()
        with pytest.raises(standard.CancelledError):
            waiting.exception()
        with pytest.raises(TimeoutError):
            running.result(timeout=0.05)
        with pytest.raises(TimeoutError):
            running.exception(timeout=-1)
        go.touch()
        assert running.result(20) == "done"
        assert not running.cancel()
        assert running.done()


def _busy_until(path: Path) -> str:
    while not path.exists():
        time.sleep(0.01)
    return "done"


def test_a_call_that_is_cancelled_never_runs(tmp_path: Path) -> None:
    with Executor(1) as executor:
        first = executor.submit(time.sleep, 0.3)
        assert eventually(first.running)
        others = [executor.submit(os.mkdir, tmp_path / str(x)) for x in range(20)]
        assert [future.cancel() for future in others[::2]] == [True] * 10
    assert sorted(int(made.name) for made in tmp_path.iterdir()) == list(range(1, 20, 2))


def test_callbacks_are_called_once_also_when_it_has_ended(executor: standard.Executor) -> None:
    seen: list[Any] = []
    future = executor.submit(abs, -3)
    future.add_done_callback(lambda f: seen.append(f.result()))
    assert eventually(lambda: seen == [3])
    future.add_done_callback(seen.append)
    assert seen == [3, future]
    failing = executor.submit(fail, 0.05, "later")
    failing.add_done_callback(lambda f: seen.append(type(f.exception())))
    assert eventually(lambda: seen[2:] == [LookupError])


def test_a_callback_may_submit_and_raise(executor: standard.Executor, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def again(future: standard.Future[int]) -> None:
        seen.append(future.result())
        if len(seen) < 4:
            executor.submit(abs, -len(seen)).add_done_callback(again)
        else:
            raise LookupError("on purpose")

    executor.submit(abs, 0).add_done_callback(again)
    assert eventually(lambda: seen == [0, 1, 2, 3])
    assert eventually(lambda: "on purpose" in caplog.text)
    assert executor.submit(abs, -1).result(20) == 1


def test_threads_that_ask_for_one_result_all_get_it(executor: standard.Executor) -> None:
    future = executor.submit(_slow, [1])
    with standard.ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: future.result(20), range(8)))
    assert all(result is results[0] for result in results)
    assert results[0] == [1]


def _slow(value: Any) -> Any:
    time.sleep(0.2)
    return value


# -- wait and as_completed --------------------------------------------------------------------------------------------


def test_wait_knows_its_three_conditions(executor: standard.Executor) -> None:
    quick, slow, failing = executor.submit(pow, 6, 2), executor.submit(time.sleep, 1), executor.submit(fail, 0.3, "x")
    assert standard.wait([quick, slow], return_when=standard.FIRST_COMPLETED).done == {quick}
    done, not_done = standard.wait([quick, slow, failing], return_when=standard.FIRST_EXCEPTION)
    assert done == {quick, failing}
    assert not_done == {slow}
    assert standard.wait([quick, slow], timeout=0.01).not_done == {slow}
    assert standard.wait([quick, slow, failing, slow]).done == {quick, slow, failing}


def test_wait_sees_cancelled_ones(executor: standard.Executor) -> None:
    blocked = [executor.submit(time.sleep, 0.2) for _ in range(10)]
    last = executor.submit(abs, 1)
    waiting = threading.Thread(target=standard.wait, args=([last],))
    waiting.start()
    assert last.cancel()
    waiting.join(10)
    assert not waiting.is_alive()
    for future in blocked:
        future.cancel()
    assert standard.wait(blocked, timeout=20).not_done == set()


def test_as_completed_gives_each_once_as_it_ends(executor: standard.Executor) -> None:
    slow, quick = executor.submit(time.sleep, 0.3), executor.submit(abs, 1)
    assert list(standard.as_completed([slow, quick])) == [quick, slow]
    assert len(list(standard.as_completed(itertools.repeat(slow, 3)))) == 1
    never = executor.submit(time.sleep, 0.5)
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        list(standard.as_completed([slow, never], timeout=0))
    futures = [executor.submit(abs, x) for x in range(1000)]
    assert sorted(future.result() for future in standard.as_completed(futures)) == list(range(1000))


# -- shutdown ---------------------------------------------------------------------------------------------------------


def test_after_shutdown_calls_are_refused_and_the_client_goes_on(client: Client) -> None:
    executor = client.get_executor()
    futures = [executor.submit(time.sleep, 0.01) for _ in range(50)]
    executor.shutdown()
    assert all(future._state == "FINISHED" for future in futures)
    executor.shutdown()
    for call in (lambda: executor.submit(abs, 1), lambda: executor.map(abs, [1])):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()
    assert client.submit(abs, -1).result(20) == 1


def test_shutdown_waits_for_a_map_that_nobody_reads(client: Client, tmp_path: Path) -> None:
    executor = client.get_executor()
    executor.map(_touch_slowly, [str(tmp_path / str(x)) for x in range(6)])
    executor.shutdown()
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_cancels_what_has_not_begun(client: Client, wait: bool) -> None:
    executor = client.get_executor()
    futures = [executor.submit(time.sleep, 0.05) for _ in range(50)]
    executor.shutdown(wait=wait, cancel_futures=True)
    cancelled = [future for future in futures if future.cancelled()]
    others = [future for future in futures if not future.cancelled()]
    assert len(cancelled) > 20
    assert others
    assert all(future.exception(20) is None for future in others)


def test_shutdown_without_waiting_lets_what_is_under_way_end() -> None:
    before = _children()
    executor = Executor(2)
    workers = _children() - before
    futures = [executor.submit(_slow, x) for x in range(4)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError):
        executor.submit(abs, 1)
    assert [future.result(20) for future in futures] == [0, 1, 2, 3]
    assert eventually(lambda: not workers & _children())


def test_workers_of_its_own_end_with_the_context_and_with_the_last_reference() -> None:
    before = _children()
    with Executor(2) as executor:
        workers = _children() - before
        assert executor.submit(os.getppid).result(20) in workers
        assert executor._max_workers == 2
    assert not workers & _children()
    executor = Executor(1)
    workers = _children() - before
    future = executor.submit(_slow, 7)
    del executor
    gc.collect()
    assert future.result(20) == 7
    assert eventually(lambda: not workers & _children())


def _children() -> set[int]:
    """Fork servers: with them go their workers."""
    return {child.pid for child in psutil.Process().children()}


def test_shutdown_does_not_hang_on_a_cancelled_call() -> None:
    executor = Executor(1)
    executor.submit(int).result()
    executor.submit(int).cancel()
    executor.shutdown()


def test_numbers_of_workers_that_make_no_sense_are_refused(client: Client) -> None:
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            Executor(number)
    with pytest.raises(ValueError, match="one of the two"):
        Executor(2, client=client)
    with pytest.raises(TypeError, match="'colour'"):
        client.get_executor(colour="red")
    assert client.get_executor(retries=1).submit(abs, -1).result(20) == 1


def test_a_script_ends_only_when_its_calls_have(tmp_path: Path) -> None:
    text = (
        "import time\nfrom guildhall import Executor\n"
        "def slow(text):\n    time.sleep(0.5)\n    print(text, flush=True)\n"
        "executor = Executor(2)\nexecutor.submit(slow, 'apple')\n{}\n"
    )
    for last in ("", "executor.shutdown(wait=False)", "del executor"):
        running = script(text.format(last), tmp_path)
        out, err = running.communicate(timeout=60)
        assert (out, err) == ("apple\n", ""), last


def test_a_call_while_the_interpreter_ends_is_refused(tmp_path: Path) -> None:
    text = (
        "import atexit\n"
        "@atexit.register\ndef last():\n    try:\n        executor.submit(id, None)\n"
        "    except RuntimeError as error:\n        print(error)\n"
        "from guildhall import Executor\nexecutor = Executor(1)\nexecutor.submit(id, 42).result()\n"
    )
    out, err = script(text, tmp_path).communicate(timeout=60)
    assert err == ""
    assert out.startswith("cannot schedule new futures")


def test_ctrl_c_in_a_script_that_waits_for_a_call_ends_it(tmp_path: Path) -> None:
    text = (
        "import time\nfrom guildhall import Executor\n"
        "with Executor(1) as executor:\n    future = executor.submit(time.sleep, 2)\n    print('ready', flush=True)\n"
        "    future.result()\n"
    )
    running = script(text, tmp_path)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert running.returncode == -signal.SIGINT


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_call_that_kills_its_worker_fails_alone() -> None:
    with Executor(2) as executor:
        killer = executor.submit(os._exit, 3)
        others = [executor.submit(abs, -x) for x in range(50)]
        assert isinstance(killer.exception(60), KilledWorker)
        assert [future.result(20) for future in others] == list(range(50))


def test_calls_of_a_client_that_is_closed_fail_as_broken() -> None:
    client = Client(n_workers=1)
    executor = client.get_executor()
    futures = [executor.submit(time.sleep, 30) for _ in range(3)]
    futures[0].add_done_callback(lambda f: None)
    client.close()
    for future in futures:
        assert isinstance(future.exception(20), standard.BrokenExecutor)
    assert not futures[0].cancel()
    executor.shutdown(cancel_futures=True)


def test_a_call_whose_result_cannot_be_read_fails_alone(executor: standard.Executor) -> None:
    with pytest.raises(Unpicklable, match="cannot be read"):
        executor.submit(_Unreadable).result(20)
    assert executor.submit(abs, -1).result(20) == 1


class _Unreadable:
    def __reduce__(self) -> Any:
        return _raise, ("no",)


def _raise(text: str) -> None:
    raise ValueError(text)


_state = "uninitialized"


def test_the_initializer_runs_once_in_each_process(tmp_path: Path) -> None:
    with Executor(2, initializer=_initialize, initargs=(str(tmp_path),)) as executor:
        assert set(executor.map(_read_state, range(100))) <= {f"state of {child}" for child in _grandchildren()}
        assert 1 <= len(list(tmp_path.iterdir())) <= 2
    assert _state == "uninitialized"
    with pytest.raises(TypeError, match="initializer"):
        Executor(1, initializer=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_made_first", [True, False])
def test_proxies_of_a_manager_work_in_calls(is_made_first: bool) -> None:
    with ExitStack() as stack:
        if is_made_first:
            shared = stack.enter_context(multiprocessing.Manager()).dict()
        executor = stack.enter_context(Executor(1))
        if not is_made_first:
            shared = stack.enter_context(multiprocessing.Manager()).dict()
        executor.submit(lambda proxy: proxy.update(told=1), shared).result(20)
        assert shared["told"] == 1


def _initialize(path: str) -> None:
    global _state
    _state = f"state of {os.getpid()}"
    (Path(path) / str(os.getpid())).touch(exist_ok=False)


def _read_state(_: int) -> str:
    return _state


def _grandchildren() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_an_initializer_that_fails_breaks_the_executor() -> None:
    with Executor(1, initializer=_raise, initargs=("in the initializer",)) as executor:
        futures = [executor.submit(abs, x) for x in range(10)]
        for future in futures:
            with pytest.raises(standard.BrokenExecutor, match="in the initializer"):
                future.result(20)
        with pytest.raises(standard.BrokenExecutor):
            executor.submit(abs, 1)


# -- beside others ----------------------------------------------------------------------------------------------------


def test_asyncio_runs_in_it_and_may_cancel(executor: standard.Executor) -> None:
    async def work() -> list[int]:
        loop = asyncio.get_running_loop()
        slow = [loop.run_in_executor(executor, time.sleep, 0.2) for _ in range(10)]
        slow[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow[-1]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.run_in_executor(executor, time.sleep, 0.5), 0.01)
        return await asyncio.gather(*[loop.run_in_executor(executor, abs, -x) for x in range(20)])

    assert asyncio.run(work()) == list(range(20))


def test_inside_a_task_it_works_on_the_tasks_own_workers(client: Client) -> None:
    def outer(n: int) -> int:
        with Executor() as inner:
            return sum(inner.map(abs, range(n))) + get_client().get_executor().submit(abs, -n).result()

    assert client.gather(client.map(outer, [10] * 8)) == [55] * 8


def test_an_ended_call_costs_the_same_however_many_wait(client: Client) -> None:
    with client.get_executor() as executor:
        began = time.perf_counter()
        futures = [executor.submit(abs, -x) for x in range(500)]
        standard.wait(futures)
        few_s = (time.perf_counter() - began) / len(futures)
        began = time.perf_counter()
        futures = [executor.submit(abs, -x) for x in range(10_000)]
        standard.wait(futures)
        many_s = (time.perf_counter() - began) / len(futures)
    assert many_s < 4 * few_s


def test_no_results_pile_up_that_nobody_asks_for(client: Client) -> None:

    def objects() -> int:
        return client.host.read(lambda txn: len(list(txn.scan(values.OBJECTS))))

    before = objects()
    executor = client.get_executor()
    for _ in range(1000):
        executor.submit(abs, 1)
    assert eventually(lambda: objects() < before + 200)
    executor.shutdown()


def test_importing_it_takes_nothing_heavy_along() -> None:
    code = "import sys, guildhall; guildhall.Executor; print(*({'asyncio', 'multiprocessing'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
