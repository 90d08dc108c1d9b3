"""A process at the hall of a Dask scheduler: the same handles, whose ops are run there."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ... import deadline
from ...errors import Misuse
from ...primitives.sessions import object_id
from ...store import forks
from ...store.lmdb import Reader, Usage
from ...store.transaction import Waiter
from ..embedded import MAX_DROPPED, Call, EmbeddedHost, _nothing_to_do, _take
from ..marks import LANES, Lane, Marks
from ..seats import private as private_seats
from ..sweeper import Sweeper
from .link import DirectLink, Link, SessionOver, Slot
from .scheduler import NOT_YET

if TYPE_CHECKING:
    from .post import Dial, PostOffice

AWAKE = 1 << 32
"""The bell of a wait that has none: its ring is told all the same."""
LOOK_FIRST_S, LOOK_AGAIN_S = 0.05, 8.0
"""A sleeper looks by itself for what time has come for: first after so long, and at last this often."""
DUE_S = 30.0
"""So long it is believed that nothing has changed about when something falls due for a wait, if nothing rang."""
PART_BYTES = 1 << 20
"""Large values travel in parts, between which others have their turn."""
_MAX_TOLD = 1 << 16

_hosts: WeakSet[DaskHost] = WeakSet()


def _after_fork_in_child() -> None:
    for host in list(_hosts):
        host._new_locks()


os.register_at_fork(after_in_child=_after_fork_in_child)

AnyLink = Link | DirectLink


class FarBell(Slot):
    """What wakes a thread, or through its socket an event loop."""

    __slots__ = ("_host", "_pair", "number", "sleeps", "waits")

    def __init__(self, host: DaskHost, number: int) -> None:
        super().__init__()
        self._host = host
        self.number = number
        self.sleeps = 0
        self.waits: list[int] = []
        """The numbers of the waits whose ring is this one's."""
        self._pair: tuple[socket.socket, socket.socket] | None = None

    @property
    def socket(self) -> socket.socket:
        """Readable when it was rung."""
        if self._pair is None:
            self._pair = socket.socketpair()
            for end in self._pair:
                end.setblocking(False)
        return self._pair[0]

    def finish(self) -> None:
        super().finish()
        if self._pair is not None:
            with suppress(OSError):  # Full of rings.
                self._pair[1].send(b"!")

    def wait(self, timeout_s: float) -> bool:
        """Sleep until rung, at most that long. True if it was: then it is time to look, and not to give way."""
        is_rung = bool(self._host.link.wait(self, deadline.after(timeout_s)))
        self.is_done = False
        return is_rung

    def hush(self) -> None:
        """Take all rings out."""
        self.is_done = False
        with suppress(BlockingIOError):
            while self.socket.recv(64):
                pass

    def close(self) -> None:
        """Let go of the sockets."""
        if self._pair is not None:
            for end in self._pair:
                end.close()


class _Watch:
    """What an event loop listens to beside its bell: the connection."""

    def __init__(self, link: AnyLink) -> None:
        self._pair = socket.socketpair() if link.fd < 0 else None
        self._link = link

    @property
    def fd(self) -> int:
        return self._pair[0].fileno() if self._pair is not None else self._link.fd

    def close(self) -> None:
        for end in self._pair or ():
            end.close()


class _Words(list[int]):
    """What has arrived, by lane. To write it down is to tell the scheduler, which has it even if we die then."""

    def __init__(self, tell: Callable[[str, tuple[Any, ...]], None]) -> None:
        super().__init__([0] * LANES)
        self._tell = tell

    def __setitem__(self, lane: Any, number: Any) -> None:
        if list.__getitem__(self, lane) != number:
            self._tell("mark", (lane, number))
        list.__setitem__(self, lane, number)  # Last, and a step of C: what Ctrl-C came before has not arrived.


class _FarMarks(Marks):
    """The lanes of this process."""

    def __init__(self, session: int, words: _Words) -> None:
        super().__init__("", session)
        self._words = words
        self._free = deque((index, b"") for index in range(LANES))


