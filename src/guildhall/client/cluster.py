"""LocalCluster: a hall of one's own and workers in it."""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import msgspec

from ..engine.local import payload, tasks
from ..engine.local.options import WorkerOptions
from ..engine.local.pool import ForkServer, Pool
from ..errors import Misuse, WrongType
from ..hosts.sweeper import Sweeper
from ..primitives import values
from . import hall as halls
from . import html

_IGNORED = ("dashboard_address", "silence_logs", "scheduler_port", "protocol", "host", "ip", "local_directory", "name")
"""What the peer's cluster takes and this one has no use for."""
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
ADAPT_S = 0.1


class LocalCluster:
    """Workers on this machine, in a private hall. Default: one process for each core, of one thread each.

    `threads_per_worker`: tasks that a process runs at a time. `processes=False`: threads of this process instead of
    others. `resources`: what each worker has, for tasks that ask for it. `max_tasks_per_worker`: after so many a
    process ends and a new one takes its place. `initializer(*initargs)` is called first in each. `memory_limit`: of
    memory of its own for each process, in bytes or as text such as "2GiB": above 80 % it claims no tasks, above 95 %
    it ends and another takes its place. `blob_budget`: of shared memory for large values of all; what was not read for
    longest moves to disk, and a value that is larger by itself is refused.
    """

    def __init__(
        self,
        n_workers: int | None = None,
        threads_per_worker: int | None = None,
        *,
        processes: bool = True,
        resources: Mapping[str, float] | None = None,
        max_tasks_per_worker: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        memory_limit: int | str | None = None,
        blob_budget: int | str | None = None,
        **options: Any,
    ) -> None:
        self.threads = _count("threads_per_worker", 1 if threads_per_worker is None else threads_per_worker)
        self.n_workers = _count("n_workers", max(1, _cores() // self.threads) if n_workers is None else n_workers)
        if unknown := set(options).difference(_IGNORED):
            raise WrongType(f"LocalCluster: unknown option {min(unknown)!r}")
        told = WorkerOptions(
            self.threads if processes else self.threads * self.n_workers,
            amounts(resources),
            None if max_tasks_per_worker is None else _count("max_tasks_per_worker", max_tasks_per_worker),
            bytes_of("memory_limit", memory_limit),
            authkey=_authkey(),
        )
        self.has_processes = processes
        budget = bytes_of("blob_budget", blob_budget)
        self._adapting: threading.Event | None = None
        self._is_open = True
        self.pool: Pool | Any
        if processes:
            self._start_processes(told, initializer, initargs)
        else:
            self._start_threads(told, initializer, initargs)
        if budget is not None:
            self.host.transact(values.set_budget, budget)
        self._sweeper = Sweeper(self.host)
        atexit.register(self.close)

    def _start_processes(self, told: WorkerOptions, initializer: Any, initargs: tuple[Any, ...]) -> None:
        server = ForkServer()  # Before the hall, so that it imports while that is made.
        try:
            self.host = halls.open().host
        except BaseException:
            server.close()
            raise
        try:
            if initializer is not None:
                self._first = _placed(self.host, initializer, initargs)
                told = msgspec.structs.replace(told, initializer=self._first.hex())
            self.pool = pool = Pool(self.host, self.n_workers, server, told)
        except BaseException:
            server.close()
            self.host.close()
            raise
        self.host.exits = pool.exits  # type: ignore[attr-defined]

    def _start_threads(self, told: WorkerOptions, initializer: Any, initargs: tuple[Any, ...]) -> None:
        from ..engine.local.threads import Threads  # With all that a worker needs.

        self.host = halls.open().host
        try:
            if initializer is not None:
                initializer(*initargs)
            self.pool = Threads(self.host, told)
        except BaseException:
            self.host.close()
            raise

    # -- size ---------------------------------------------------------------------------------------------------------

    def scale(self, n: int) -> None:
        """So many worker processes from now on: more are started, surplus ones end when their tasks have ended."""
        self.n_workers = _count("scale: n", n)
        self.pool.scale(n)

    def adapt(self, minimum: int = 1, maximum: int | None = None) -> None:
        """From now on as many workers as there are tasks to do, within these bounds; they go after a second of rest."""
        least, most = _count("adapt: minimum", minimum), _count("adapt: maximum", maximum or _cores())
        if least > most:
            raise Misuse(f"adapt: minimum {least} is above maximum {most}; give them the other way round")
        self._stop_adapting()
        self._adapting = threading.Event()
        threading.Thread(
            target=self._adapt, args=(least, most, self._adapting), daemon=True, name="guildhall-adapt"
        ).start()

    def _adapt(self, least: int, most: int, is_over: threading.Event) -> None:
        quiet_s = 0.0
        while not is_over.wait(ADAPT_S):
            todo = self.host.read(tasks.load)
            wanted = min(most, max(least, todo))
            quiet_s = 0.0 if wanted >= self.n_workers else quiet_s + ADAPT_S
            if wanted > self.n_workers or quiet_s > 1:
                self.scale(wanted)

    def _stop_adapting(self) -> None:
        if self._adapting is not None:
            self._adapting.set()
            self._adapting = None

    # -- end ----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the workers and remove the hall."""
        if self._is_open:
            self._is_open = False
            self._stop_adapting()
            atexit.unregister(self.close)
            if self.host._pid == os.getpid():
                self._sweeper.close()
                self.pool.close()
                self.host.close()

    def is_ours(self) -> bool:
        """Whether it is open, and was started by this process rather than by its parent."""
        return self._is_open and self.host._pid == os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalCluster({self.n_workers} workers, {self.n_workers * self.threads} threads)"

    def _repr_html_(self) -> str:
        return html.table("guildhall LocalCluster", self._facts())

    def _facts(self) -> list[tuple[str, object]]:
        facts: list[tuple[str, object]] = [("Workers", self.n_workers), ("Threads", self.n_workers * self.threads)]
        if not self.is_ours():
            return [*facts, ("Status", "closed" if not self._is_open else "of the parent process")]
        pids = ", ".join(str(info.pid) for info in self.host.read(tasks.crew).values())
        ready, claimed = self.host.read(tasks.standing)
        facts += [("Processes", pids), ("Hall", self.host.directory), ("Tasks ready", ready), ("with workers", claimed)]
        exits: dict[int, str] = getattr(self.host, "exits", {})
        if exits:
            facts.append(("Workers that ended", ", ".join(f"{pid}: {how}" for pid, how in exits.items())))
        return facts


def _placed(host: Any, initializer: Any, initargs: tuple[Any, ...]) -> bytes:
    """The call as an object of the hall."""
    if not callable(initializer):
        raise WrongType(f"initializer: expected a function, got {type(initializer).__name__} {initializer!r:.60}")
    return payload.place(host, lambda: initializer(*initargs), "the initializer")


def _authkey() -> str:
    """What this process's `multiprocessing` shows at the door of a manager, as hex, if it has one so far."""
    process = sys.modules.get("multiprocessing.process")
    return "" if process is None else bytes(process.current_process().authkey).hex()


def _count(what: str, given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise WrongType(f"{what}: expected a whole number, got {given!r}")
    if given < 1:
        raise Misuse(f"{what} {given}: expected 1 or more")
    return given


def amounts(given: Any) -> tasks.Amounts:
    """Resources by name. Raises WrongType for what is no dict of numbers, Misuse for less than nothing."""
    if given is None:
        return ()
    if not isinstance(given, Mapping):
        raise WrongType(f"resources: expected a dict of amounts by name, got {type(given).__name__} {given!r:.60}")
    return tuple((str(name), _amount(name, amount)) for name, amount in given.items())


def _amount(name: Any, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise WrongType(f"resources: {name!r}: expected a number, got {given!r:.60}")
    if not given >= 0:
        raise Misuse(f"resources: {name!r}: expected 0 or more, got {given}")
    return float(given)


def bytes_of(what: str, given: Any) -> int | None:
    """A size in bytes, from a number or from text such as "2GiB"; None for none, 0 and "auto"."""
    if given in (None, 0, "auto"):
        return None
    if isinstance(given, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", given.lower())
        if match is None:
            raise Misuse(f"{what} {given!r:.60}: expected bytes, or text such as '500MB' or '2GiB'")
        return int(float(match[1]) * _UNITS[match[2]])
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise WrongType(f"{what}: expected bytes, or text such as '500MB' or '2GiB', got {given!r:.60}")
    if given < 0:
        raise Misuse(f"{what} {given}: expected 0 or more")
    return int(given)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
