"""A process's way to the hall in the scheduler: one connection for all its threads, and no thread of its own.

Whoever waits, for an answer or for a ring, reads for all who do: so an answer reaches the thread that asked without a
hop. One reads at a time, the others sleep until theirs has come or it is their turn to read.

Ctrl-C may come behind any call. So what was read or sent is written down by the call that does it (`extend(map(...))`
is one), what is dispatched twice does what it did, and what is done with is taken away in one step.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ... import deadline
from ...errors import Broken
from . import wire
from .scheduler import SchedulerHall, Seat

READ_BYTES = 1 << 18
_READ = (READ_BYTES,)
NET_S = 2.0
"""Who waits for its turn to read looks by itself this often, for the case that it was not told."""
RETRY_S = 15.0
"""So long a broken connection is tried again."""
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

Dial = Callable[[dict[str, Any]], tuple[socket.socket, bytes]]
Heard = Callable[[int, int, Any], None]
"""Called with each ring: the number of the wait, its bell, and what was asked ahead (None, or a tuple of it). With a
negative bell it is what was asked for as it parked."""


class SessionOver(Broken):
    """The hall counts this session as dead: what it held was given to others."""


class Slot:
    """What a thread waits for."""

    __slots__ = ("answer", "event", "fills", "frame", "ident", "is_done", "is_good")

    def __init__(self, frame: bytes = b"", fills: list[Any] | None = None) -> None:
        self.frame = frame
        self.fills = fills
        self.is_done = False
        self.is_good = False
        self.answer: Any = None
        self.event: threading.Event | None = None
        self.ident = 0

    def finish(self) -> None:
        """It is there: its thread goes on. Once more does no harm."""
        self.is_done = True
        if self.event is not None:
            self.event.set()


class _Outgoing:
    """A frame, and how much of it is sent."""

    __slots__ = ("sent", "view")

    def __init__(self, frame: bytes) -> None:
        self.view = memoryview(frame)
        self.sent: list[int] = []


class Link:
    """The connection. `dial` makes one, `heard` is told of rings; `marks` are sent again on each new one."""

    def __init__(self, name: str, dial: Dial, role: str, owner: str, heard: Heard, marks: list[int]) -> None:
        self._name = name
        self._dial = dial
        self._role, self._owner = role, owner
        self._heard = heard
        self._marks = marks
        self.session = 0
        self.skew_s = (0.0, 0.0)
        """What the scheduler's clocks are ahead of ours: that since its start, and the wall's."""
        self.is_over = False
        self.on_return: Callable[[], None] = lambda: None
        """Called when the connection was lost and is there again: rings may have been missed."""
        self._token = b""
        self._last = 0
        self._gate = threading.Lock()
        self._io = threading.RLock()
        self._pending: dict[int, Slot] = {}
        self._out: deque[_Outgoing] = deque()
        self._parts: list[bytes] = []
        self._need = wire.HEAD.size
        self._lead: dict[str, Slot] = {}
        self._followers: dict[Slot, threading.Event] = {}
        self._open()

    # -- the connection -----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        greeting = {
            "number": self.session, "token": self._token, "role": self._role, "pid": os.getpid(), "owner": self._owner,
        }  # fmt: skip
        self._socket, left = self._dial(greeting)
        self._is_plain = not isinstance(self._socket, ssl.SSLSocket)
        raw: Any = self._socket if self._is_plain else self._socket._sslobj  # type: ignore[attr-defined]
        self._recv = raw.recv if self._is_plain else raw.read
        self._send_some = raw.send if self._is_plain else raw.write
        self.fd = self._socket.fileno()
        self._poll = select.poll()
        self._poll.register(self.fd, select.POLLIN)
        self._parts, self._need = ([left] if left else []), wire.HEAD.size
        self._out = deque()
        self._await_welcome()

    def _await_welcome(self) -> None:
        self._welcome: tuple[Any, ...] | None = None
        asked = deadline.now(), deadline.wall()
        until = deadline.after(RETRY_S)
        try:
            while self._welcome is None:
                self._drain()
                if self._welcome is None and (not self._poll.poll(1000) and deadline.left(until) == 0):
                    raise TimeoutError("it does not answer")
        except OSError as error:
            self._drop()
            raise Broken(f"hall at {self._name}: the connection to its scheduler broke: {error}") from error
        session, token, clock, wall = self._welcome
        if self.session not in (0, session):
            self.is_over = True
            self._drop()
            raise SessionOver(_over(self._name, self.session))
        half_s = (deadline.now() - asked[0]) / 2
        self.skew_s = clock - asked[0] - half_s, wall - asked[1] - half_s
        self.session, self._token = session, token

    def _drop(self) -> None:
        with self._io:
            with suppress(OSError):
                self._socket.close()
            self._send_some = self._recv = _gone
            self.fd = -1

    def _come_back(self) -> None:
        """The connection broke. Raises Broken if it stays so: then whoever waits hears of it."""
        self._drop()
        until = deadline.after(RETRY_S)
        while True:
            try:
                self._open()
                break
            except Broken as error:
                if isinstance(error, SessionOver) or deadline.left(until) == 0:
                    self.is_over = True
                    self._fail(error)
                    return
                time.sleep(0.1)
        for lane, number in enumerate(self._marks):
            if number:
                self._out.append(_Outgoing(wire.frame((0, 0, "mark", (lane, number), None, False))))
        for _, slot in sorted(self._pending.items()):
            self._out.append(_Outgoing(slot.frame))
        self._flush()
        self.on_return()

    def _fail(self, error: Exception) -> None:
        for number in list(self._pending):
            slot = self._pending.pop(number, None)
            if slot is not None:
                slot.answer = error
                slot.finish()
        self.on_return()

    # -- asking -------------------------------------------------------------------------------------------------------

    def call(self, op: Any, args: tuple[Any, ...], ahead: Any = None, reads: bool = False) -> Any:
        """What the op answers in the scheduler. Raises what it raises."""
        number = 0
        slot = Slot(fills=args[0] if wire.facts_of(op).fills else None)
        try:
            number = self._ask(slot, op, args, ahead, reads)
            self._flush()
            self.wait(slot, None)
        except BaseException:
            if slot.fills is not None and slot.frame:  # What is in it is taken, and nobody would bring it again.
                self._flush()
                self.wait(slot, deadline.after(NET_S))
            raise
        finally:
            self._pending.pop(number, None)
        if slot.is_good:
            return slot.answer
        raise slot.answer

    def post(self, op: Any, args: tuple[Any, ...]) -> None:
        """As `call`, for who does not wait for the answer."""
        self._ask(Slot(), op, args, None, False)
        self._flush()

    def tell(self, what: str, args: tuple[Any, ...]) -> None:
        """Something that may be said twice, and is not answered."""
        self._out.append(_Outgoing(wire.frame((0, 0, what, args, None, False))))
        self._flush()

    def _ask(self, slot: Slot, op: Any, args: tuple[Any, ...], ahead: Any, reads: bool) -> int:
        if self.is_over:
            raise SessionOver(_over(self._name, self.session))
        with self._gate:  # So that numbers are sent in their order.
            number = self._last + 1
            received = next(iter(self._pending), number) - 1
            slot.frame = wire.frame((number, received, op, args, ahead, reads))
            self._last = number
            self._pending[number] = slot
            self._out.append(_Outgoing(slot.frame))
        return number

    def _flush(self) -> None:
        """Send what is to be sent. If the connection breaks, whoever reads finds out."""
        while self._out:
            with self._io:
                try:
                    while self._out:
                        one = self._out[0]
                        done = sum(one.sent)
                        if done < len(one.view):
                            one.sent.extend(map(self._send_some, (one.view[done:] if done else one.view,)))
                        if sum(one.sent) >= len(one.view):
                            self._out.popleft()
                    return
                except _NOT_NOW:
                    pass
                except (OSError, IndexError):
                    return
            writable = select.poll()
            writable.register(self.fd, select.POLLOUT)
            writable.poll(100)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def wait(self, slot: Slot, until: float | None) -> bool:
        """Until the slot is done, or the time is up. Whether it is done."""
        try:
            while not slot.is_done:
                if deadline.left(until) == 0:
                    return False
                if self._may_lead(slot):
                    self._read(slot, until)
                else:
                    self._follow(slot, deadline.left(until))
            return True
        finally:
            try:
                self._resign(slot)
            except BaseException:
                self._resign(slot)
                raise

    def _may_lead(self, slot: Slot) -> bool:
        slot.ident = threading.get_ident()
        leader = self._lead.setdefault("it", slot)
        return leader is slot or leader.ident == slot.ident  # In a signal's handler, inside of the other's wait.

    def _resign(self, slot: Slot) -> None:
        if self._lead.get("it") is slot:
            self._lead.pop("it", None)
        if self._followers and not self._lead:  # Also if it did not lead: its turn may have come as it was done.
            for event in list(self._followers.values()):
                event.set()
                break

    def _read(self, slot: Slot, until: float | None) -> None:
        while not slot.is_done and (left_s := deadline.left(until)) != 0:
            if self.is_over:
                if not slot.frame:
                    slot.finish()
                return
            self._await_more(left_s)
            try:
                self._drain()
            except OSError:
                self._come_back()

    def _await_more(self, left_s: float | None) -> None:
        try:
            self._poll.poll(None if left_s is None else left_s * 1000 + 0.999)
        except RuntimeError:  # In a signal's handler, inside of the other's.
            select.select((self.fd,), (), (), left_s)

    def _follow(self, slot: Slot, left_s: float | None) -> None:
        event = slot.event = slot.event or threading.Event()
        self._followers[slot] = event
        try:
            if not slot.is_done and self._lead:
                event.wait(NET_S if left_s is None else min(left_s, NET_S))
            event.clear()
        finally:
            self._followers.pop(slot, None)

    def look(self) -> None:
        """Read what has come, if nobody else does: for an event loop, which must not wait."""
        slot = Slot()
        try:
            if self._may_lead(slot):
                self._drain()
        except OSError:
            self._come_back()
        finally:
            self._resign(slot)

    def _drain(self) -> None:
        """Read and dispatch what has come. Raises OSError if the connection is gone."""
        with self._io:
            with suppress(*_NOT_NOW):
                while True:
                    self._parts.extend(map(self._recv, _READ))
                    if not self._parts[-1]:
                        raise ConnectionResetError("closed by the scheduler")
                    if self._is_plain and len(self._parts[-1]) < READ_BYTES:
                        break
            self._dispatch_all()

    def _dispatch_all(self) -> None:
        parts = self._parts
        if sum(map(len, parts)) < self._need:
            return
        whole = b"".join(parts)
        view, at, size, need = memoryview(whole), 0, len(whole), wire.HEAD.size
        while size - at >= wire.HEAD.size:
            end = at + wire.HEAD.size + wire.HEAD.unpack_from(whole, at)[0]
            if end > size:
                need = end - at
                break
            self._dispatch(wire.loads(view[at + wire.HEAD.size : end]))
            at = end
        if self._parts is parts:  # Else a signal's handler went on with it.
            self._need, self._parts = need, ([whole[at:]] if at < size else [])

    def _dispatch(self, message: tuple[Any, ...]) -> None:
        number = message[0]
        if number:
            slot = self._pending.get(number)
            if slot is not None:
                _, slot.is_good, answer = message
                slot.answer = answer if slot.is_good else wire.error_of(*answer)
                if slot.is_good and slot.fills is not None:
                    slot.answer, slot.fills[:] = slot.answer
                slot.finish()
                self._pending.pop(number, None)
        elif message[1] == "welcome":
            self._welcome = message[2:]
        else:
            self._heard(*message[1:])

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the hall and end the connection."""
        if not self.is_over:
            with suppress(Broken):
                self.call("leave", ())
        self.is_over = True
        self._drop()

    def abandon(self) -> None:
        """In a forked child: let go of the connection, which is its parent's."""
        with suppress(OSError):
            os.close(self._socket.detach())


