"""Tasks that raise, die, or pass what cannot travel: the caller learns what happened, and the worker lives."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from faults import eventually

from guildhall import Client, KilledWorker, Pub, Queue, Sub, TaskFailed, Unpicklable, Variable


class NeedsTwo(Exception):
    """Its pickle, as Python makes it, cannot be read back: the constructor wants two arguments."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"{what} failed")
        self.code = code


class HoldsLock(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class NoText(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:
        raise ZeroDivisionError("no text for you")


def explode_here() -> None:
    raise LookupError("this cannot be read here")


class Mine:
    """Pickles anywhere, can be read nowhere but where it was made."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode_here, ()


def throw(error: BaseException) -> None:
    raise error


def test_an_exception_whose_constructor_wants_arguments_keeps_type_text_and_attributes(client: Client) -> None:
    def raise_it() -> None:
        raise NeedsTwo("brewing", 418)

    error = client.submit(raise_it).exception(timeout=20)
    assert isinstance(error, NeedsTwo)
    assert str(error) == "brewing failed"
    assert error.code == 418
    assert "in raise_it" in str(error.__notes__)


def test_an_exception_class_of_a_function_arrives(client: Client) -> None:
    class Local(ValueError):
        pass

    def raise_local() -> None:
        raise Local("from here")

    with pytest.raises(Local, match="from here"):
        client.submit(raise_local).result(timeout=20)


@pytest.mark.parametrize("kind", [HoldsLock, NoText])
def test_an_exception_that_cannot_travel_is_told_in_words(client: Client, kind: type[Exception]) -> None:
    def raise_kind() -> None:
        raise kind("in words") if kind is HoldsLock else kind()

    future = client.submit(raise_kind)
    with pytest.raises(Exception, match=kind.__name__):
        future.result(timeout=20)
    assert "in raise_kind" in str(future.traceback())
    assert client.submit(int, "1").result(timeout=20) == 1


def test_causes_arrive_all_along_the_chain(client: Client) -> None:
    def chained() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError as error:
                raise LookupError("second") from error
        except LookupError as error:
            raise NeedsTwo("third", 3) from error

    error = client.submit(chained).exception(timeout=20)
    assert isinstance(error, NeedsTwo)
    assert isinstance(error.__cause__, LookupError)
    assert isinstance(error.__cause__.__cause__, KeyError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_leaving_python_is_the_tasks_failure_and_the_worker_lives(client: Client, kind: type[BaseException]) -> None:
    def workers() -> set[int]:
        return {process.pid for process in client.cluster.pool.processes if not process.has_ended}

    assert eventually(lambda: len(workers()) == 2, 20)
    before = workers()
    error = client.submit(throw, kind(3)).exception(timeout=20)
    assert type(error) is kind
    assert error.args == (3,)
    assert set(client.gather(client.map(lambda _: os.getpid(), range(20)))) <= before
    assert workers() == before


def test_runaway_recursion_is_the_tasks_failure(client: Client) -> None:
    def again(n: int) -> Any:
        return again(n + 1)

    with pytest.raises(RecursionError):
        client.submit(again, 0).result(timeout=30)
    assert client.submit(int, "1").result(timeout=20) == 1


def test_stop_iteration_becomes_a_runtime_error(client: Client) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        client.submit(next, iter(())).result(timeout=20)


def test_an_exception_that_cannot_be_read_in_the_client_is_told_in_words(client: Client) -> None:
    def raise_unreadable() -> None:
        class Here(Exception):
            def __reduce__(self) -> tuple[Any, ...]:
                return _only_in_a_worker, ("the task's own words",)

        raise Here("the task's own words")

    future = client.submit(raise_unreadable)
    with pytest.raises(Exception, match="the task's own words"):
        future.result(timeout=20)
    assert "in raise_unreadable" in str(future.traceback())


CLIENT_PID = os.getpid()


def _only_in_a_worker(text: str) -> Exception:
    if os.getpid() == CLIENT_PID:
        raise ImportError("no such module here")
    return Exception(text)


@pytest.mark.parametrize("value", [threading.Lock(), sys._getframe(), (i for i in ())])
def test_an_unpicklable_argument_is_named_and_refused_by_submit(client: Client, value: Any) -> None:
    with pytest.raises(TypeError, match=r"argument of work of type.*pickled") as refused:
        client.submit(work, value, key="x")
    assert isinstance(refused.value, Unpicklable)
    assert isinstance(refused.value, pickle.PicklingError)  # As from the standard library's executors.
    with pytest.raises(TypeError, match="argument of work"):
        client.map(work, [1, value, 2])
    with pytest.raises(TypeError, match="argument of work"):
        client.submit(work, deep={"in": [value]})


def work(*args: Any, **kwargs: Any) -> Any:
    return args


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in range(3)), lambda: [sys._getframe()]])
def test_an_unpicklable_result_is_named_and_the_worker_lives(client: Client, make: Any) -> None:
    pid = client.submit(os.getpid).result(timeout=20)
    with pytest.raises(TypeError, match="result of task"):
        client.submit(make).result(timeout=20)
    assert Path(f"/proc/{pid}").exists()


def test_arguments_refused_half_way_leave_no_blob(client: Client) -> None:
    for _ in range(3):
        with pytest.raises(TypeError):
            client.map(work, [b"x" * 200_000, threading.Lock()])
        with pytest.raises(TypeError):
            client.submit(work, client, b"x" * 200_000, threading.Lock())
    Variable("flush").set(1)
    assert os.listdir(os.path.join(client.host.directory, "blobs")) == []


def test_a_result_that_cannot_be_read_in_the_client_says_so(client: Client) -> None:
    future = client.submit(Mine)
    with pytest.raises(TaskFailed, match=r"Mine.*cannot be read here.*this cannot be read here"):
        future.result(timeout=20)
    assert future.status == "finished"


def test_an_argument_that_cannot_be_read_in_the_worker_is_the_tasks_failure(client: Client) -> None:
    with pytest.raises(LookupError, match="this cannot be read here"):
        client.submit(work, Mine()).result(timeout=20)
    assert client.submit(int, "1").result(timeout=20) == 1


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
def test_killed_worker_names_the_task_and_the_exit(client: Client, how: str) -> None:
    def last_words(how: str) -> None:
        if how == "exit":
            os._exit(7)
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSEGV)

    said = {"exit": "exit code 7", "kill": "SIGKILL", "segfault": "SIGSEGV"}[how]
    future = client.submit(last_words, how)
    with pytest.raises(KilledWorker, match=rf"last_words.*4 workers died.*{said}") as killed:
        future.result(timeout=60)
    assert isinstance(pickle.loads(pickle.dumps(killed.value)), KilledWorker)
    assert future.status == "error"
    assert future.traceback() is None


@pytest.mark.parametrize(
    "options",
    [
        {"retries": "2"},
        {"retries": 1.5},
        {"retries": -1},
        {"priority": "high"},
        {"priority": 1.5},
        {"priority": 1 << 80},
    ],
)
def test_nonsense_options_of_submit_are_refused_and_kill_no_worker(client: Client, options: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        client.submit(work, **options)
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        client.map(work, [1], **options)
    assert client.submit(int, "1").result(timeout=20) == 1


def test_a_function_with_a_name_that_is_no_text_runs(client: Client) -> None:
    class Named:
        def __init__(self, name: Any) -> None:
            self.__name__ = name

        def __call__(self) -> int:
            return 5

    assert [client.submit(Named(name)).result(timeout=20) for name in (7, "a\ud800b", "|", "")] == [5] * 4


def test_an_item_that_cannot_be_read_does_not_take_its_neighbours_along(client: Client) -> None:
    queue, sub = Queue("poison"), Sub("poison")
    for value in (1, Mine(), 3):
        queue.put(value)
        Pub("poison").put(value)
    with pytest.raises(LookupError):
        queue.get(batch=True)
    assert sub.get(timeout=5) == 1
    with pytest.raises(LookupError):
        sub.get(timeout=5)
    assert sub.get(timeout=5) == 3
    assert queue.get(timeout=5) == 1
    assert queue.get(timeout=5) == 3
    assert queue.dead_letters.qsize() == 1


def test_an_unpicklable_value_is_refused_and_changes_nothing(client: Client) -> None:
    variable, queue, sub = Variable("kept"), Queue("kept"), Sub("kept")
    variable.set(1)
    for call in (variable.set, queue.put, Pub("kept").put, client.scatter, lambda v: queue.put_many([1, v])):
        with pytest.raises(TypeError, match="cannot be pickled"):
            call(threading.Lock())
    assert variable.get(timeout=0) == 1
    assert queue.qsize() == 0
    with pytest.raises(TimeoutError):
        sub.get(timeout=0)


class QuitsWhenPickled(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("not me")


def test_an_exception_that_ends_who_pickles_it_is_its_tasks_failure(client: Client) -> None:
    def fail() -> None:
        raise QuitsWhenPickled("words")

    before = client.run(os.getpid)
    with pytest.raises(Exception, match="words") as error:
        client.submit(fail).result(10)
    assert not isinstance(error.value, KilledWorker)
    assert client.run(os.getpid) == before


def test_an_argument_that_holds_itself_is_named(client: Client) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Unpicklable, match="an argument of len holds itself"):
        client.submit(len, loop)


def test_large_plain_arguments_are_placed_beside_the_store(client: Client) -> None:
    data = Path(client.host.directory, "data.mdb")
    before = data.stat().st_size
    assert client.submit(len, b"x" * 40_000_000).result() == 40_000_000
    assert client.gather(client.map(len, ["x" * 1_000_000] * 40)) == [1_000_000] * 40
    assert data.stat().st_size - before < 20 << 20
