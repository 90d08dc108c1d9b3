"""The hall inside a Dask scheduler: ops run in its process, one after the other, as it hears of them.

A session is a process at the cluster, or a forked child of one. It is dead when Dask says that its worker or client
has gone; when its own connection is gone and it has not come back within a few seconds; or when it leaves. What it
asked for and was not answered it asks again on its next connection, under the same number: what was applied is not
applied again, the answer that was given is given again.

A wait costs its session nothing: the op that grants it rings, and the ring is sent to the process at once.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ... import deadline
from ...errors import Broken
from ...primitives import sessions
from ...primitives.op import PARKED
from ...primitives.sessions import Session
from ...store.memory import MemoryStore
from ...store.transaction import Store, Waiter
from . import wire
from .shelf import DiskShelf, MemoryShelf, Shelf

PROTOCOL = 1
GRACE_S = 3.0
"""So long a process whose connection broke may take to come back, if Dask does not say that it is gone."""
ORPHANS_GRACE_S = 0.25
"""So long a forked child may, of which Dask knows nothing: when a process ends, its connection does."""
READ_BYTES = 1 << 16
"""What is read at a time: others have their turn in between."""
MAX_AHEAD = 1 << 14
STATIONS = 1 << 33
"""Bells from here on are those of stations, which hear of it from Dask, as nobody may be reading their line."""
NOT_YET = ()
"""Told with a ring that grants nothing."""
Call = tuple[Any, ...]
_SINCE_1970 = 1e9
"""Seconds above this are of the wall clock, those below since the machine was started."""


class Usage(NamedTuple):
    """What the hall takes, as `Hall.snapshot` tells it."""

    used_bytes: int
    file_bytes: int
    room_bytes: int
    is_in_memory: bool
    has_ballast: bool


class Seat:
    """One session, as the scheduler sees it."""

    def __init__(self, number: int, owner: str) -> None:
        self.number = number
        self.owner = owner
        """The address of the worker, or the id of the client, that Dask tells the end of; "" for neither."""
        self.token = secrets.token_bytes(16)
        self.line: Line | None = None
        self.push: Callable[[tuple[Any, ...]], None] | None = None
        """How a process that is this very one is told."""
        self.answers: dict[int, bytes] = {}
        """What was answered and may not have arrived."""
        self.marks: list[int] = []
        self.ahead: dict[int, tuple[Any, ...]] = {}
        """What its waits are told with their ring, by their numbers: an op that reads, and its arguments."""
        self.timer: Any = None

    def tell(self, number: int, bell: int, answer: tuple[Any, ...] | None) -> None:
        """Ring, with what was asked ahead. One that cannot be told now looks itself when it comes back."""
        if self.push is not None:
            self.push((number, bell, answer))
        elif self.line is not None:
            self.line.send(wire.frame((0, number, bell, answer)))


class SchedulerHall:
    """The store and the sessions. `loop` is the event loop of the scheduler."""

    def __init__(self, loop: Any, path: str | None = None) -> None:
        self.loop = loop
        self.gate = threading.RLock()
        """Held by whoever runs an op: the event loop, or a thread of this process that is at the hall itself."""
        self.store: Store = self._open(path)
        self.blobs: Shelf = MemoryShelf() if path is None else DiskShelf(os.path.join(os.path.abspath(path), "large"))
        self.seats: dict[int, Seat] = {}
        self.released: Callable[[str], None] = lambda key: None
        """Called with the key of a Dask task that nothing in the hall holds any more."""
        self.knock: Callable[[str, int, int, int], None] = lambda owner, session, bell, number: None
        """Called in the loop's thread: tells the station of the session, a process of that owner, what the hall has for
        it. One that cannot be told hears of it when it asks again."""
        self.orphans_grace_s = ORPHANS_GRACE_S
        self._is_closed = False
        self._thread = 0
        loop.call_soon_threadsafe(self._learn_thread)
        sessions.prepare()
        for left in self.store.read(sessions.everybody):
            self.store.transact(sessions.bury, left.number, 0, (), deadline.now())
        self._sweep("")

    def _open(self, path: str | None) -> Store:
        if path is None:
            return MemoryStore(ring=self._ring, remove=self._remove)
        from ...store.lmdb import LmdbStore

        directory = os.path.abspath(path)
        if not os.path.exists(os.path.join(directory, "data.mdb")):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            LmdbStore.create(directory, in_memory=False)
        return LmdbStore(directory, in_memory=False, ring=self._ring, remove=self._remove)

    def _learn_thread(self) -> None:
        self._thread = threading.get_ident()

    # -- sessions -----------------------------------------------------------------------------------------------------

    def enter(self, role: str, pid: int, owner: str) -> Seat:
        """A new session."""
        with self.gate:
            number = self.store.transact(sessions.number)
            seat = self.seats[number] = Seat(number, owner)
            self.store.transact(sessions.join, Session(number, pid, role, deadline.now()))
            return seat

    def find(self, number: int, token: bytes) -> Seat | None:
        """The seat of a session that comes back; None if it was buried."""
        seat = self.seats.get(number)
        return seat if seat is not None and secrets.compare_digest(seat.token, token) else None

    def bury(self, seat: Seat) -> None:
        """Give back what the session held, and end its connection."""
        if seat.line is not None:  # Dask may hear of a death before we have read what was sent before it: such as that
            seat.line.catch_up()  # an item has arrived, which must not be given out again.
        self._give_back(seat)
        if seat.line is not None:
            seat.line.close()

    def _give_back(self, seat: Seat) -> None:
        with self.gate:
            if self.seats.pop(seat.number, None) is None or self._is_closed:
                return
            if seat.timer is not None:
                seat.timer.cancel()
            self.store.transact(sessions.bury, seat.number, 0, (), deadline.now(), tuple(seat.marks))
            self._sweep(f"{seat.number}-")

    def _sweep(self, prefix: str) -> None:
        """Large values that a session began to lay and nobody has."""
        for blob in self.blobs.sizes():
            if blob.startswith(prefix) and self.store.read(sessions.is_litter, blob):
                self.blobs.remove(blob)

    def bury_of(self, owner: str) -> None:
        """Dask says that this worker or client has gone."""
        for seat in [seat for seat in self.seats.values() if seat.owner == owner]:
            self.bury(seat)

    def lost(self, seat: Seat) -> None:
        """Its connection is gone. It may come back."""
        if seat.number in self.seats and not self._is_closed:
            seat.timer = self.loop.call_later(GRACE_S if seat.owner else self.orphans_grace_s, self._give_up, seat)

    def _give_up(self, seat: Seat) -> None:
        if seat.line is None:
            self.bury(seat)

    # -- ops ----------------------------------------------------------------------------------------------------------

    def perform(self, seat: Seat, op: Any, args: tuple[Any, ...], ahead: tuple[Any, ...] | None, reads: bool) -> Any:
        """Run the op for the session. What it lays into a list comes with its answer, as a `Filled`."""
        if isinstance(op, str):
            return getattr(self, f"_do_{op}")(seat, *args)
        facts = wire.facts_of(op)
        if 0 <= facts.now < len(args):
            args = (*args[: facts.now], _on_our_clock(args[facts.now]), *args[facts.now + 1 :])
        with self.gate:
            if ahead is not None:
                seat.ahead[ahead[0]] = ahead[1]
            answer = (self.store.read if reads else self.store.transact)(op, *args)
            if ahead is not None:
                self._look_ahead(seat, answer is PARKED, *ahead)
        return (answer, args[0]) if facts.fills else answer

    def _look_ahead(self, seat: Seat, is_parked: bool, number: int, granted: Call, due: Call) -> None:
        if not is_parked:
            seat.ahead.pop(number, None)
        elif due:
            seat.tell(number, -1, (self.store.read(*due),))
        if len(seat.ahead) > MAX_AHEAD:  # Most of them left long ago; the others ask when they are granted.
            for old in list(seat.ahead)[: MAX_AHEAD // 2]:
                del seat.ahead[old]

    def _do_batch(self, seat: Seat, errands: list[tuple[Any, ...]], dropped: list[bytes]) -> None:
        """What a process had put off, as one op."""

        def run(txn: Any) -> None:
            for op, *args in errands:
                op(txn, *args)
            sessions.release_for(txn, seat.number, dropped)

        with self.gate:
            self.store.transact(run)

    def _do_mark(self, seat: Seat, lane: int, number: int) -> None:
        """What that lane was handed has arrived."""
        seat.marks.extend([0] * (lane + 1 - len(seat.marks)))
        seat.marks[lane] = number

    def _do_leave(self, seat: Seat) -> None:
        self._give_back(seat)  # The connection is closed at the other end, which waits for the answer.

    def _do_is_alive(self, seat: Seat, session: int) -> bool:
        return session in self.seats

    def _do_revision(self, seat: Seat) -> int:
        with self.gate:
            revision: Any = getattr(self.store, "revision", 0)
            return int(revision() if callable(revision) else revision)

    def _do_usage(self, seat: Seat) -> tuple[Any, ...]:
        if isinstance(self.store, MemoryStore):
            size = self.store.size + sum(self.blobs.sizes().values())
            return size, size, _available_bytes(), True, False
        return tuple(self.store.usage())  # type: ignore[attr-defined]

    def _do_blobs(self, seat: Seat) -> tuple[int, int]:
        """How many there are, and their size in bytes."""
        sizes = self.blobs.sizes()
        return len(sizes), sum(sizes.values())

    # -- large values -------------------------------------------------------------------------------------------------

    def _do_lay(self, seat: Seat, blob: str, part: bytes) -> None:
        """One more part of a large value."""
        self.blobs.add(blob, part)

    def _do_fetch(self, seat: Seat, blob: str, number: int) -> bytes:
        """A part of it; raises FileNotFoundError if it has gone."""
        return self.blobs.part(blob, number)

    def _do_remove(self, seat: Seat, blob: str) -> None:
        self._remove(blob)

    def _remove(self, blob: str) -> None:
        if blob.startswith("key:"):
            self.released(blob[4:])
        else:
            self.blobs.remove(blob)

    # -- rings --------------------------------------------------------------------------------------------------------

    def _ring(self, waiter: Waiter) -> None:
        """Called behind the commit that granted the wait."""
        seat = self.seats.get(waiter.session)
        if seat is None:
            return
        if waiter.bell >= STATIONS:
            call = self.knock, seat.owner, waiter.session, waiter.bell, waiter.number
            self.loop.call_soon_threadsafe(*call)
            return
        if not self.store.read(sessions.is_granted, waiter):  # It is to look for something else.
            seat.tell(waiter.number, waiter.bell, NOT_YET)
            return
        ahead, answer = seat.ahead.pop(waiter.number, None), None
        if ahead:
            try:
                answer = (self.store.read(*ahead),)
            except Exception:
                answer = None  # It is asked again, and fails where somebody hears of it.
        seat.tell(waiter.number, waiter.bell, answer)

    def is_here(self) -> bool:
        """Whether this is the scheduler's thread."""
        return threading.get_ident() == self._thread

    def close(self) -> None:
        """The scheduler closes: all connections end."""
        with self.gate:
            self._is_closed = True
            for seat in self.seats.values():
                if seat.line is not None:
                    seat.line.close()
            self.seats.clear()
            self.store.close()


