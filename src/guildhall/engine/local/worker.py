"""A worker process: claims tasks, runs them in its main thread, finishes them.

Forked from `forkserver.py`, which calls `main`. A task that waits in guildhall gives up its slot: a helper thread
claims meanwhile. Claims are of one task until tasks have proved short.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOWrapper

from ...deadline import now
from ...errors import StoreFull
from ...hosts import current
from ...hosts.embedded import EmbeddedHost, open_hall
from ...hosts.marks import Lane
from ...primitives import values, waiters
from ...primitives.op import Answer
from ...primitives.values import ERROR
from ...store.transaction import Waiter
from . import inbox, interrupts, tasks
from .attendant import Attendant
from .interrupts import Interruptible
from .memory import MemoryGuard
from .monitor import Monitor
from .options import WorkerOptions, unpacked
from .running import large_function, load_function, run_task
from .tasks import Done, Recipe

BATCH_S = 0.001
MAX_BATCH = 128
MAX_HELPERS = 256
"""Threads for tasks that run while others wait. When there are more waiting tasks than that, those run tasks."""
MAX_DEPTH = 16
"""So many inside one another in one thread, and no more: Python's stack has an end."""
FULL_S = 0.02
PAUSED_S = 0.05


class Slot(threading.local):
    """The claim that this thread is working on."""

    run: Run | None = None
    depth: int = 0
    """How many tasks run inside one another in this thread."""


slot = Slot()


class Run(Interruptible):
    """One claim being worked off: the tasks not begun, and the ends not yet told."""

    def __init__(
        self, host: EmbeddedHost, key: bytes, todo: list[tuple[bytes, Recipe]], lane: Lane | None = None
    ) -> None:
        super().__init__()
        self.host = host
        self._lane = lane
        """Where it marks which task it begins: if this process is killed, that one alone is to blame."""
        self.key = key
        self.begun = 0
        self.waits = 0
        self.around: Run | None = None
        """What its thread works on, too, and goes on with behind this."""
        self.todo = todo[::-1]
        """The tasks not begun, the next one last."""
        self._ends: list[Done] = []
        self._gate = threading.Lock()

    def work(self) -> float:
        """Run all. Returns the seconds that a task took on average."""
        began = told = time.perf_counter()
        end: Done | None = None
        lane = self._lane
        while (task := self._next(end)) is not None:
            if lane is not None:
                lane.words[lane.index] = tasks.mark_of(task[0])
            end = run_task(self.host, *task, self)
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
            if not self.todo:
                return None
            self.begun += 1
            return self.todo.pop()

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
        with self._gate:  # Until they are back: our thread is not to claim those behind them meanwhile.
            if self.todo:
                with suppress(StoreFull):  # No room to give them back: they stay ours.
                    self.host.transact(tasks.unclaim, self.key, [oid for oid, _ in self.todo])
                    self.todo = []
        self.tell()


