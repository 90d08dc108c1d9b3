"""A worker process: claims tasks, runs them in its main thread, finishes them.

Started as `python -m guildhall.engine.local.worker HALL PARENT_PID ...`. A task that waits in guildhall gives up its
slot: a helper thread claims meanwhile. Claims are of one task until tasks have proved short.
"""

from __future__ import annotations

import inspect
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ...errors import GuildhallError, StoreFull, Unpicklable
from ...hosts import current
from ...hosts.embedded import EmbeddedHost, open_hall
from ...primitives import values, waiters
from ...primitives.op import Answer
from ...primitives.values import ERROR, FINISHED
from . import payload, tasks
from .tasks import Done, Recipe

BATCH_S = 0.001
MAX_BATCH = 128
MAX_HELPERS = 256
SPIN_S = 0.00005
FULL_S = 0.02
PATIENCE_S = 0.005


class Slot(threading.local):
    """The claim that this thread is working on."""

    run: Run | None = None


slot = Slot()


@lru_cache(maxsize=256)
def _function(pickled: bytes) -> Callable[..., Any]:
    function: Callable[..., Any] = pickle.loads(pickled)
    return function


class Run:
    """One claim being worked off: the tasks not begun, and the ends not yet told."""

    def __init__(self, host: EmbeddedHost, key: bytes, todo: list[tuple[bytes, Recipe]]) -> None:
        self.host = host
        self.key = key
        self.todo = todo[::-1]
        self.ends: list[Done] = []
        self.begun = 0
        self.is_over = False
        self.gate = threading.Lock()

    def work(self) -> float:
        """Run all. Returns the seconds that a task took on average."""
        count = 0
        begun = told = time.perf_counter()
        while True:
            with self.gate:
                if not self.todo:
                    break
                oid, recipe = self.todo.pop()
                self.begun += 1
            end = run_task(self.host, oid, recipe)
            with self.gate:  # While the task ran, `tell` may have taken what was here, in this thread or another.
                self.ends.append(end)
            count += 1
            if time.perf_counter() - told > BATCH_S:
                self.tell()
                told = time.perf_counter()
        self.is_over = True
        self.tell()
        return (time.perf_counter() - begun) / max(count, 1)

    def tell(self) -> None:
        with self.gate:
            ends, self.ends = self.ends, []
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
        with self.gate:
            rest, self.todo = self.todo, []
        self.tell()
        if rest:
            try:
                self.host.transact(tasks.unclaim, self.key, [oid for oid, _ in rest])
            except StoreFull:  # No room to give them back: they stay ours.
                with self.gate:
                    self.todo = rest + self.todo