def _gone(*args: Any) -> Any:
    raise ConnectionResetError("the connection is closed")


def _over(name: str, session: int) -> str:
    return (
        f"hall at {name}: session {session} was counted as dead, as its connection, its worker or its client was gone; "
        "what it held was given to others, and whether the last operation was done is not known"
    )


class DirectLink:
    """As Link, for a process that the scheduler runs in: ops are run at once, or in the scheduler's thread if Ctrl-C
    might come in the middle of one."""

    fd = -1

    def __init__(self, hall: SchedulerHall, role: str, owner: str, heard: Heard) -> None:
        self._hall = hall
        self._seat: Seat = hall.enter(role, os.getpid(), owner)
        self._seat.push = lambda ring: heard(*ring)
        self.session = self._seat.number
        self.skew_s = (0.0, 0.0)
        self.on_return: Callable[[], None] = lambda: None

    @property
    def is_over(self) -> bool:
        return self._seat.number not in self._hall.seats

    def call(self, op: Any, args: tuple[Any, ...], ahead: Any = None, reads: bool = False) -> Any:
        if self.is_over:
            raise SessionOver(_over("this process", self.session))
        if self._hall.is_here() or threading.current_thread() is not threading.main_thread():
            answer = self._hall.perform(self._seat, op, args, ahead, reads)
        else:
            answer = self._call_there(op, args, ahead, reads)
        if wire.facts_of(op).fills:
            answer = answer[0]  # The list is the very one that was given.
        return answer

    def _call_there(self, op: Any, args: tuple[Any, ...], ahead: Any, reads: bool) -> Any:
        slot = Slot()
        slot.event = threading.Event()

        def run() -> None:
            try:
                slot.answer, slot.is_good = self._hall.perform(self._seat, op, args, ahead, reads), True
            except Exception as error:
                slot.answer = error
            slot.finish()

        self._hall.loop.call_soon_threadsafe(run)
        slot.event.wait()
        if slot.is_good:
            return slot.answer
        raise slot.answer

    def post(self, op: Any, args: tuple[Any, ...]) -> None:
        self.call(op, args)

    def tell(self, what: str, args: tuple[Any, ...]) -> None:
        self.call(what, args)

    def wait(self, slot: Slot, until: float | None) -> bool:
        event = slot.event = slot.event or threading.Event()
        while not slot.is_done:
            left_s = deadline.left(until)
            if left_s == 0:
                return False
            event.wait(NET_S if left_s is None else min(left_s, NET_S))
            event.clear()
            if self.is_over:
                slot.finish()
        return True

    def look(self) -> None:
        """Rings come by themselves."""

    def close(self) -> None:
        if not self.is_over:
            self.call("leave", ())

    def abandon(self) -> None:
        """Nothing is shared with the parent but memory, which is a copy."""
