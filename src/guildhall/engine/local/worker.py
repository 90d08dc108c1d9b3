"""A worker process: claims tasks, runs them in its main thread, finishes them.

Forked from `forkserver.py`, which calls `main`. A task that waits in guildhall gives up its slot: a helper thread
claims meanwhile. Claims are of one task until tasks have proved short.
"""

from __future__ import annotations

import pickle
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from io import TextIOWrapper
from types import CoroutineType
from typing import Any

from ...deadline import now
from ...errors import StoreFull, Unpicklable
from ...hosts import current
from ...hosts.embedded import EmbeddedHost, open_hall
from ...primitives import values, waiters
from ...primitives.op import Answer
from ...primitives.values import ERROR, FINISHED
from . import failures, payload, tasks
from .monitor import Monitor
from .tasks import Done, Recipe

BATCH_S = 0.001
MAX_BATCH = 128
MAX_HELPERS = 256
FULL_S = 0.02


class Slot(threading.local):
    """The claim that this thread is working on."""

    run: Run | None = None


slot = Slot()


@lru_cache(maxsize=256)
def _function(pickled: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = pickle.loads(pickled)
    return function


@lru_cache(maxsize=256)
def _placed(host: EmbeddedHost, oid: bytes) -> bytes:
    found = host.read(values.look, oid)
    if found is None:
        raise FileNotFoundError("the function is gone")
    return found.data


@lru_cache(maxsize=1)
def _large_function(host: EmbeddedHost, data: bytes) -> Callable[..., Any]:
    """One at a time, and none while there is nothing to do: it keeps its blob's memory."""
    function: Callable[..., Any] = payload.decode(host, data)
    return function


def _function_of(host: EmbeddedHost, code: bytes) -> Callable[..., Any]:
    if code[:1] == payload.REFERENCE:
        code = _placed(host, code[1:])
    return _function(code) if code[:1] == payload.PICKLE else _large_function(host, code)


class Run:
    """One claim being worked off: the tasks not begun, and the ends not yet told."""

    def __init__(self, host: EmbeddedHost, key: bytes, todo: list[tuple[bytes, Recipe]]) -> None:
        self.host = host
        self.key = key
        self.begun = 0
        self.waits = 0
        self._todo = todo[::-1]
        self._ends: list[Done] = []
        self._gate = threading.Lock()

    def work(self) -> float:
        """Run all. Returns the seconds that a task took on average."""
        began = told = time.perf_counter()
        end: Done | None = None
        while (task := self._next(end)) is not None:
            end = run_task(self.host, *task)
            ended = time.perf_counter()
            if ended - told > BATCH_S:
                self.tell(end)
                end, told = None, ended
        self.tell()
        return (time.perf_counter() - began) / max(self.begun, 1)

    def _next(self, end: Done | None) -> tuple[bytes, Recipe] | None:
        """Note the end of one task and begin the next."""
        with self._gate:
            if end is not None:
                self._ends.append(end)
            if not self._todo:
                return None
            self.begun += 1
            return self._todo.pop()

    def tell(self, last: Done | None = None) -> None:
        """Finish what has ended. Any thread may, while another works."""
        with self._gate:
            ends, self._ends = self._ends, []
        if last is not None:
            ends.append(last)
        if not ends:
            return
        try:
            self.host.transact(tasks.finish, self.key, ends)
        except StoreFull:
            for end in ends:
                self._tell_one(end)
        for end in ends:
            if end.uses:
                self.host.defer(values.release_for, self.host.session, end.uses)

    def _tell_one(self, end: Done) -> None:
        """Tell one end by itself: another that does not fit shall not take it along."""
        try:
            self.host.transact(tasks.finish, self.key, [end])
        except StoreFull:
            if end.blob:
                self.host.remove_blob(end.blob)
            self.host.transact(tasks.finish, self.key, [Done(end.oid, ERROR, tasks.FULL)])

    def yield_rest(self) -> None:
        """Tell what is done and give the tasks not begun to others."""
        with self._gate:
            rest, self._todo = self._todo, []
        self.tell()
        if rest:
            try:
                self.host.transact(tasks.unclaim, self.key, [oid for oid, _ in rest])
            except StoreFull:  # No room to give them back: they stay ours.
                with self._gate:
                    self._todo = rest + self._todo


def run_task(host: EmbeddedHost, oid: bytes, recipe: Recipe) -> Done:
    """Run one task to its end, whatever it raises."""
    try:
        args, kwargs = _arguments(host, recipe)
        result = _call(host, recipe, args, kwargs)
        data, uses, blob = payload.encode(host, oid, result, f"the result of task {recipe.name}")
        if uses:  # Until it is told: the futures in the result are dropped with it, which gives their holds back.
            host.transact(values.hold_for, host.session, uses)
        return Done(oid, FINISHED, data, uses, blob)
    except BaseException as error:
        if (
            error.__traceback__ is not None
            and error.__traceback__.tb_next is not None
            and not isinstance(error, Unpicklable)
        ):
            error.__traceback__ = error.__traceback__.tb_next
        return Done(oid, ERROR, failures.encode(error), again=recipe.retries > 0)


def _call(host: EmbeddedHost, recipe: Recipe, args: Any, kwargs: Any) -> Any:
    result = _function_of(host, recipe.function)(*args, **kwargs)
    if isinstance(result, CoroutineType):
        import asyncio

        return asyncio.run(result)
    return result


def _arguments(host: EmbeddedHost, recipe: Recipe) -> tuple[Any, Any]:
    args, kwargs = pickle.loads(recipe.args) if recipe.is_plain else payload.decode(host, recipe.args)
    return args, kwargs


class Worker:
    """The claiming loop of one process, and its helpers."""

    def __init__(self, host: EmbeddedHost) -> None:
        self.host = host
        self._monitor = Monitor()
        self._helpers = 0
        self._blocked = 0
        self._gate = threading.Lock()

    def loop(self, is_helper: bool = False) -> None:
        """Claim and run for ever; a helper only as long as more tasks are blocked than helpers run."""
        host = self.host
        limit = 1
        while True:
            if is_helper and self._retires():
                return
            try:
                claimed = host.transact(tasks.claim, host.session, limit, None, now())
                if isinstance(claimed, Answer):
                    limit = max(1, limit // 2)
                    claimed = self._await_task(is_helper)
                    if claimed is None:
                        continue
            except StoreFull:  # Not even room to stand in line: look again, until somebody takes something.
                time.sleep(FULL_S)
                continue
            key, todo = claimed
            run = slot.run = Run(host, key, todo)
            if len(todo) > 1:
                self._monitor.follow(run)
            each_s = run.work()
            if len(todo) > 1:
                self._monitor.follow(None)
            slot.run = None
            limit = 1 if is_helper else min(MAX_BATCH, limit * 2, max(1, int(BATCH_S / max(each_s, 1e-6))))

    def _await_task(self, is_helper: bool) -> Any:
        host = self.host
        waiter, bell = host.waiter(), host.bell()
        try:
            claimed = host.transact(tasks.claim, host.session, 1, waiter, now())
            if not isinstance(claimed, Answer):
                return claimed
            if host.look(None, waiters.is_granted, waiter) or not host.transact(tasks.doze, waiter, bell.number):
                return None
            _large_function.cache_clear()
            while not host.read(waiters.is_granted, waiter):
                host.sleep(bell, 0.2 if is_helper else None)
                if is_helper and self._helpers > self._blocked:
                    host.transact(waiters.withdraw, waiter)
                    return None
            return None
        finally:
            host.done(bell)

    def _retires(self) -> bool:
        """Whether this helper is one too many; then it counts no more."""
        with self._gate:
            is_surplus = self._helpers > self._blocked
            self._helpers -= is_surplus
            return is_surplus

    def give_way(self) -> Callable[[], None]:
        """A task waits: others may run. Answers what to call when it goes on."""
        run = slot.run
        if run is None:
            return lambda: None
        run.waits += 1
        if run.waits > 1:  # Coroutines of one task: it is one task that waits.
            return partial(self._go_on, run)
        run.yield_rest()
        with self._gate:
            self._blocked += 1
            needs_helper = self._helpers < self._blocked and self._helpers < MAX_HELPERS
            self._helpers += needs_helper
        if needs_helper:
            threading.Thread(target=self._help, daemon=True, name="guildhall-helper").start()
        return partial(self._go_on, run)

    def _help(self) -> None:
        self.loop(is_helper=True)
        self.host.transact(tasks.pass_on)  # It may have been woken for a task that it no longer takes.

    def _go_on(self, run: Run) -> None:
        run.waits -= 1
        if not run.waits:
            with self._gate:
                self._blocked -= 1


def main(directory: str, joined: Callable[[], None]) -> None:
    """Join the hall, say so, and work there for ever."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # A worker is killed in the end: nothing else empties the buffer.
    host = open_hall(directory, role="worker", estates=(tasks.bury,))
    current.enter_task(host)
    worker = Worker(host)
    host.give_way = worker.give_way
    host.insist(tasks.enlist, host.session)
    joined()
    worker.loop()