def _on_our_clock(now: Any) -> Any:
    """The moment that an op is given is that of this machine: others' clocks began at another time."""
    if now.__class__ is float:
        return deadline.wall() if now > _SINCE_1970 else deadline.now() if now else now
    if isinstance(now, tuple):
        kind: Any = type(now)
        return kind(deadline.boot(), deadline.ticks_ns())
    return now


def _available_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)


class Line:
    """The connection of one session, at the scheduler's end."""

    def __init__(self, hall: SchedulerHall, seat: Seat | None, sock: socket.socket, left: bytes = b"") -> None:
        if seat is None:
            seat = Seat(0, "")  # It was buried: the other end sees another number than its own.
        self._hall = hall
        self._seat = seat
        self._socket = sock
        self._fd = sock.fileno()
        self._in = wire.Assembler()
        self._out: deque[memoryview] = deque()
        self._is_serving = False
        self._is_blocked = False
        self._is_open = True
        old, seat.line = seat.line, self
        if old is not None:
            old.close()
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
        hall.loop.add_reader(self._fd, self._hear)
        welcome = (0, "welcome", seat.number, seat.token, deadline.now(), deadline.wall())
        self.send(wire.frame(welcome))
        if left:
            self._serve_all(left)

    # -- in -----------------------------------------------------------------------------------------------------------

    def _hear(self) -> bool:
        """Serve what has come. False if nothing has."""
        try:
            data = self._socket.recv(READ_BYTES)
            while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
                data += self._socket.recv(READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError, InterruptedError):
            return False
        except OSError:
            data = b""
        if data:
            self._serve_all(data)
        else:
            self._end()
        return bool(data)

    def catch_up(self) -> None:
        """Serve all that has come."""
        while self._is_open and self._hear():
            pass

    def _serve_all(self, data: bytes) -> None:
        self._is_serving = True
        try:
            for message in self._in.feed(data):
                self._serve(message)
        except Exception:
            self._end()  # What cannot be read is not from one of us.
            raise
        finally:
            self._is_serving = False
        self._flush()

    def _serve(self, message: memoryview) -> None:
        seat = self._seat
        number, received, op, args, ahead, reads = wire.loads(message)
        answers = seat.answers
        if answers and next(iter(answers)) <= received:
            for old in [old for old in answers if old <= received]:
                del answers[old]
        if number in answers:
            self._out.append(memoryview(answers[number]))
            return
        if seat.number not in self._hall.seats:
            answer = wire.frame((number, False, wire.failure(Broken("the session is over"))))
        else:
            answer = self._answer(number, op, args, ahead, reads)
        if number:
            if not reads:
                answers[number] = answer
            self._out.append(memoryview(answer))

    def _answer(self, number: int, op: Any, args: tuple[Any, ...], ahead: Any, reads: bool) -> bytes:
        try:
            return wire.frame((number, True, self._hall.perform(self._seat, op, args, ahead, reads)))
        except Exception as error:
            return wire.frame((number, False, wire.failure(error)))

    # -- out ----------------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send it, behind what was to be sent before."""
        self._out.append(memoryview(frame))
        if self._is_serving and self._hall.is_here():
            return
        if self._hall.is_here():
            self._flush()
        else:
            self._hall.loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        out = self._out
        if self._is_blocked or not self._is_open:
            return
        try:
            while out:
                if len(out) > 1 and len(out[0]) + len(out[1]) < READ_BYTES:
                    some = [out.popleft()]
                    size = len(some[0])
                    while out and size + len(out[0]) < READ_BYTES:
                        size += len(out[0])
                        some.append(out.popleft())
                    out.appendleft(memoryview(b"".join(some)))
                sent = self._socket.send(out[0])
                if sent < len(out[0]):
                    out[0] = out[0][sent:]
                else:
                    out.popleft()
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            self._is_blocked = True
            self._hall.loop.add_writer(self._fd, self._unblock)
        except OSError:
            self._end()

    def _unblock(self) -> None:
        self._is_blocked = False
        self._hall.loop.remove_writer(self._fd)
        self._flush()

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._is_open:
            self.close()
            if self._seat.line is self:
                self._seat.line = None
                self._hall.lost(self._seat)

    def close(self) -> None:
        """Let go of the connection."""
        if not self._is_open:
            return
        self._is_open = False
        if self._hall.is_here():
            self._close()
        else:
            self._hall.loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._hall.loop.remove_reader(self._fd)
        self._hall.loop.remove_writer(self._fd)
        self._socket.close()
