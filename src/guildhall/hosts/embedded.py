"""The embedded host: this process runs the ops of a hall itself, on the store in the hall's directory.

A hall's directory holds the store, the members file, `bells/` and `blobs/`. Halls with a name live in memory until
removed; private ones (a client's own) are swept by the next open after their last member died; halls at a path live
there.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar, cast

from .. import deadline
from ..errors import Broken, GuildhallError, HallRefused, Misuse, StoreFull
from ..primitives import sessions
from ..primitives.sessions import Estate, Session, object_id
from ..store import forks
from ..store.lmdb import LmdbStore, Reader, Usage, was_undone
from ..store.transaction import Waiter
from .doorbell import LOOK_S, Bell, Ringer
from .liveness import Members, Watch
from .marks import Lane, Marks
from .marks import read as read_marks
from .place import Place, expect_local, expect_owner, filesystem, make_way, resolved, trust
from .place import is_in_memory as is_in_memory
from .seats import mapped as mapped_seats
from .seats import private as private_seats
from .seats import unmap as unmap_seats

T = TypeVar("T")
Call = tuple[Any, ...]
"""An op and its arguments, behind the transaction."""
Eyes = TypeVar("Eyes", bound="Observing")

ROOM_BYTES = 32 << 20
"""Shared memory with less room than this is passed over for the temporary directory."""
MAX_DEFERRED = 256
"""What was deferred is run in portions, so that nobody waits long for the store."""
MAX_DROPPED = 64
"""References that were let go are told when there are more than this, before a wait, and before a blob is written."""
CROWDED_S = 0.0005
"""When a look takes so much longer than it should, somebody else had the core."""
SHUN_S = 0.05
"""So long nobody looks then."""
LOOK_AGAIN_S = 1.0
"""A ring may be lost when the ringer dies: a sleeper looks again by itself this often."""
MAKING_NS = 3600 * 10**9
"""A private hall that nobody is in is left alone this long if its maker may be alive: stopped, perhaps."""

_hosts: dict[tuple[int, int], EmbeddedHost] = {}
_observers: dict[tuple[int, int], Observing] = {}
"""What looks into halls that this process is not in: two environments of one store in a process would be refused."""
_hosts_gate = threading.RLock()
"""Held while a hall is opened or closed: a process has one environment and one descriptor of a members file."""


class Observing(Protocol):
    """What looks into a hall without being in it."""

    def close(self) -> None:
        """Let go of the hall, whose host in this process is to be asked from now on."""


class EmbeddedHost:
    """One process in one hall. Made by `open_hall`, which gives every opener of a hall in a process the same one."""

    is_far = False
    """Whether ops run in another process, so that each is a round trip. Then a wait rings from the beginning, and
    whether it is granted is told, not looked up."""
    look_again_s = LOOK_AGAIN_S
    """How often the coroutines that wait look by themselves."""

    def __init__(self, place: Place, *, durable: bool, role: str, estates: Iterable[Estate], is_private: bool) -> None:
        self.directory = place.directory
        self._place = place
        """How everything in it is reached: the directory may be renamed, and another one put in its place."""
        self.is_private = is_private
        self.role = role
        self.is_durable = durable
        """Whether what a call returned is to be on disk."""
        self._estates = tuple(estates)
        self.opens = 1
        self._deferred: deque[Iterable[Any]] = deque()
        self._dropped: deque[bytes] = deque()
        self.errand = self._deferred.append
        """As `defer`, in one call that runs no line of Python: takes the op and its arguments as one iterable."""
        self._taken: tuple[list[Iterable[Any]], list[bytes]] = [], []
        """The portion of both that is being run."""
        self._store: LmdbStore | None = None
        self.nudge: Callable[[], None] | None = None
        """Called by the first `hurry` after a `settle`: somebody is to settle soon."""
        self._is_nudged = False
        self.seats = private_seats()
        """A word for each lock that is much asked for (`seats`)."""
        self._crowded_until = 0.0
        self._mark = forks.NO_MARK
        self._is_joining = False
        self._is_flushing = False
        self.give_way: Callable[[], Callable[[], None]] | None = None
        """Called by a wait that lasts: lets others run meanwhile. Answers what to call when the wait is over."""
        self.before_leaving: list[Callable[[], None]] = []
        """Called when this process leaves the hall, before anything is taken down: threads that use it end."""
        self.lend_hand: Callable[[], bool | None] = _nothing_to_do
        """Called again and again by such a wait: may run a task in its thread. Answers whether it did; None if there is
        no need."""
        self.run_awaited: Callable[[bytes], object] | None = None
        """Called by who waits for the end of a task: runs it in this thread, if nobody has begun with it."""
        try:
            self._join()
        except BaseException:
            place.close()
            raise

    def _join(self) -> None:
        with ExitStack() as undo:
            undo.callback(self._join_later)
            self._is_joining = True
            self._pid = os.getpid()
            self._bells_fd = os.open(self.at("bells"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(self._close_bells)
            self._ringer = Ringer(self._bells_fd)
            self._take_seats()
            if self._store is None:
                self._store = self._open_store()
                undo.callback(self._store.close)
            self.read = self._store.read
            self.transact = self._store.transact
            self.insist = self._store.insist
            self._members = Members(self.at("members"))
            undo.callback(self._members.close)
            self.watch = Watch()
            undo.callback(self.watch.close)
            self._seen_membership: bytes | None = None
            self._gate = threading.Lock()
            self.once = threading.RLock()
            """For what only one thread of this process is to do; a forked child has one of its own."""
            self._bells: list[Bell] = []
            self.asleep: dict[int, int] = {}
            """The threads that wait without end for what others hold, and the numbers of their waits."""
            self._bell_numbers = itertools.count(1)
            self._numbers = itertools.count(1)
            session = self.insist(sessions.number)
            self._members.enter(session)
            self._marks = Marks(self._marks_path(session), session)
            self.insist(sessions.join, Session(session, self._pid, self.role, deadline.now()))
            self._session = session
            self._mark = forks.mark()  # Last: other threads take the mark for a session that may be used.
            self._is_joining = False
            self.bury_dead()
            undo.pop_all()

    def _take_seats(self) -> None:
        if not isinstance(self.seats, memoryview):  # A forked child has its parent's.
            self.seats = mapped_seats(self.at("seats"))

    def make_durable(self) -> None:
        """From now on every commit of this process is on disk before the call returns."""
        self.is_durable = True
        if self._store is not None:
            self._store.make_durable()

    def _open_store(self) -> LmdbStore:
        return LmdbStore(
            self.directory,
            at=self._place.path,
            in_memory=self._place.is_in_memory,
            durable=self.is_durable,
            ring=lambda waiter: self._ringer.ring(waiter),  # A forked child has a ringer of its own.
            remove=self.remove_blob,
            errands=self._deferred,
            before=self._before_op,
        )

    @property
    def session(self) -> int:
        """The number of this process in the hall; a forked child gets one of its own."""
        if not self._mark[0]:
            self.rejoin()
        return self._session

    def lane(self) -> Lane:
        """Where this thread marks what it has received. A call inside of another (a signal's handler) does not."""
        if not self._mark[0]:
            self.rejoin()
        marks = self._marks
        try:
            lane: Lane = marks.mine.lane
        except AttributeError:
            return marks.new_lane()
        return lane if lane.number == lane.words[lane.index] else marks.no_lane

    def lane_of_ones_own(self) -> Lane | None:
        """A lane for what the caller marks in its own way, for as long as this process lives. None if there is none."""
        if not self._mark[0]:
            self.rejoin()
        return self._marks.reserve()

    # -- ops ----------------------------------------------------------------------------------------------------------

    def _before_op(self) -> None:
        """In a forked child: a session of its own comes first. Else what was deferred."""
        if self._mark[0]:
            if not self._is_flushing:
                self.flush()
        elif not self._is_joining:
            self.rejoin()

    def defer(self, op: Callable[..., Any], *args: Any) -> None:
        """Run the op with this process's next one. With `drop` and `hurry`, the only thing a finalizer may call."""
        self._deferred.append((op, *args))

    def let_go(self, op: Callable[..., Any], *args: Any) -> None:
        """Run an op that ends a wait, or gives back what came of it.

        A store may be so full that not even that can be written: what is given up while somebody reads, who was stopped
        perhaps, is no room yet. Then it is done as soon as it can be, at the latest before this process's next op that
        finds room. Nobody else would do it: who asked has been told that it does not wait any more.
        """
        try:
            self.transact(op, *args)
        except StoreFull:
            self.put_off(op, *args)

    def put_off(self, op: Callable[..., Any], *args: Any) -> None:
        """Do it soon."""
        self.defer(op, *args)
        self.hurry()

    @property
    def is_behind(self) -> bool:
        """Whether something that was deferred is still to be done: it may give back what this session holds."""
        return bool(self._deferred)

    def drop(self, oid: bytes) -> None:
        """A reference of this session to the object is gone."""
        self._dropped.append(oid)
        self._ask_to_flush()
        self.hurry()

    def hurry(self) -> None:
        """What was deferred matters to others: it is to be done soon, also if this process does nothing else."""
        if self.nudge is not None and not self._is_nudged:
            self._is_nudged = True
            self.nudge()

    def _ask_to_flush(self, most: int = MAX_DROPPED) -> None:  # A default: as the interpreter ends, globals are None.
        if len(self._dropped) > most and not self._deferred:
            self._deferred.append((_nothing,))

    def flush(self) -> None:
        """Run what was deferred, in one transaction. In a full store it stays deferred; so it does if Ctrl-C comes."""
        if not self._deferred and not self._dropped:
            return
        assert self._store is not None, "what was deferred belongs to a hall that was joined"
        with self._store.gate:  # One portion at a time. Ctrl-C loses none of it: it stays here until it is committed.
            self._is_flushing = True  # Another portion that waits goes with another op, not before this one.
            try:
                self._run_portion(self._store)
            finally:
                self._is_flushing = False
        self._ask_to_flush()

    def _run_portion(self, store: LmdbStore) -> None:
        errands, dropped = self._taken
        has_begun = False
        undone = None

        def run(txn: Any) -> None:
            nonlocal has_begun, undone
            has_begun = True
            for op, *args in errands:
                op(txn, *args)
            sessions.release_for(txn, self._session, dropped)
            undone = store.undone

        try:
            _take(self._deferred, errands)
            _take(self._dropped, dropped)
            self.transact(run)
        except StoreFull:
            self._put_back()
        except Exception as error:
            if not has_begun or _was_disturbed(error):
                self._put_back()
            self._taken = [], []
            raise
        except BaseException:
            if undone == store.undone:
                self._taken = [], []
            elif not self._deferred:
                self._deferred.append((_nothing,))
            raise
        else:
            self._taken = [], []

    def _put_back(self) -> None:
        """The portion goes behind the others, which may be such as make room."""
        (errands, dropped), self._taken = self._taken, ([], [])
        self._deferred.extend(errands)
        self._dropped.extend(dropped)

    def settle(self) -> None:
        """Run all that was deferred, portion by portion."""
        self._is_nudged = False
        for _ in range(1 + (len(self._deferred) + len(self._dropped)) // MAX_DEFERRED):
            self.flush()

    def rejoin(self) -> None:
        """In a forked child: a session of its own. What the parent holds, the parent holds."""
        assert self._store is not None, "whoever finds this host has joined with it once"
        with self._store.gate:  # One thread joins for all: a second descriptor of the members file would end the first.
            if not self._mark[0]:
                self._join_as_child()

    def _join_as_child(self) -> None:
        self._members.close()
        self._deferred.clear()
        self._dropped.clear()
        self._taken = [], []
        self._is_flushing = False
        self.nudge = None
        self.before_leaving.clear()
        self.lend_hand, self.run_awaited = _nothing_to_do, None
        self.give_way = None  # A task's child waits for itself; the tasks and the helpers are its parent's.
        with suppress(OSError):
            self.watch.close()
            self._close_bells()
        self._join()  # With a new ringer: the old one's lock may be held by a thread that is not here.

    def _join_later(self) -> None:
        """Joining may fail or be interrupted: then whatever needs a session next joins anew."""
        self._mark = forks.NO_MARK
        self._is_joining = False

    def _close_bells(self) -> None:
        fd, self._bells_fd = self._bells_fd, -1
        if fd >= 0:
            os.close(fd)

    # -- waiting ------------------------------------------------------------------------------------------------------

    def waiter(self, bell: Bell | None = None) -> Waiter:
        """An identity for one wait: that the bell wakes, or that is still awake."""
        return Waiter(self.session, next(self._numbers), 0 if bell is None else bell.number, deadline.now())

    def bell(self) -> Bell:
        """A bell to be woken by. Give it back with `done`."""
        session = self.session
        with suppress(IndexError):
            return self._bells.pop()
        return Bell(self._bells_fd, session, next(self._bell_numbers), self.watch.fd)

    def ring(self, waiter: Waiter) -> None:
        """Wake a sleeper, who looks again."""
        self._ringer.ring(waiter)

    def done(self, bell: Bell) -> None:
        """The bell may wake somebody else. A finalizer may call this."""
        self._bells.append(bell)

    def follow(self) -> None:
        """Watch everybody who is in the hall now, so that a death wakes our sleepers."""
        membership = self.read(sessions.membership)
        if membership != self._seen_membership:
            everybody = self.read(sessions.everybody)
            with self._gate:
                self.watch.follow({s.number: s.pid for s in everybody if s.number != self.session})
                self._seen_membership = membership
            self.bury_dead()  # Who died before being watched wakes nobody.

    def sleep(self, bell: Bell, timeout_s: float | None) -> None:
        """Sleep until rung, somebody died, or it is time to look again."""
        self.follow()
        self.flush()
        limit = LOOK_AGAIN_S if timeout_s is None else min(timeout_s, LOOK_AGAIN_S)
        began = time.monotonic()
        if bell.wait(limit) or time.monotonic() - began >= limit:  # Looking again finds deaths that no pidfd told.
            self.bury_dead()
            self._opened().clear_readers()  # Who only looks into the hall has no session that could be buried.

    def look(self, left_s: float | None, op: Callable[..., bool], *args: Any) -> bool:
        """Whether the op says yes within a moment. Whoever else can run on this core goes first."""
        until = deadline.now() + self.look_s(left_s)
        while not self.read(op, *args):
            if deadline.now() >= until:
                return False
            self.relax()
        return True

    def look_if_alone(self, left_s: float | None, op: Callable[..., bool], *args: Any) -> bool:
        """As `look`, but not while others keep the cores busy: who yields to them comes back milliseconds later, who
        sleeps is woken before them."""
        began = deadline.now()
        if began < self._crowded_until:
            return self.read(op, *args)
        is_there = self.look(left_s, op, *args)
        ended = deadline.now()
        if ended - began > LOOK_S + CROWDED_S:
            self._crowded_until = ended + SHUN_S
        return is_there

    def look_s(self, left_s: float | None) -> float:
        """How long a thread looks for what it waits for before it sleeps."""
        return LOOK_S if left_s is None else min(LOOK_S, left_s)

    def relax(self) -> None:
        """Between two looks: whoever else can run on this core goes first."""
        os.sched_yield()

    def stay_awake(self, left_s: float, op: Callable[..., bool], *args: Any) -> bool:
        """As `look`, until the time is up, and without giving the core to other processes: who does gets it back when
        they please."""
        until = deadline.now() + left_s
        while not self.read(op, *args):
            if deadline.now() >= until:
                return False
        return True

    def arm(self, arm: Callable[..., bool], waiter: Waiter, bell: int) -> bool:
        """Have the waiter's grant ring that bell. False if it is granted already. The op does it, if one is needed."""
        return self.transact(arm, waiter, bell)

    def is_told(self, is_granted: Callable[..., bool], waiter: Waiter) -> bool:
        """Whether the waiter is granted. The op looks, if that has not been told."""
        return self.read(is_granted, waiter)

    def which_told(self, which_granted: Callable[..., list[Waiter]], many: tuple[Waiter, ...]) -> list[Waiter]:
        """Those of the waiters that are granted."""
        return self.read(which_granted, many)

    def park(self, waiter: Waiter | None, granted: Call, due: Call, op: Callable[..., T], *args: Any) -> T:
        """As `transact`, of an op that may park the waiter. What is `granted` and `due` are ops that read, with their
        arguments: a far host lets the answer of one come with the ring, and of the other when it parks."""
        return self.transact(op, *args)

    def read_granted(self, waiter: Waiter, op: Callable[..., T], *args: Any) -> T:
        """What came with the ring of the waiter; else the op reads it."""
        return self.read(op, *args)

    def read_due(self, waiter: Waiter, op: Callable[..., T], *args: Any) -> T:
        """What the op reads. A far host keeps what came as the waiter was parked, until that rings or a long time has
        passed: the primitive's part is to ring when there is another answer for who is first in line."""
        return self.read(op, *args)

    def forget_due(self, waiter: Waiter) -> None:
        """That time has come: what was kept of it is of the past."""

    def bury_dead(self) -> list[int]:
        """Bury every session whose process is gone."""
        dead = [
            s.number
            for s in self.read(sessions.everybody)
            if s.number != self.session and not self._members.is_alive(s.number)
        ]
        if dead:
            sessions.prepare()
        if dead and self._store is not None:
            self._store.rouse()
            self._store.clear_readers()
        for number in dead:
            self.transact(self._bury_one, number)
            self._sweep_traces(number)
        return dead

    def _bury_one(self, txn: Any, number: int) -> None:
        if not self._members.is_alive(number):
            sessions.bury(txn, number, 0, self._estates, deadline.now(), read_marks(self._marks_path(number)))

    def _marks_path(self, session: int) -> str:
        return self.at("bells", f"{session}.marks")

    def _sweep_traces(self, number: int) -> None:
        """Remove the bells and marks of a dead session, and the blobs that it did not finish."""
        with suppress(OSError):
            for name in os.listdir(self.at("bells")):
                if name.startswith(f"{number}."):
                    os.unlink(self.at("bells", name))
            for name in os.listdir(self.at("blobs")):
                if name.startswith(f"{number}-") and self.read(sessions.is_litter, name):
                    self.remove_blob(name)

    def post_office(self) -> Any:
        """What carries messages between processes of a hall whose store is elsewhere; None if nothing does."""
        return None

    def new_object(self) -> bytes:
        """A fresh object id."""
        return object_id(self.session, next(self._numbers))

    # -- looking at the hall itself -----------------------------------------------------------------------------------

    def is_alive(self, session: int) -> bool:
        """Whether the process of the session is there."""
        return session == self.session or self._members.is_alive(session)

    def revision(self) -> int:
        """The number of a commit that every read which begins from now on sees."""
        return self._opened().revision()

    def usage(self) -> Usage:
        return self._opened().usage()

    def readers(self) -> list[Reader]:
        return self._opened().readers()

    def tidy(self) -> int:
        """Free what dead readers keep, and lay the ballast again if there is room. How many readers were dead."""
        cleared = self._opened().clear_readers()
        self._opened().restock()
        return cleared

    def _opened(self) -> LmdbStore:
        assert self._store is not None, "a host has a store from its joining on"
        return self._store

    def now(self) -> float:
        """The clock of the hall: that of the machine where its ops run."""
        return deadline.now()

    def wall(self) -> float:
        """Its wall clock."""
        return deadline.wall()

    def ticks_ns(self) -> int:
        """As `now`, in nanoseconds."""
        return deadline.ticks_ns()

    # -- blobs --------------------------------------------------------------------------------------------------------

    def at(self, *names: str) -> str:
        """The path of something in the hall's directory."""
        return self._place.at(*names)

    def blob_path(self, blob: str) -> str:
        return self._place.at("blobs", blob)

    def lay(self, blob: str, parts: Sequence[memoryview]) -> list[list[int]]:
        """Send a large value to a hall that is far. For each part, the numbers of its pieces there."""
        raise NotImplementedError

    def fetch(self, blob: str, places: Sequence[Sequence[int]]) -> list[bytearray]:
        """The parts of a large value from a hall that is far. Raises FileNotFoundError if it has gone."""
        raise NotImplementedError

    def blobs(self) -> tuple[int, int]:
        """How many large values a hall that is far has, and their size in bytes."""
        raise NotImplementedError

    def remove_blob(self, blob: str) -> None:
        _remove_blob(self.blob_path(blob))

    # -- leaving ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the hall when the last opener in this process closes; a private one goes with its last member."""
        with _hosts_gate:
            self.opens -= 1
            if self.opens > 0:
                return
            _hosts.pop(next((k for k, v in _hosts.items() if v is self), (0, 0)), None)
            try:
                if self._mark[0]:
                    for end in tuple(self.before_leaving):
                        end()
                    self._leave()
            finally:
                self._place.close()

    def _leave(self) -> None:
        with suppress(OSError, Misuse):
            self.flush()
            self._members.leave(self.session)
            sessions.prepare()
            self.transact(sessions.bury, self.session, 0, self._estates, deadline.now(), self._marks.words())
        if self._store is not None:
            self._store.close()
        for bell in self._bells:
            bell.close()
        self._marks.close()
        self._ringer.close()
        self.watch.close()
        is_last = not self._members.anybody()
        self._members.close()
        self._close_bells()
        seats, self.seats = self.seats, private_seats()
        unmap_seats(seats)
        if self.is_private and is_last:
            remove_hall(self.directory)


def _take(line: deque[T], portion: list[T]) -> None:
    """Fill the portion off the line's front, which other threads and finalizers may lengthen or shorten meanwhile.

    In one step of C, so that Ctrl-C finds each thing in the line or in the portion.
    """
    with suppress(IndexError):
        portion.extend(itertools.islice(iter(line.popleft, None), MAX_DEFERRED - len(portion)))


def _was_disturbed(error: BaseException) -> bool:
    """Whether what was run was not committed for a reason from outside: a signal handler that raises."""
    return was_undone(error) and not isinstance(error, GuildhallError)


def _nothing_to_do() -> None:
    """Where no tasks are run, no hand is lent."""


def _nothing(txn: Any) -> None:
    """An errand that only asks for a flush."""


# -- finding, making and sweeping halls -------------------------------------------------------------------------------


def home(name: str | None = None) -> str:
    """Where halls with a name live: shared memory when there is room, else the temporary directory.

    A hall of that name which is in either stays there: room comes and goes, and there must not be two of one name.
    """
    given = os.environ.get("GUILDHALL_HOME")
    path = _home_in(given) if given else _found(name) or _home_in("/dev/shm" if _has_room() else _temporary())
    with _refusing(path, "set GUILDHALL_HOME to a directory of your own"):
        path = _led_to(path)
        make_way(path)
        trust(path, os.lstat(path))
    return path


def _home_in(root: str) -> str:
    return os.path.join(root, f"guildhall-{os.getuid()}")


def _found(name: str | None) -> str | None:
    """The home that has a hall of that name."""
    if name is not None:
        for path in _usual_homes():
            if is_hall(os.path.join(path, name)):
                return path
    return None


def _usual_homes() -> Iterator[str]:
    yield _home_in("/dev/shm")
    yield _home_in(_temporary())


def _led_to(path: str) -> str:
    """Where it is, if it is no link itself."""
    above, name = os.path.split(path)
    return os.path.join(resolved(above), name)


def homes() -> list[str]:
    """Where halls with a name are looked for: those of the possible places that are there and can be trusted."""
    given = os.environ.get("GUILDHALL_HOME")
    found = []
    for path in [_home_in(given)] if given else _usual_homes():
        with suppress(OSError):
            path = _led_to(path)
            trust(path, os.lstat(path))
            found.append(path)
    return list(dict.fromkeys(found))


def find(name: str) -> str | None:
    """The directory of the hall of that name, private ones included; None if there is none."""
    for root in homes():
        if not name.startswith(".") and is_hall(os.path.join(root, name)):
            return os.path.join(root, name)
    return None


def halls() -> Iterator[str]:
    """The directories of all halls with a name and of private ones, whether anybody is in them or not."""
    for root in homes():
        for name in sorted(os.listdir(root)):
            if not name.startswith(".") and is_hall(os.path.join(root, name)):
                yield os.path.join(root, name)


def is_hall(directory: str) -> bool:
    """Whether a hall was made there."""
    return os.path.exists(os.path.join(directory, "data.mdb"))


def _has_room() -> bool:
    with suppress(OSError):
        stat = os.statvfs("/dev/shm")
        return stat.f_bavail * stat.f_frsize >= ROOM_BYTES and os.access("/dev/shm", os.W_OK | os.X_OK)
    return False


def _temporary() -> str:
    import tempfile

    return tempfile.gettempdir()


@contextmanager
def _refusing(path: str, advice: str) -> Iterator[None]:
    """What the system says about a directory, as an error of ours."""
    try:
        yield
    except Broken:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(error.errno, f"hall {path}: no room for it; free its file system") from error
        raise HallRefused(f"hall {path}: it cannot be used here: {error.strerror or error}; {advice}") from error


def _make(directory: str) -> None:
    """Lay a hall aside and rename it into place: nobody sees half of one."""
    import tempfile

    parent = os.path.dirname(directory)
    with suppress(FileNotFoundError):  # If it is empty, the hall takes its place.
        expect_owner(directory, os.lstat(directory))
    aside = tempfile.mkdtemp(prefix=f".new-{os.getpid()}-", dir=parent)
    try:
        with Place(aside) as place:
            for name in ("bells", "blobs"):
                os.mkdir(place.at(name), 0o700)
            with open(place.at("namespace"), "x") as file:
                file.write(_pid_namespace())
            LmdbStore.create(place.path, in_memory=place.is_in_memory)
        with suppress(FileExistsError):
            os.rename(aside, directory)
            return
    except OSError:
        if not os.path.exists(os.path.join(directory, "data.mdb")):
            raise
    finally:
        _erase(aside)


def _lay_on_disk(directory: str) -> None:
    """What makes the hall, and what was written when nobody asked for durability, is on disk from now on.

    `lock.mdb` and `members` mean nothing after a start of the machine; and closing them here would drop our locks.
    """
    blobs = os.path.join(directory, "blobs")
    for name in ("guard", "namespace", "ballast", "data.mdb", *(f"blobs/{blob}" for blob in os.listdir(blobs))):
        with suppress(FileNotFoundError):  # A ballast that was given up, a blob that went meanwhile.
            synchronize(os.path.join(directory, name))
    for made in (os.path.join(directory, "bells"), blobs, directory):
        synchronize(made)
    above = os.path.dirname(directory)
    while above != os.path.dirname(above):
        with suppress(PermissionError):  # Others' directories were there before.
            synchronize(above)
        above = os.path.dirname(above)


def synchronize(path: str) -> None:
    """See that a file, or what is in a directory, is on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def key_of(directory: str) -> tuple[int, int]:
    """What tells the hall at the directory from every other one, also from a later one at the same place."""
    stat = os.stat(directory)
    return stat.st_dev, stat.st_ino


def open_hall(
    directory: str,
    *,
    durable: bool = False,
    role: str = "process",
    estates: Iterable[Estate] = (),
    is_private: bool = False,
) -> EmbeddedHost:
    """The host of the hall at the directory, which is made if it is not there. A second open gives the same host."""
    with _refusing(directory, "choose a place where this user may make directories and nothing else is"):
        directory = resolved(directory)
        if not is_hall(directory):
            make_way(os.path.dirname(directory))
            _make(directory)
        place = _trusted(directory)  # Closed with the last reference to it, which a new host keeps.
        if durable:
            _lay_on_disk(directory)
        with _hosts_gate:
            host = _hosts.get(place.key)
            if host is not None and host._mark[0]:
                if durable:
                    host.make_durable()
                host.opens += 1
                return host
            if host is None:
                if (observer := _observers.pop(place.key, None)) is not None:
                    observer.close()
                host = _hosts[place.key] = EmbeddedHost(
                    place, durable=durable, role=role, estates=estates, is_private=is_private
                )
                if not _is_at(directory, place.key):  # Removed while we joined: who comes next would be in another one.
                    host.close()
                    return open_hall(directory, durable=durable, role=role, estates=estates, is_private=is_private)
            else:
                host.rejoin()
                if durable:
                    host.make_durable()
                host.opens = 1
            return host


def gate() -> threading.RLock:
    """Held while a hall is opened or closed. A forked child has another."""
    return _hosts_gate


def look_into(directory: str, key: tuple[int, int], make: Callable[[str], Eyes]) -> EmbeddedHost | Eyes:
    """This process's host of the hall, opened once more, or what looks into it from outside: one for all who look."""
    with _hosts_gate:
        host = _hosts.get(key)
        if host is not None:
            host.opens += 1
            return host
        if key not in _observers:
            _observers[key] = make(directory)
        return cast(Eyes, _observers[key])


def look_no_more(key: tuple[int, int], observer: Observing) -> None:
    """Let go of what looks from outside."""
    with _hosts_gate:
        if _observers.get(key) is observer:
            del _observers[key]
        observer.close()


def _is_at(directory: str, key: tuple[int, int]) -> bool:
    try:
        return key_of(directory) == key
    except FileNotFoundError:
        return False


def check(directory: str) -> None:
    """Refuse a hall that cannot be trusted or used."""
    _trusted(directory).close()


def host_at(directory: str) -> EmbeddedHost | None:
    """The host of the hall at the directory, if this process has it open."""
    return next((host for host in list(_hosts.values()) if host.directory == directory), None)


def _trusted(directory: str) -> Place:
    """The place of a hall. Refuses one whose processes cannot be told apart here, or of which something is gone."""
    place = Place(directory)
    try:
        _check_parts(place)
    except BaseException:
        place.close()  # Now: the error may be kept, and with it the frame, while its file system is to be unmounted.
        raise
    return place


def _check_parts(place: Place) -> None:
    expect_local(place.directory, filesystem(place.path))
    place.check_parts()
    with open(place.at("namespace"), errors="replace") as file:
        made_in = file.read(1000)
    if made_in != _pid_namespace():
        raise HallRefused(
            f"hall {place.directory}: made in another container ({made_in:.80}); processes cannot be told apart; "
            "use a hall of this container's own"
        )


def _after_fork_in_child() -> None:
    global _hosts_gate
    _hosts_gate = threading.RLock()  # A thread that is not here may have held the other.


os.register_at_fork(after_in_child=_after_fork_in_child)


def remove_hall(directory: str) -> None:
    """Take a hall's directory away, in one step for everybody who looks."""
    aside = _aside(directory)
    with suppress(OSError):
        os.rename(directory, aside)
        _erase(aside)


def _aside(directory: str) -> str:
    parent, name = os.path.split(directory)
    return os.path.join(parent, f".gone-{os.getpid()}-{name}")  # No hall with a name begins with a dot.


def remove_unused(directory: str) -> bool:
    """Take a hall's directory away if nobody is in it. Returns whether it is gone."""
    aside = _aside(directory)
    try:
        if is_in_use(directory):
            return False
        os.rename(directory, aside)
    except FileNotFoundError:
        return True
    except HallRefused:
        raise
    except OSError:
        return False
    if is_in_use(aside):  # Somebody joined in between. Who joins later sees that it is not there, and makes another.
        os.rename(aside, directory)
        return False
    _erase(aside)
    return True


def is_in_use(directory: str) -> bool:
    """Whether anybody is in the hall, this process too. Raises FileNotFoundError if there is no such directory."""
    with _hosts_gate, Place(directory) as place:  # Closing a members file that we are written in would take us out.
        if place.key in _hosts:
            return True
        members = Members(place.at("members"))
        try:
            return members.anybody()
        finally:
            members.close()


def _erase(directory: str) -> None:
    """Remove a hall that nobody can find any more, with the blobs that it has elsewhere."""
    import shutil  # Here, because it loads three compression libraries, and workers need none of this.

    with suppress(OSError), Place(directory) as place:
        for name in os.listdir(place.at("blobs")):
            _remove_blob(place.at("blobs", name))
    shutil.rmtree(directory, ignore_errors=True)


def _remove_blob(path: str) -> None:
    """Remove a blob, which may be a link to a file that has its room elsewhere."""
    with suppress(OSError):
        elsewhere = os.readlink(path)
        if os.path.basename(elsewhere).startswith("guildhall-"):  # As those are called that we make.
            os.unlink(elsewhere)
    with suppress(OSError):
        os.unlink(path)


def private_directory() -> str:
    """A directory name for a hall of this process alone and its workers. Sweeps what dead ones left."""
    root = home()
    sweep(root)
    return os.path.join(root, f"private-{os.getpid()}-{time.time_ns():x}")


def sweep(root: str) -> list[str]:
    """Remove private halls whose last member died. Returns what is gone."""
    return [path for path in leftovers(root) if _clear(path)]


def leftovers(root: str) -> Iterator[str]:
    """Private halls whose last member died, and what is left of halls that were being made or removed."""
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.startswith(".gone-") or (name.startswith(".new-") and not _is_running(name.split("-")[1])):
            yield path
        elif name.startswith("private-") and not _is_being_made(name):
            with suppress(OSError):
                if not is_in_use(path):
                    yield path


def _clear(path: str) -> bool:
    if os.path.basename(path).startswith("."):
        _erase(path)
        return not os.path.exists(path)
    with suppress(OSError):
        return remove_unused(path)
    return False


def _is_being_made(name: str) -> bool:
    """Whether the maker of a private hall may not be in it yet; not for long, as its number is used again."""
    _, pid, made_ns = name.split("-")
    return _is_running(pid) and time.time_ns() - int(made_ns, 16) < MAKING_NS


def _is_running(pid: str) -> bool:
    return pid.isdigit() and os.path.exists(f"/proc/{pid}")
