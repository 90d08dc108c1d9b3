"""What happened: every public call and every commit of every process, written down while it happens.

A call is written when it begins and when it is over; what a killed process had begun has no end. A commit is written
*inside* its transaction, with its number (the store's revision), and once more when it is done. So of a commit whose
process died in it, the number says whether it took place: if another commit has the number it did not, and if none has,
it did, for numbers leave no gaps. Nothing that happened is unknown, however the processes died.

Where a hall lives in another process (a Dask scheduler), that one writes the commits down, and each process the numbers
under which it asked for them: so commits find their calls.

Only tests pay for this: a store is wrapped where it is given an op, and the rest of the package knows nothing of it.
Records go to a file of each process (O_APPEND, one write for each record), or to a list when processes are only
simulated.
"""

from __future__ import annotations

import functools
import inspect
import os
import pickle
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import GuildhallError, StoreFull
from ..hosts.embedded import EmbeddedHost
from ..primitives import queue, sessions
from ..store.lmdb import LmdbStore
from ..store.memory import MemoryTxn

FACTS = frozenset(("now", "seen", "session", "bell", "lane", "number", "due", "item", "had"))
"""Arguments of ops that are written down: what a model needs to know and a public call does not say."""
Write = Callable[[tuple[Any, ...]], object]
_LENGTH = struct.Struct("<I")
_ITEM_HEAD = queue.ITEM.pack(queue.Item(b""))[:1]
_ANSWERS = ("parked", "busy", "closed", "yes", "no")


@dataclass(eq=False)
class Call:
    """One public call. From `state` on it is its model's."""

    session: int
    kind: str
    name: str
    method: str
    args: tuple[Any, ...]
    begin: int
    end: int | None = None
    """None: its process died in it."""
    result: Any = None
    number: int = 0
    state: str = "new"
    """"new", "waits", "has" or "left"; for a Condition also "sleeps"."""
    granted: Commit | None = None
    value: Any = None
    is_put_off: bool = False
    """Whether it was over before it had left its line or given back what it got: that was to be done later."""

    @property
    def is_over(self) -> bool:
        return self.end is not None

    def __str__(self) -> str:
        what = f"{self.kind} {self.name!r}.{self.method}({', '.join(map(repr, self.args))})"
        came = f"-> {self.result!r}" if self.is_over else "(its process died in it)"
        return f"session {self.session}: {what} {came} [{self.begin}-{self.end}]"


@dataclass(eq=False)
class Commit:
    """One transaction. Those that wrote nothing have the number of the next that does, and come before it."""

    number: int
    wrote: bool
    op: str
    """Module and function, such as "lock.acquire"."""
    facts: dict[str, Any]
    answer: str
    """"parked", "busy", "closed", "yes" or "no" (the op's answer), or the name of the error that it raised."""
    begin: int
    inside: int
    """When the op had run and the commit was to come."""
    end: int | None
    call: Call | None = None
    session: int = 0
    """Whose it is, if that is known."""
    asked: tuple[int, int] | None = None
    """Under which number a session asked for it, if it was made in another process."""
    position: int = -1
    """Among all commits, in their order."""
    parts: list[Commit] = field(default_factory=list)
    """What was put off by calls and done in it, as commits of theirs."""

    @property
    def verb(self) -> str:
        return self.op.rpartition(".")[2]

    def __str__(self) -> str:
        wrote = "" if self.wrote else " (wrote nothing)"
        return f"commit {self.number}: {self.op} {self.facts} -> {self.answer}{wrote}"


@dataclass
class History:
    """All calls, and all commits in the order of their numbers. As text: one line for each, as they came."""

    calls: list[Call] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    doubtful: int = 0
    """How many commits were decided by their number alone."""

    def __str__(self) -> str:
        lines = [(c.inside, c.session or (c.call.session if c.call else 0), f"    {c}") for c in self.commits]
        for call in self.calls:
            what = f"{call.kind} {call.name!r}.{call.method}({', '.join(map(repr, call.args))})"
            lines.append((call.begin, call.session, f"{what} begins"))
            if call.end is not None:
                lines.append((call.end, call.session, f"{what} -> {call.result!r}"))
        lines.sort()
        start = lines[0][0] if lines else 0
        return "\n".join(f"{(at - start) / 1e9:12.6f} s  session {who or '?':<4} {text}" for at, who, text in lines)


