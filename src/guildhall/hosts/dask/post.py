"""A station: what a process gives to others, and gets from them, without the scheduler in between.

Each pair of processes has a channel for each direction, which is one connection at a time. What is sent at once goes
as one frame, numbered; the receiver says how far it has read, and what it has not is kept, and sent again on the next
connection. So a connection that breaks neither loses nor doubles anything while both ends live, and all that one
process sends to another arrives in its order. At most WINDOW_BYTES are under way: then whoever sends more waits.

One thread reads and writes all connections, and another runs what has to ask the hall. What a frame carries is the
business of who sends it and of `deliver`. Frames are msgpack of plain data: nothing in them is code.
"""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import ssl
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

import msgspec

from ... import deadline
from ...errors import Broken
from .wire import HEAD, Assembler

READ_BYTES = 1 << 20
FRAME_BYTES = 1 << 18
"""What goes in one frame, unless one message is larger."""
WINDOW_BYTES = 16 << 20
SOCKET_BYTES = 4 << 20
"""What the system may hold of what is to be sent: on a busy machine each turn at sending is long in coming."""
LOOK_S = 1.0
"""Who waits for another station asks this often whether it is still there."""
DIAL_AGAIN_S = 0.1
FLUSH_S = 5.0
"""So long a process that ends waits until what it has sent has arrived."""
NOBODY = -1
"""Answered to a caller who asks for a session that is not here any more."""
_NOT_NOW = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_pack, _unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode

Letter = tuple[bytes, int, int, Sequence[bytes]]
"""What is sent: a topic, the number of the route by which it goes, the topic's bound, and messages."""
Dial = Callable[[str, dict[str, Any]], tuple[socket.socket, bytes]]

_offices: WeakSet[PostOffice] = WeakSet()


def _flush_all() -> None:
    """As the process ends: what was sent is to arrive."""
    until = deadline.after(FLUSH_S)
    for office in list(_offices):
        office.flush(until)


atexit.register(_flush_all)


class _Wire:
    """One connection: what is to be written to it, and what has been read of a frame."""

    def __init__(self, sock: socket.socket, left: bytes) -> None:
        self.socket = sock
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self.out: deque[memoryview] = deque()
        self._came = left
        self._assembler = Assembler()
        self.events = 0

    def read(self) -> list[Any]:
        """The frames that have come. Raises OSError if the connection is gone."""
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionResetError("closed by the other end")
        while isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            data += self.socket.recv(READ_BYTES)
        self._came = data
        return self.frames()

    def frames(self) -> list[Any]:
        """Those that are complete with what came last."""
        came, self._came = self._came, b""
        return [_unpack(frame) for frame in self._assembler.feed(came)]

    def write(self) -> None:
        """Send what can be sent now."""
        out = self.out
        with suppress(*_NOT_NOW):
            while out:
                sent = self.socket.send(out[0])
                if sent < len(out[0]):
                    out[0] = out[0][sent:]
                else:
                    out.popleft()


def _frame(message: Any) -> bytes:
    data = _pack(message)
    return HEAD.pack(len(data)) + data


class Channel:
    """To one other station. Its connection, what is to be sent, and what may not have arrived."""

    def __init__(self, session: int, address: str) -> None:
        self.session, self.address = session, address
        self.letters: deque[tuple[Letter, int]] = deque()
        """What waits to be sent, with its size."""
        self.unread: deque[tuple[int, bytes, int]] = deque()
        """Frames that the other end has not said that it has, with what their letters take."""
        self.size_bytes = 0
        """What is under way, and what waits."""
        self.last = 0
        self.wire: _Wire | None = None
        self.is_ready = False
        """Whether the other end has said how far it had read."""
        self.is_dialling = False
        self.is_over = False
        self.has_room = threading.Event()
        self._gate = threading.Lock()

    @property
    def is_idle(self) -> bool:
        """Whether all has arrived."""
        return self.is_over or not (self.letters or self.unread)

    def add(self, letter: Letter, size_bytes: int) -> None:
        with self._gate:
            self.size_bytes += size_bytes
        self.letters.append((letter, size_bytes))

    def shrink(self, size_bytes: int) -> None:
        with self._gate:
            self.size_bytes -= size_bytes
        if self.size_bytes < WINDOW_BYTES:
            self.has_room.set()