class DaskHost(EmbeddedHost):
    """One process at the hall of a scheduler. Made by `connect` and `of_worker`."""

    is_far = True
    look_again_s = LOOK_AGAIN_S

    def __init__(
        self,
        address: str,
        role: str,
        make: Callable[[DaskHost], AnyLink],
        station: tuple[str, Dial] | None = None,
    ) -> None:
        """`station`: the address at which other processes can dial this one, and how it dials them."""
        self.directory = address
        self.role = role
        self.is_private = self.is_durable = False
        self.opens = 1
        self._make = make
        self._station = station
        self._office: PostOffice | None = None
        self._deferred: deque[Iterable[Any]] = deque()
        self._dropped: deque[bytes] = deque()
        self.errand = self._deferred.append
        self.nudge = None
        self._is_nudged = False
        self.give_way: Callable[[], Callable[[], None]] | None = None
        self.before_leaving: list[Callable[[], None]] = []
        self.lend_hand: Callable[[], bool | None] = _nothing_to_do
        self.run_awaited: Callable[[bytes], object] | None = None
        self._new_locks()
        _hosts.add(self)
        self._mark = forks.NO_MARK
        self._is_closed = False
        self.link: Any = None
        self._sit_down()
        self._sweeper = Sweeper(self)

    # -- the session --------------------------------------------------------------------------------------------------

    def _sit_down(self) -> None:
        self._taken = [], []
        self.once = threading.RLock()
        self.seats = private_seats()  # A far lock is asked for in one round trip, from the line.
        self.asleep: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._bell_numbers = itertools.count(1)
        self._bells: list[Any] = []
        self._bells_by_number: dict[int, FarBell] = {}
        self._routes: dict[int, int] = {}
        self._told: dict[int, None] = {}
        self._ahead: dict[int, Any] = {}
        self._due: dict[int, tuple[Any, float]] = {}
        """By the number of a wait: what was answered, and until when that is believed."""
        self._unsure = 0
        self._looked: set[int] = set()
        self.words = _Words(self._tell)
        self.link = self._make(self)
        self.link.on_return = self._look_anew
        self._session = self.link.session
        self._marks = _FarMarks(self._session, self.words)
        self.watch: Any = _Watch(self.link)
        self._pid = os.getpid()
        self._mark = forks.mark()

    def _new_locks(self) -> None:
        """In a forked child, too: another thread may have held the old ones, and is not here."""
        self._rejoining = threading.RLock()
        self._flushing = threading.RLock()

    def _tell(self, what: str, args: tuple[Any, ...]) -> None:
        self.link.tell(what, args)

    def rejoin(self) -> None:
        """In a forked child, and after the hall has counted this session as dead: a session of its own."""
        with self._rejoining:
            if self._is_closed:
                raise Misuse(f"hall at {self.directory}: it is closed; connect to it again")
            if self._mark[0] and not self.link.is_over:
                return
            is_child = os.getpid() != self._pid
            self._deferred.clear()
            self._dropped.clear()
            if is_child:
                self.nudge = self.give_way = self.run_awaited = None
                self.lend_hand = _nothing_to_do
                self.before_leaving.clear()
                self.link.abandon()
                if self._office is not None:
                    self._office.abandon()
                self._station = self._office = None  # Nobody can dial it.
            self._sit_down()

    def _look_anew(self) -> None:
        """Rings may have been missed: who waits looks itself. If the session is over, it learns that so."""
        self._unsure = next(self._numbers)
        self._due.clear()
        self._looked.clear()
        if self.link.is_over:
            self._mark = forks.NO_MARK
        for bell in list(self._bells_by_number.values()):
            bell.finish()

    # -- ops ----------------------------------------------------------------------------------------------------------

    def transact(self, op: Callable[..., Any], *args: Any) -> Any:
        if not self._mark[0]:
            self.rejoin()
        if self._deferred:
            self.flush()
        return self.link.call(op, args)

    insist = transact

    def read(self, op: Callable[..., Any], *args: Any) -> Any:
        if not self._mark[0]:
            self.rejoin()
        if self._deferred:
            self.flush()
        return self.link.call(op, args, None, True)

    def park(self, waiter: Waiter | None, granted: Call, due: Call, op: Callable[..., Any], *args: Any) -> Any:
        if not self._mark[0]:
            self.rejoin()
        if self._deferred:
            self.flush()
        return self.link.call(op, args, None if waiter is None else (waiter.number, granted, due))

    def read_granted(self, waiter: Waiter, op: Callable[..., Any], *args: Any) -> Any:
        found = self._ahead.pop(waiter.number, None)
        return self.read(op, *args) if found is None else found[0]

    def read_due(self, waiter: Waiter, op: Callable[..., Any], *args: Any) -> Any:
        found = self._due.get(waiter.number)
        if found is None or deadline.left(found[1]) == 0:
            found = self._keep_due(waiter.number, (self.read(op, *args),))
        return found[0]

    def _keep_due(self, number: int, answer: tuple[Any]) -> tuple[Any, float]:
        kept = self._due[number] = answer[0], deadline.now() + DUE_S
        if len(self._due) > _MAX_TOLD:
            for old in list(itertools.islice(self._due, _MAX_TOLD // 2)):
                self._due.pop(old, None)
        return kept

    def forget_due(self, waiter: Waiter) -> None:
        self._due.pop(waiter.number, None)

    def defer(self, op: Callable[..., Any], *args: Any) -> None:
        """As there, and soon: nothing of it waits for this process to ask for something else."""
        super().defer(op, *args)
        self.hurry()

    def _ask_to_flush(self, most: int = MAX_DROPPED) -> None:
        if len(self._dropped) > most and not self._deferred:
            self._deferred.append((_nothing,))

    def flush(self) -> None:
        """Send what was deferred, without waiting for it: what this process asks next is done behind it."""
        if not self._deferred and not self._dropped:
            return
        if not self._mark[0]:
            self.rejoin()
        with self._flushing:
            errands, dropped = self._taken
            _take(self._deferred, errands)
            _take(self._dropped, dropped)
            self._taken = [], []
            calls = [call for call in map(tuple, errands) if call[0].__name__ != "_nothing"]
            if calls or dropped:
                self.link.post("batch", (calls, dropped))
        self._ask_to_flush()

    # -- waiting ------------------------------------------------------------------------------------------------------

    def waiter(self, bell: Any = None) -> Waiter:
        """As there. It rings from the beginning: `arm` says where, and may be late."""
        return Waiter(self.session, next(self._numbers), AWAKE if bell is None else bell.number, deadline.now())

    def arm(self, arm: Callable[..., bool], waiter: Waiter, bell: int) -> bool:
        """Have the waiter's ring wake that bell. False if it has come already. No op is needed."""
        self._routes[waiter.number] = bell
        found = self._bells_by_number.get(bell)
        if found is not None:
            found.waits.append(waiter.number)
        return waiter.number not in self._told

    def is_told(self, is_granted: Callable[..., bool], waiter: Waiter) -> bool:
        if waiter.number in self._told:
            return True
        if self._is_over(waiter):
            self._mark = forks.NO_MARK
            raise SessionOver(
                f"hall at {self.directory}: session {waiter.session} was counted as dead while it waited; ask again"
            )
        if self._is_unsure(waiter):
            self._looked.add(waiter.number)
            if self.read(is_granted, waiter):
                self._told[waiter.number] = None
                return True
        return False

    def _is_over(self, waiter: Waiter) -> bool:
        return bool(self.link.is_over) or waiter.session != self._session

    def which_told(self, which_granted: Callable[..., list[Waiter]], many: tuple[Waiter, ...]) -> list[Waiter]:
        """Those that are told, and those that are to look themselves: for what they may have missed, or to learn that
        the session is over."""
        return [one for one in many if one.number in self._told or self._is_over(one) or self._is_unsure(one)]

    def _is_unsure(self, waiter: Waiter) -> bool:
        return waiter.number < self._unsure and waiter.number not in self._looked

    def _heard(self, number: int, bell: int, ahead: Any) -> None:
        if bell < 0:
            self._keep_due(number, ahead)
            return
        self._due.pop(number, None)
        if ahead == NOT_YET:
            self._wake(self._routes.get(number, bell))
            return
        if ahead is not None:
            self._ahead[number] = ahead
        self._told[number] = None
        self._wake(self._routes.pop(number, bell))
        if len(self._told) > _MAX_TOLD:  # Of those who had left already, nobody asks.
            for old in list(itertools.islice(self._told, _MAX_TOLD // 2)):
                self._told.pop(old, None)
                self._ahead.pop(old, None)

    def _wake(self, bell: int) -> None:
        found = self._bells_by_number.get(bell)
        if found is not None:
            found.finish()

    def bell(self) -> Any:
        session = self.session
        with suppress(IndexError):
            return self._bells.pop()
        assert session == self._session
        bell = FarBell(self, next(self._bell_numbers))
        self._bells_by_number[bell.number] = bell
        return bell

    def ring(self, waiter: Waiter) -> None:
        """Wake a sleeper of this process."""
        self._wake(waiter.bell)

    def done(self, bell: Any) -> None:
        for number in bell.waits:
            self._routes.pop(number, None)
            self._ahead.pop(number, None)
            self._due.pop(number, None)
        bell.waits.clear()
        bell.sleeps = 0
        bell.is_done = False
        self._bells.append(bell)

    def follow(self) -> None:
        """Who dies is the scheduler's business."""

    def sleep(self, bell: Any, timeout_s: float | None) -> None:
        """Until rung, or it is time to look: the longer it lasts the less often, as each look is a round trip."""
        self.flush()
        limit_s = min(2.0 ** min(bell.sleeps - 1, 9), LOOK_AGAIN_S) if bell.sleeps else LOOK_FIRST_S
        bell.sleeps += 1
        bell.wait(limit_s if timeout_s is None else min(timeout_s, limit_s))

    def look(self, left_s: float | None, op: Callable[..., bool], *args: Any) -> bool:
        return bool(self.read(op, *args))

    def bury_dead(self) -> list[int]:
        """Read what has come: that is what an event loop is woken for here."""
        self.link.look()
        return []

    # -- to and from other processes ----------------------------------------------------------------------------------

    def post_office(self) -> PostOffice | None:
        """This session's station; None if no other process can dial this one."""
        office, session = self._office, self.session
        if office is not None and office.session == session:
            return office
        if self._station is None or self._is_closed:
            return None
        from .post import PostOffice

        with self.once:
            if self._office is None or self._office.session != session:
                if self._office is not None:
                    self._office.close(flush_s=0)
                self._office = PostOffice(session, *self._station, self.is_alive)
            return self._office

    def accept(self, sock: socket.socket, left: bytes, session: int, sender: int) -> None:
        """Another station's connection, if it is for this session."""
        office = self._office
        if office is not None and office.session == session and self._mark[0]:
            office.accept(sock, left, sender)
        else:
            from .post import refuse

            refuse(sock)

    def knock(self, session: int, bell: int, number: int) -> None:
        """The hall has something to tell the station of that session."""
        office = self._office
        if office is not None and office.session == session:
            office.on_knock(bell, number)

    # -- looking at the hall itself -----------------------------------------------------------------------------------

    def new_object(self) -> bytes:
        return object_id(self.session, next(self._numbers))

    def is_alive(self, session: int) -> bool:
        """Whether the scheduler has not buried it."""
        return session == self.session or bool(self._ask("is_alive", session))

    def revision(self) -> int:
        return int(self._ask("revision"))

    def usage(self) -> Usage:
        return Usage(*self._ask("usage"))

    def readers(self) -> list[Reader]:
        return []

    def tidy(self) -> int:
        return 0

    def make_durable(self) -> None:
        """What the scheduler keeps it in was said when it was started."""

    def now(self) -> float:
        """The scheduler's clock."""
        return deadline.now() + float(self.link.skew_s[0])

    def wall(self) -> float:
        """The scheduler's wall clock."""
        return deadline.wall() + float(self.link.skew_s[1])

    def ticks_ns(self) -> int:
        return deadline.ticks_ns() + round(float(self.link.skew_s[0]) * 1e9)

    def _ask(self, what: str, *args: Any) -> Any:
        if not self._mark[0]:
            self.rejoin()
        return self.link.call(what, args)

    # -- blobs --------------------------------------------------------------------------------------------------------

    def lay(self, blob: str, parts: Sequence[memoryview]) -> list[list[int]]:
        """Send a large value to the scheduler. Where its parts are there: for each, the numbers of pieces."""
        places, number = [], 0
        for part in parts:
            here = []
            for at in range(0, part.nbytes, PART_BYTES):
                self._ask("lay", blob, bytes(part[at : at + PART_BYTES]))
                here.append(number)
                number += 1
            places.append(here)
        return places

    def fetch(self, blob: str, places: Sequence[Sequence[int]]) -> list[bytearray]:
        """The parts of a large value, writable. Raises FileNotFoundError if it has gone."""
        return [bytearray().join(self._ask("fetch", blob, number) for number in here) for here in places]

    def blobs(self) -> tuple[int, int]:
        """How many large values the scheduler has, and their size in bytes."""
        number, size_bytes = self._ask("blobs")
        return number, size_bytes

    def remove_blob(self, blob: str) -> None:
        self._ask("remove", blob)

    def blob_path(self, blob: str) -> str:
        raise Misuse(f"hall at {self.directory}: it keeps large values in the scheduler, not in files")

    # -- leaving ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the hall when the last opener in this process closes."""
        self.opens -= 1
        if self.opens > 0 or self._is_closed:
            return
        if self._mark[0]:
            for end in tuple(self.before_leaving):
                end()
            if self._office is not None:
                self._office.close()
            with suppress(OSError):
                self.flush()
                self.link.close()
        self._is_closed = True
        self._mark = forks.NO_MARK
        self._sweeper.close()
        for bell in list(self._bells_by_number.values()):
            bell.close()
        self.watch.close()

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return not self._is_closed

    def lane(self) -> Lane:
        if not self._mark[0]:
            self.rejoin()
        return super().lane()


def _nothing(txn: Any) -> None:
    """An errand that only asks for a flush."""