class Minder:
    """Looks after claims of several tasks: a slow one shall not keep the others' results, nor those not begun."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._news = threading.Event()

    def mind(self, run: Run) -> None:
        self._run = run
        if not self._news.is_set():
            self._news.set()

    def loop(self) -> None:
        last: tuple[Run | None, int] = (None, 0)
        while True:
            run = self._run
            if run is None or run.is_over:
                self._news.clear()
                if self._run is run:
                    self._news.wait()
                continue
            if last == (run, run.begun) and (run.todo or run.ends):
                with suppress(GuildhallError):
                    run.yield_rest()
            last = run, run.begun
            time.sleep(PATIENCE_S)


def run_task(host: EmbeddedHost, oid: bytes, recipe: Recipe) -> Done:
    """Run one task to its end, whatever it raises."""
    try:
        args, kwargs = _arguments(host, recipe)
        result = _call(host, recipe, args, kwargs)
        data, uses, blob = payload.encode(host, result, f"the result of task {recipe.name}")
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
        return Done(oid, ERROR, payload.encode_error(error), again=recipe.retries > 0)


def _call(host: EmbeddedHost, recipe: Recipe, args: Any, kwargs: Any) -> Any:
    code = recipe.function
    function = _function(code) if code[:1] == b"\x80" else payload.decode(host, code)
    result = function(*args, **kwargs)
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def _arguments(host: EmbeddedHost, recipe: Recipe) -> tuple[Any, Any]:
    return payload.decode(host, recipe.args)  # type: ignore[no-any-return]


class Worker:
    """The claiming loop of one process, and its helpers."""

    def __init__(self, host: EmbeddedHost) -> None:
        self.host = host
        self._helpers = 0
        self._blocked = 0
        self._gate = threading.Lock()
        self.minder = Minder()

    def loop(self, is_helper: bool = False) -> None:
        """Claim and run for ever; a helper only as long as more tasks are blocked than helpers run."""
        host = self.host
        limit = 1
        while True:
            if is_helper and self._is_surplus():
                return
            try:
                claimed = host.transact(tasks.claim, host.session, limit, None)
                if isinstance(claimed, Answer):
                    limit = 1
                    claimed = self._await_task(is_helper)
                    if claimed is None:
                        continue
            except StoreFull:  # Not even room to stand in line: look again, until somebody takes something.
                time.sleep(FULL_S)
                continue
            key, todo = claimed
            slot.run = Run(host, key, todo)
            if len(todo) > 1:
                self.minder.mind(slot.run)
            each_s = slot.run.work()
            slot.run = None
            limit = 1 if is_helper else min(MAX_BATCH, limit * 2, max(1, int(BATCH_S / max(each_s, 1e-6))))

    def _await_task(self, is_helper: bool) -> Any:
        host = self.host
        spun = time.perf_counter() + SPIN_S
        while time.perf_counter() < spun:
            if host.read(_any_ready):
                return None
        waiter, bell = host.waiter()
        try:
            claimed = host.transact(tasks.claim, host.session, 1, waiter)
            if not isinstance(claimed, Answer):
                return claimed
            while host.read(waiters.is_parked, waiter):
                host.sleep(bell, 0.2 if is_helper else None)
                if is_helper and self._is_surplus():
                    host.transact(waiters.withdraw, waiter)
                    return None
            return None
        finally:
            host.done(bell)

    def _is_surplus(self) -> bool:
        with self._gate:
            if self._helpers > self._blocked:
                self._helpers -= 1
                return True
            return False

    def give_way(self) -> Callable[[], None]:
        """A task waits: others may run. Answers what to call when it goes on."""
        run = slot.run
        if run is None:
            return lambda: None
        run.yield_rest()
        with self._gate:
            self._blocked += 1
            needs_helper = self._helpers < self._blocked and self._helpers < MAX_HELPERS
            self._helpers += needs_helper
        if needs_helper:
            threading.Thread(target=self._help, daemon=True, name="guildhall-helper").start()
        return self._go_on

    def _help(self) -> None:
        self.loop(is_helper=True)
        self.host.transact(tasks.pass_on)  # It may have been woken for a task that it no longer takes.

    def _go_on(self) -> None:
        with self._gate:
            self._blocked -= 1


def _any_ready(txn: Any) -> bool:
    return txn.first(tasks.READY) is not None


def watch_parent(host: EmbeddedHost, pid: int) -> None:
    """End with the process that started us; the last one out removes a private hall."""
    poll = select.poll()
    try:
        poll.register(os.pidfd_open(pid), select.POLLIN)
        while not poll.poll(1000) and os.getppid() == pid:
            pass
    except (OSError, AttributeError):
        while os.getppid() == pid:
            time.sleep(0.5)
    try:
        if host.is_private:
            host._members.leave(host.session)
            if not host._members.anybody():
                from ...hosts.embedded import remove_hall

                remove_hall(host.directory)
    finally:
        os._exit(1)


def main() -> None:
    directory, parent, is_private, *path = sys.argv[1:]
    sys.path[:] = path
    sys.argv[1:] = []
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle.
    host = open_hall(directory, role="worker", estates=(tasks.bury,), is_private=is_private == "1")
    current.task_host.append(host)
    worker = Worker(host)
    host.give_way = worker.give_way
    threading.Thread(target=watch_parent, args=(host, int(parent)), daemon=True, name="guildhall-parent").start()
    threading.Thread(target=worker.minder.loop, daemon=True, name="guildhall-minder").start()
    worker.loop()


if __name__ == "__main__":
    from guildhall.engine.local.worker import main as run

    run()