class _Caller:
    """A station that sends to this one: its connection, and how far it is read."""

    def __init__(self, wire: _Wire, sender: int) -> None:
        self.wire, self.sender = wire, sender
        self.said = -1


class PostOffice:
    """This process's station, for as long as its session lasts.

    `is_alive` asks the hall about a session; `deliver` is called with each letter, by the thread of the connections.
    """

    def __init__(self, session: int, address: str, dial: Dial, is_alive: Callable[[int], bool]) -> None:
        self.session, self.address = session, address
        self.deliver: Callable[[bytes, int, int, Sequence[bytes]], None] = lambda *letter: None
        self.on_knock: Callable[[int, int], None] = lambda bell, number: None
        """Called, by whatever thread hears of it, with what the hall has to tell this station."""
        self.desk: Any = None
        """Of whoever uses it, for as long as it is there."""
        self._dial, self._is_alive = dial, is_alive
        self._pid = os.getpid()
        self._gate = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._callers: dict[int, _Caller] = {}
        self._read: dict[int, int] = {}
        """How far each sender is read: kept when its connection is gone, as it may send again what had arrived."""
        self._calls: deque[Callable[[], None]] = deque()
        self._errands: deque[Callable[[], None]] = deque()
        self._has_errands = threading.Semaphore(0)
        self._is_closed = False
        self._sleeps = False
        self._selector = selectors.DefaultSelector()
        self._near, self._far = socket.socketpair()
        for end in (self._near, self._far):
            end.setblocking(False)
        self._selector.register(self._near, selectors.EVENT_READ)
        self._threads = [
            threading.Thread(target=run, name=f"guildhall-{name}", daemon=True)
            for name, run in (("post", self._carry), ("errands", self._run_errands))
        ]
        for thread in self._threads:
            thread.start()
        _offices.add(self)

    # -- sending ------------------------------------------------------------------------------------------------------

    def channels(self, stations: Iterable[tuple[int, str]]) -> list[Channel]:
        """Those to the stations: (session, address)."""
        found = []
        with self._gate:
            for session, address in stations:
                channel = self._channels.get(session)
                if channel is None:
                    channel = self._channels[session] = Channel(session, address)
                found.append(channel)
        return found

    def send(self, channels: Iterable[Channel], letter: Letter) -> None:
        """Send it on all of them. It waits for nobody: see `await_room`."""
        size_bytes = sum(map(len, letter[3])) + len(letter[0])
        for channel in channels:
            channel.add(letter, size_bytes)
        self._wake()

    def full(self, channels: Iterable[Channel]) -> Channel | None:
        """One on which too much is under way."""
        return next((one for one in channels if one.size_bytes >= WINDOW_BYTES and not one.is_over), None)

    def await_room(self, channels: Sequence[Channel]) -> None:
        """Until none of them is full. One whose station is dead is given up."""
        while (channel := self.full(channels)) is not None:
            channel.has_room.clear()
            if self.full([channel]) and not channel.has_room.wait(LOOK_S) and not self._is_alive(channel.session):
                self._give_up(channel)

    def flush(self, until: float | None) -> None:
        """Wait until what was sent has arrived."""
        if os.getpid() != self._pid:
            return
        while not all(one.is_idle for one in list(self._channels.values())) and deadline.left(until) != 0:
            self._wake()
            time.sleep(0.002)

    def _give_up(self, channel: Channel) -> None:
        channel.is_over = True
        with self._gate:
            if self._channels.get(channel.session) is channel:
                del self._channels[channel.session]
        channel.has_room.set()
        self._call(lambda: self._drop(channel))

    # -- errands ------------------------------------------------------------------------------------------------------

    def errand(self, run: Callable[[], None]) -> None:
        """Run it soon, in a thread of its own: for what has to ask the hall."""
        self._errands.append(run)
        self._has_errands.release()

    def _run_errands(self) -> None:
        while not self._is_closed:
            self._has_errands.acquire()
            try:
                self._errands.popleft()()
            except Broken:
                pass  # The session is over: then all that it had is.
            except Exception:
                traceback.print_exc()  # Nobody waits for it.

    # -- connections: in a thread of their own ------------------------------------------------------------------------

    def accept(self, sock: socket.socket, left: bytes, sender: int) -> None:
        """A connection of another station, which asked for this one."""
        self._call(lambda: self._welcome(_Wire(sock, left), sender))

    def _call(self, run: Callable[[], None]) -> None:
        self._calls.append(run)
        self._wake()

    def _wake(self) -> None:
        if self._sleeps:
            self._sleeps = False
            with suppress(OSError):  # Full: it is on its way; or closed.
                self._far.send(b"!")

    def _carry(self) -> None:
        while not self._is_closed:
            self._sleeps = True
            events = self._selector.select(0 if self._has_work() else LOOK_S)
            self._sleeps = False
            for key, mask in events:
                if key.data is None:
                    with suppress(*_NOT_NOW):
                        self._near.recv(4096)
                else:
                    key.data(mask)
            while self._calls:
                self._calls.popleft()()
            for channel in list(self._channels.values()):
                if channel.letters or channel.unread:
                    self._pump(channel)
        self._tear_down()

    def _has_work(self) -> bool:
        return bool(self._calls) or any(
            one.letters and (one.wire is None or (one.is_ready and not one.wire.out)) and not one.is_dialling
            for one in list(self._channels.values())
        )

    def _pump(self, channel: Channel) -> None:
        wire = channel.wire
        if wire is None:
            if not channel.is_dialling:
                channel.is_dialling = True
                threading.Thread(target=self._call_on, args=(channel,), name="guildhall-dial", daemon=True).start()
            return
        if not channel.is_ready:
            return
        try:
            while channel.letters and not wire.out:
                wire.out.append(memoryview(self._next_frame(channel)))
                wire.write()
            self._listen(wire)
        except OSError:
            self._lose(channel, wire)

    def _next_frame(self, channel: Channel) -> bytes:
        """What waits, as one frame. Messages by one route on one topic travel together."""
        letters: list[tuple[bytes, int, int, list[bytes]]] = []
        size_bytes = 0
        while channel.letters and size_bytes < FRAME_BYTES:
            (topic, revision, bound, messages), size = channel.letters.popleft()
            if letters and letters[-1][:2] == (topic, revision):
                letters[-1][3].extend(messages)
            else:
                letters.append((topic, revision, bound, list(messages)))
            size_bytes += size
        frame = _frame((channel.last + 1, letters))
        channel.unread.append((channel.last + 1, frame, size_bytes))
        channel.last += 1
        return frame

    def _listen(self, wire: _Wire) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.out else 0)
        if events != wire.events:
            self._selector.modify(wire.socket, events, self._selector.get_key(wire.socket).data)
            wire.events = events

    def _attach(self, wire: _Wire, hear: Callable[[int], None]) -> None:
        wire.events = selectors.EVENT_READ
        self._selector.register(wire.socket, wire.events, hear)

    def _detach(self, wire: _Wire) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(wire.socket)
        with suppress(OSError):
            wire.socket.close()

    # -- to others

    def _call_on(self, channel: Channel) -> None:
        """Dial until it answers or is dead."""
        while not channel.is_over and not self._is_closed:
            try:
                greeting = {"session": channel.session, "sender": self.session}
                sock, left = self._dial(channel.address, greeting)
            except Exception:  # Whatever the reason is: while it lives it is to be reached.
                if self._is_dead(channel.session):
                    break
                time.sleep(DIAL_AGAIN_S)
            else:
                self._call(partial(self._connected, channel, _Wire(sock, left)))
                return
        self._give_up(channel)

    def _is_dead(self, session: int) -> bool:
        try:
            return not self._is_alive(session)
        except Broken:  # This session is over itself.
            return True

    def _connected(self, channel: Channel, wire: _Wire) -> None:
        channel.is_dialling, channel.wire, channel.is_ready = False, wire, False
        self._attach(wire, lambda mask: self._hear(channel, wire, mask))
        self._heard(channel, wire, wire.frames())

    def _hear(self, channel: Channel, wire: _Wire, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                wire.write()
                self._listen(wire)
            if mask & selectors.EVENT_READ:
                with suppress(*_NOT_NOW):
                    self._heard(channel, wire, wire.read())
        except OSError:
            self._lose(channel, wire)

    def _heard(self, channel: Channel, wire: _Wire, said: Sequence[int]) -> None:
        if not said or channel.wire is not wire:
            return
        read = said[-1]
        if read == NOBODY:
            self._give_up(channel)
            return
        unread, size_bytes = channel.unread, 0
        while unread and unread[0][0] <= read:
            size_bytes += unread.popleft()[2]
        channel.shrink(size_bytes)
        if not channel.is_ready:
            channel.is_ready = True
            channel.last = max(channel.last, read)  # A channel that was given up had sent that.
            wire.out.extend(memoryview(frame) for _, frame, _ in unread)
            wire.write()
            self._listen(wire)

    def _lose(self, channel: Channel, wire: _Wire) -> None:
        self._detach(wire)
        if channel.wire is wire:
            channel.wire, channel.is_ready = None, False

    def _drop(self, channel: Channel) -> None:
        if channel.wire is not None:
            self._lose(channel, channel.wire)
        channel.letters.clear()
        channel.unread.clear()

    # -- from others

    def _welcome(self, wire: _Wire, sender: int) -> None:
        before = self._callers.pop(sender, None)
        if before is not None:
            self._detach(before.wire)
        caller = self._callers[sender] = _Caller(wire, sender)
        self._attach(wire, lambda mask: self._take(caller, mask))
        try:
            self._serve(caller, wire.frames())
        except OSError:
            self._part(caller)

    def _take(self, caller: _Caller, mask: int) -> None:
        wire = caller.wire
        try:
            if mask & selectors.EVENT_WRITE:
                wire.write()
            if mask & selectors.EVENT_READ:
                with suppress(*_NOT_NOW):
                    self._serve(caller, wire.read())
            self._serve(caller, ())
            self._listen(wire)
        except OSError:
            self._part(caller)
        except Exception:  # What cannot be read is not from one of us; the others' connections go on.
            traceback.print_exc()
            self._part(caller)

    def _serve(self, caller: _Caller, frames: Iterable[Any]) -> None:
        read = self._read.get(caller.sender, 0)
        for number, letters in frames:
            if number == read + 1:  # Else it is here already.
                for letter in letters:
                    self.deliver(*letter)
                read = self._read[caller.sender] = number
        if caller.said != read and not caller.wire.out:
            caller.said = read
            caller.wire.out.append(memoryview(_frame(read)))
            caller.wire.write()

    def _part(self, caller: _Caller) -> None:
        self._detach(caller.wire)
        if self._callers.get(caller.sender) is caller:
            del self._callers[caller.sender]

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self, flush_s: float = FLUSH_S) -> None:
        """Let go of all connections, when what was sent has arrived or the time is up."""
        self.flush(deadline.after(flush_s))
        self._is_closed = True
        self._sleeps = True
        self._wake()
        self.errand(lambda: None)

    def abandon(self) -> None:
        """In a forked child: the connections are its parent's. What watches them is shared, so it is left as it is."""
        wires = [one.wire for one in self._channels.values()] + [one.wire for one in self._callers.values()]
        for wire in wires:
            if wire is not None:
                with suppress(OSError):
                    os.close(wire.socket.detach())

    def _tear_down(self) -> None:
        for channel in list(self._channels.values()):
            if channel.wire is not None:
                self._detach(channel.wire)
        for caller in list(self._callers.values()):
            self._detach(caller.wire)
        self._selector.close()
        self._near.close()
        self._far.close()


def refuse(sock: socket.socket) -> None:
    """Tell a caller that the session it asked for is not here."""
    with suppress(OSError):
        sock.send(_frame(NOBODY))
    sock.close()