class Log:
    """The records of one process. `write` takes one record; `clock` answers nanoseconds."""

    def __init__(self, write: Write, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._write = write
        self.clock = clock
        self._calls = 0
        self._current: Any = 0
        self.session = 0
        """Whose commits these are, if all are one session's."""
        self.buried: dict[str, Any] | None = None
        """Set by a burial: whose, and at what time."""
        self.parts: list[tuple[Any, ...]] = []
        """What was put off before and done in the transaction that runs."""
        self.in_transaction: Callable[[], object] = lambda: None
        """Called when an op has run and its commit is to come."""

    def call(
        self, session: int, kind: str, name: str, method: str, args: tuple[Any, ...], run: Callable[[], Any]
    ) -> Any:
        """Run a public call and write down what came of it. Returns that: an error of ours by its name."""
        self._calls += 1
        self._current = self._calls
        self._write(("call", self._calls, session, kind, name, method, args, self.clock()))
        try:
            result = run()
        except (GuildhallError, KeyboardInterrupt) as error:
            result = type(error).__name__
        self._write(("over", result, self.clock()))
        self._current = 0
        return result

    def transact(self, transact: Callable[..., Any], op: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if isinstance(op, _Noted):  # Once more, after room was made in the store.
            return transact(op, *args)
        noted = _Noted(self, op, self._current, self.clock())
        try:
            result = transact(noted, *args)
        except StoreFull:
            if noted.was_inside:
                self._write(("undone",))
            raise
        self._write(("done", self.clock()))
        return result

    def note(self, *record: Any) -> None:
        self._write(record)

    def put_off(self) -> Any:
        """The call that runs will be over before all that belongs to it is done. Returns what to do that `within`."""
        if self._current:
            self._write(("put off", self._current))
        return self._current

    @contextmanager
    def within(self, call: Any) -> Iterator[None]:
        """Until the end of this, commits belong to that call; None: to the one that runs."""
        before = self._current
        if call is not None:
            self._current = call
        try:
            yield
        finally:
            self._current = before

    def asks(self, session: int, number: int) -> None:
        """What the session asks for under that number, in another process, is asked for by the call that runs here."""
        if self._current:
            self._write(("asks", session, number, self._current))

    @contextmanager
    def asked(self, session: int, number: int) -> Iterator[None]:
        """Until the end of this, commits are what that session asked for under that number."""
        self._current, before = (session, number), self._current
        try:
            yield
        finally:
            self._current = before


class _Noted:
    """An op that writes down, inside its transaction, what it did."""

    def __init__(self, log: Log, op: Callable[..., Any], call: Any, begin: int) -> None:
        self._log, self._op, self._call, self._begin = log, op, call, begin
        self.was_inside = False
        """Whether the op has run and what it did is still to be committed."""

    def __call__(self, txn: Any, *args: Any) -> Any:
        log, op = self._log, self._op
        log.buried = None
        log.parts.clear()
        has_written = _written(txn)
        try:
            result, error = op(txn, *args), None
        except GuildhallError as refused:
            result, error = None, refused
        name, facts = _facts(op, args)
        if log.buried is not None:
            name, facts = "sessions.bury", log.buried
        if name == "tasks.claim" and isinstance(result, tuple):
            facts["claimed"] = result[0], tuple((oid, task.deaths) for oid, task in result[1])
        elif name == "subscription.fetch_into":
            facts["had"] = args[-1]
        if log.parts:
            facts["parts"] = tuple(log.parts)
        answer = _answer(result) if error is None else type(error).__name__
        wrote = has_written() and error is None
        log.note("inside", _number(txn), wrote, name, facts, answer, self._begin, log.clock(), self._call, log.session)
        self.was_inside = error is None
        if error is not None:
            raise error
        log.in_transaction()
        return result


class _PutOff:
    """An op that is done later, with others, and writes down that it belongs to the call that put it off."""

    def __init__(self, log: Log, op: Callable[..., Any]) -> None:
        self._log, self._op, self._call = log, op, log.put_off()

    def __call__(self, txn: Any, *args: Any) -> Any:
        has_written = _written(txn)
        result = self._op(txn, *args)
        name, facts = _facts(self._op, args)
        self._log.parts.append((self._call, has_written(), name, facts, _answer(result)))
        return result


def _answer(result: Any) -> str:
    if isinstance(result, Enum):
        return str(result.value)
    return "no" if result is False or result is None else "yes"


def _number(txn: Any) -> int:
    """The commit's. The memory store would use a number up for telling it."""
    return txn._store.revision + 1 if isinstance(txn, MemoryTxn) else txn.revision


def _written(txn: Any) -> Callable[[], bool]:
    """Tells, after the op, whether it wrote."""
    if isinstance(txn, MemoryTxn):
        return lambda: bool(txn.undo or txn._revision)
    put, delete, writes = txn.put, txn.delete, []

    def noted_put(key: bytes, value: bytes) -> object:
        writes.append(key)
        return put(key, value)

    def noted_delete(key: bytes) -> bool:
        was_there = bool(delete(key))
        if was_there:
            writes.append(key)
        return was_there

    txn.put, txn.delete = noted_put, noted_delete
    return lambda: bool(writes)


@functools.cache
def _parameters(op: Callable[..., Any]) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The name of an op, and where those of its arguments stand that are written down."""
    names = list(inspect.signature(op).parameters)[1:]
    places = tuple((place, name) for place, name in enumerate(names) if name in FACTS)
    return f"{op.__module__.rpartition('.')[2]}.{op.__name__}", places


def _facts(op: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, dict[str, Any]]:
    if inspect.ismethod(op) or op.__name__ == "<lambda>" or "<locals>" in op.__qualname__:
        return op.__qualname__, {}
    name, places = _parameters(inspect.unwrap(op))  # Kept for ever, and what wraps it knows a simulation.
    facts = {key: args[place] for place, key in places if place < len(args)}
    item = facts.pop("item", b"")
    if item[:1] == _ITEM_HEAD:
        facts["due"] = queue.ITEM.unpack(item).due
    return name, facts


# -- real processes ---------------------------------------------------------------------------------------------------


class Files:
    """Logs in a directory, one for each process; a forked child begins one of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0
        self._log: Log | None = None

    @property
    def log(self) -> Log:
        if self._log is None or self._pid != os.getpid():
            self._pid = os.getpid()
            fd = os.open(self._directory / f"{self._pid}-{time.monotonic_ns()}", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
            self._log = Log(lambda record: _append(fd, record))
        return self._log

    def size_bytes(self) -> int:
        """How much has been written so far."""
        return sum(path.stat().st_size for path in self._directory.iterdir())

    def history(self) -> History:
        """All that happened so far, in processes that ended and in this one."""
        return assemble(_records(path) for path in sorted(self._directory.iterdir()))


def _append(fd: int, record: tuple[Any, ...]) -> None:
    data = pickle.dumps(record, 5)
    os.write(fd, _LENGTH.pack(len(data)) + data)


def _records(path: Path) -> list[tuple[Any, ...]]:
    data, at, found = path.read_bytes(), 0, []
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            break  # Torn by a kill.
        found.append(pickle.loads(data[at : at + length]))
        at += length
    return found


@contextmanager
def recorded(host: EmbeddedHost, directory: Path) -> Iterator[Files]:
    """Write down what this process, and all that it forks meanwhile, do in the hall."""
    files, store = Files(directory), host._store
    assert store is not None, "a hall that is open has a store"
    plain = record(store, files)
    host.transact = store.transact
    _note_what_is_put_off(host, files)
    with burials(lambda: files.log):
        try:
            yield files
        finally:
            store.transact = host.transact = plain  # type: ignore[method-assign]
            del host.put_off


@contextmanager
def recording(directory: Path) -> Iterator[Files]:
    """Write down what this process, and all that it forks meanwhile, do in halls that it opens from now on: also how
    it joins, so that every number is somebody's."""
    files, plain = Files(directory), EmbeddedHost._open_store

    def open_store(host: EmbeddedHost) -> LmdbStore:
        store = plain(host)
        record(store, files)
        _note_what_is_put_off(host, files)
        return store

    EmbeddedHost._open_store = open_store  # type: ignore[assignment,method-assign]
    with burials(lambda: files.log):
        try:
            yield files
        finally:
            EmbeddedHost._open_store = plain  # type: ignore[method-assign]


def record(store: Any, files: Files) -> Callable[..., Any]:
    """Wrap the store's `transact`. Returns it as it was."""
    plain: Callable[..., Any] = store.transact
    store.transact = lambda op, *args: files.log.transact(plain, op, args)
    return plain


def _note_what_is_put_off(host: EmbeddedHost, files: Files) -> None:
    def put_off(op: Callable[..., Any], *args: Any) -> None:
        EmbeddedHost.put_off(host, _PutOff(files.log, op), *args)

    host.put_off = put_off  # type: ignore[method-assign]


@contextmanager
def burials(log_of: Callable[[], Log]) -> Iterator[None]:
    """Write down who is buried and when: ops that bury have other names and arguments in each host."""
    plain = sessions.bury

    @functools.wraps(plain)
    def bury(
        txn: Any,
        session: int,
        note: int = 0,
        estates: Iterable[Any] = (),
        now: float = 0.0,
        marks: Sequence[int] = (),
    ) -> bool:
        is_buried = plain(txn, session, note, estates, now, marks)
        if is_buried:
            used = {lane: word for lane, word in enumerate(marks) if word}
            log_of().buried = {"session": session, "now": now, "marks": used}
        return is_buried

    sessions.bury = bury
    try:
        yield
    finally:
        sessions.bury = plain


# -- putting it together ----------------------------------------------------------------------------------------------


def assemble(logs: Iterable[list[tuple[Any, ...]]]) -> History:
    """The history of all processes. What is in doubt is decided: see above."""
    history = History()
    sure: list[Commit] = []
    doubtful: list[Commit] = []
    asked: dict[tuple[int, int], Call] = {}
    for records in logs:
        _read(records, history.calls, sure, doubtful, asked)
    for commit in (*sure, *doubtful):
        if commit.asked is not None:
            commit.call = asked.get(commit.asked)
    taken = {commit.number for commit in sure if commit.wrote}
    last: dict[int, Commit] = {}
    for commit in sorted(doubtful, key=lambda commit: commit.inside):
        if commit.wrote and commit.number not in taken:
            last[commit.number] = commit  # Of several that died with the same number, the last one inside did commit.
    history.doubtful = len(last)
    history.commits = sorted([*sure, *last.values()], key=lambda commit: (commit.number, commit.wrote, commit.inside))
    for position, commit in enumerate(history.commits):
        for each in (commit, *commit.parts):
            each.position = position
    history.calls.sort(key=lambda call: call.begin)
    return history


def _read(
    records: list[tuple[Any, ...]],
    calls: list[Call],
    sure: list[Commit],
    doubtful: list[Commit],
    asked: dict[tuple[int, int], Call],
) -> None:
    mine: dict[int, Call] = {}
    current: Call | None = None
    pending: Commit | None = None
    for kind, *rest in records:
        if kind == "call":
            number, session, thing, name, method, args, begin = rest
            current = mine[number] = Call(session, thing, name, method, args, begin, number=number)
            calls.append(current)
        elif kind == "over":
            assert current is not None, "a call is over that began"
            current.result, current.end = rest
        elif kind == "put off":
            mine[rest[0]].is_put_off = True
        elif kind == "asks":
            asked[rest[0], rest[1]] = mine[rest[2]]
        elif kind == "inside":
            if pending is not None:
                doubtful.append(pending)
            number, wrote, op, facts, answer, begin, inside, of_call, session = rest
            pending = Commit(number, wrote, op, facts, answer, begin, inside, None, None, session)
            pending.parts = [
                Commit(number, did, part, known, said, begin, inside, inside, mine.get(call), session)
                for call, did, part, known, said in facts.pop("parts", ())
            ]
            if isinstance(of_call, tuple):
                pending.asked = of_call
            else:
                pending.call = mine.get(of_call)
            if pending.answer not in _ANSWERS:
                pending.end = pending.inside  # It raised: nothing was written, and nothing is in doubt.
                sure.append(pending)
                pending = None
        elif kind == "undone":
            pending = None  # There was no room for it.
        else:
            assert pending is not None, "a commit is done that was inside"
            (pending.end,) = rest
            sure.append(pending)
            pending = None
    if pending is not None:
        doubtful.append(pending)