class Worker:
    """The claiming loops of one process, one for each of its threads, and their helpers."""

    def __init__(self, host: EmbeddedHost, options: WorkerOptions) -> None:
        self.host = host
        self.options = options
        self.is_retiring = False
        self.is_paused = False
        """Then it claims nothing."""
        self.threads: list[threading.Thread] = []
        self._able = tasks.Able(frozenset(tasks.names_of(host.session, os.getpid())), options.resources)
        self._runs: dict[threading.Thread, Run] = {}
        self._begun = 0
        self._helpers = 0
        self._blocked = 0
        self._gate = threading.Lock()

    def loop(self, is_helper: bool = False) -> None:
        """Claim and run until told to end; a helper only as long as more tasks are blocked than helpers run."""
        host, monitor = self.host, Monitor()
        lane = None if is_helper else host.lane_of_ones_own()  # Who takes one task at a time has nothing to mark.
        place = -1 if lane is None else lane.index
        limit = 1
        while not self.is_retiring:
            if is_helper and self._retires():
                return
            if self.is_paused:
                time.sleep(PAUSED_S)
                continue
            try:
                most = min(limit, self._left())
                waiter = host.waiter()
                claimed = host.transact(tasks.claim, host.session, most, waiter, self._able, now(), place)
                if isinstance(claimed, Answer):
                    limit = max(1, limit // 2)
                    self._await_task(waiter, is_helper)
                    continue
            except StoreFull:  # Not even room to stand in line: look again, until somebody takes something.
                time.sleep(FULL_S)
                continue
            key, todo = claimed
            each_s = self._work_off(Run(host, key, todo, lane), monitor)
            limit = 1 if is_helper else min(MAX_BATCH, limit * 2, max(1, int(BATCH_S / max(each_s, 1e-6))))

    def _work_off(self, run: Run, monitor: Monitor | None = None) -> float:
        """Run the tasks of a claim. Returns the seconds that one took on average."""
        count, demand = len(run.todo), run.todo[0][1].demand
        run.around, slot.run = slot.run, run
        self._runs[run.thread] = current.runs[get_ident()] = run
        self._able.take(demand)
        try:
            if monitor is not None and count > 1:
                monitor.follow(run)
            return run.work()
        finally:
            if monitor is not None and count > 1:
                monitor.follow(None)
            slot.run = run.around
            if run.around is None:
                del self._runs[run.thread], current.runs[get_ident()]
            else:
                self._runs[run.thread] = current.runs[get_ident()] = run.around
            if run.waits:  # A task that left its slot by hand and has ended.
                run.waits = 1
                self._go_on(run)
            if demand is not None:
                self._able.give_back(demand)
                self.host.transact(tasks.wake_all)
            self._count(run.begun)

    def _count(self, begun: int) -> None:
        """So many tasks more were run. When there were enough, this process ends after the others that run."""
        self._begun += begun
        if self.options.max_tasks is not None and self._begun >= self.options.max_tasks:
            self.retire()

    def _left(self) -> int:
        """How many tasks this process may still run."""
        return MAX_BATCH if self.options.max_tasks is None else max(1, self.options.max_tasks - self._begun)

    def is_idle(self) -> bool:
        """Whether it runs no task."""
        return not self._runs

    def retire(self) -> None:
        """End when the tasks that run have ended."""
        self.is_retiring = True
        self.host.transact(tasks.wake_all)

    def interrupt(self, oid: bytes) -> bool:
        """Raise Interrupted in the task, if it runs here. Whether it does. A call into C ends first, but a sleep or a
        wait does not."""
        for innermost in list(self._runs.values()):
            run: Run | None = innermost
            while run is not None:
                if run.interrupt(oid):
                    return True
                run = run.around
        return False

    def on_signal(self, *_: object) -> None:
        """In the main thread."""
        if slot.run is not None:
            slot.run.on_signal()

    def _await_task(self, waiter: Waiter, is_helper: bool) -> None:
        """Until there may be a task, of which the waiter, parked and awake, is told; or this thread is to end."""
        host = self.host
        if host.look_if_alone(None, waiters.is_granted, waiter):
            return
        bell = host.bell()
        try:
            try:
                is_asleep = host.transact(tasks.doze, waiter, bell.number)
            except StoreFull:  # Who stays in line and does not look is woken in another's place.
                host.insist(waiters.withdraw, waiter)
                raise
            if not is_asleep:
                return
            large_function.cache_clear()
            while not host.read(waiters.is_granted, waiter):
                host.sleep(bell, 0.2 if is_helper else None)
                if self.is_retiring or (is_helper and self._helpers > self._blocked):
                    host.transact(waiters.withdraw, waiter)
                    return
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
        with run.apart():
            return self._give_way(run)

    def _give_way(self, run: Run) -> Callable[[], None]:
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

    def lend_hand(self) -> bool | None:
        """When there are as many helpers as may be, a thread that waits runs a ready task itself.

        Whether it did; None if that is not called for, or it does so too many times over already.
        """
        if self._helpers < MAX_HELPERS or self._helpers >= self._blocked or slot.depth >= MAX_DEPTH:
            return None
        if (run := slot.run) is None:
            return self._run_ready()
        with run.apart():
            return self._run_ready()

    def _run_ready(self) -> bool:
        claimed = self.host.transact(tasks.claim, self.host.session, 1, None, self._able, now())
        return not isinstance(claimed, Answer) and self._run_inside(claimed)

    def run_awaited(self, oid: bytes) -> None:
        """The task that this thread is about to wait for is run by it, at once, if it is one of the next to be run.

        Safe where another task would not be: who waits for this one cannot be what it waits for.
        """
        if slot.run is not None and slot.depth < MAX_DEPTH:
            with slot.run.apart():
                claimed = self.host.transact(tasks.claim_one, self.host.session, oid, now())
                if claimed is not None:
                    self._run_inside(claimed)

    def _run_inside(self, claimed: tuple[bytes, list[tuple[bytes, Recipe]]]) -> bool:
        """Work a claim off inside the task that this thread runs. True."""
        slot.depth += 1
        try:
            self._work_off(Run(self.host, *claimed))
        finally:
            slot.depth -= 1
        return True

    def end(self) -> None:
        """Leave when the tasks of other threads have ended, too."""
        while self._runs:
            time.sleep(0.01)
        self.host.close()

    def _help(self) -> None:
        self.loop(is_helper=True)
        self.host.transact(tasks.pass_on)  # It may have been woken for a task that it no longer takes.

    def _go_on(self, run: Run) -> None:
        with run.apart():
            run.waits -= 1
            if not run.waits:
                with self._gate:
                    self._blocked -= 1


def here() -> Worker:
    """The worker whose attendant calls this."""
    attendant = threading.current_thread()
    assert isinstance(attendant, Attendant), "called by a worker's attendant"
    return attendant.worker  # type: ignore[no-any-return]


def interrupt(oid: bytes) -> bool:
    """Asked of a worker's attendant: as `Worker.interrupt`."""
    return here().interrupt(oid)


def retire() -> None:
    """Asked of a worker's attendant: as `Worker.retire`."""
    here().retire()


def main(told: str, joined: Callable[[], None]) -> None:
    """Join the hall, say so, and work there until told to end."""
    options, directory = unpacked(told)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # A worker is killed in the end: nothing else empties the buffer.
    host = open_hall(directory, role="worker", estates=(inbox.bury_worker,))
    current.enter_task(host)
    worker = Worker(host, options)
    signal.signal(interrupts.SIGNAL, worker.on_signal)
    if options.authkey:
        from multiprocessing import process  # Only where the client has it, too: it takes a millisecond.

        process.current_process().authkey = bytes.fromhex(options.authkey)
    if options.initializer:
        load_function(host, bytes.fromhex(options.initializer))()
    serve(worker)
    joined()
    worker.loop()
    worker.end()


def serve(worker: Worker, *, is_process: bool = True) -> None:
    """Offer its work: from now on this process counts as a worker. Its main thread is the first to work, unless it is
    not a `worker` process."""
    host, options = worker.host, worker.options
    host.give_way = worker.give_way
    host.lend_hand, host.run_awaited = worker.lend_hand, worker.run_awaited
    info = tasks.WorkerInfo(os.getpid(), options.threads, options.resources, options.memory_limit or 0)
    host.insist(tasks.enlist, host.session, info)
    for number in range(int(is_process), options.threads):
        thread = threading.Thread(target=worker.loop, daemon=True, name=f"guildhall-slot-{number}")
        worker.threads.append(thread)
        thread.start()
    Attendant(host, worker).start()
    if options.memory_limit is not None and is_process:
        MemoryGuard(worker, options.memory_limit).start()
