"""Looking into a hall without being in it: no session, no number used up, nobody woken, nothing laid or cleaned up.

The store is opened only to be read. A process that is in the hall already, or joins it later, looks with what it has
there: a second environment of one store is refused, and closing a second descriptor of the members file would end what
the first one tells.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from ..errors import Broken, HallRefused, Misuse
from ..store.lmdb import LmdbStore, Reader, Usage
from . import embedded
from .embedded import EmbeddedHost
from .liveness import Members
from .place import Place, resolved

T = TypeVar("T")


class BlobFile(NamedTuple):
    """A file of a large value: its name says who wrote it for which object. `is_elsewhere`: in the temporary directory,
    and here is a link to it."""

    name: str
    size_bytes: int
    changed_at: float
    is_elsewhere: bool


def blob_files(directory: str) -> list[BlobFile]:
    """The files of large values that the hall at the directory has."""
    found = []
    with os.scandir(os.path.join(directory, "blobs")) as entries:
        for entry in entries:
            with suppress(OSError):  # It has gone meanwhile.
                is_link = entry.is_symlink()
                stat = entry.stat(follow_symlinks=is_link and os.path.exists(entry.path))
                found.append(BlobFile(entry.name, stat.st_size, stat.st_mtime, is_link))
    return found


class Looking(Protocol):
    """What can be looked at, of a hall that this process is in and of any other."""

    directory: str

    def read(self, op: Callable[..., T], *args: Any) -> T:
        """Run an op that only reads, on a snapshot. Let it be short: what it could look at is kept as long."""

    def is_alive(self, session: int) -> bool:
        """Whether the process of the session is there."""

    def revision(self) -> int:
        """The number of a commit that every read which begins from now on sees."""

    def usage(self) -> Usage:
        """What the store takes of the room that it has."""

    def readers(self) -> list[Reader]:
        """Every slot of the store's table of readers, also those of processes that died."""


class _Outside:
    """A hall that this process is not in, for all in this process who look into it."""

    def __init__(self, directory: str) -> None:
        self.looking = 0
        self.is_closed = False
        self._members: Members | None = None
        self._place = Place(directory)
        try:
            with suppress(FileNotFoundError):  # Nobody has ever been in it.
                self._members = Members(self._place.at("members"), may_make=False)
            in_memory = self._place.is_in_memory
            self.store = LmdbStore(directory, at=self._place.path, in_memory=in_memory, is_read_only=True)
        except BaseException as error:
            self._close_members()
            if isinstance(error, OSError) and not isinstance(error, Broken | FileNotFoundError):
                part = os.path.basename(error.filename or "store")
                raise HallRefused(
                    f"hall {directory}: its {part} cannot be looked at: {error.strerror or error}; "
                    "make it readable and writable for this user, or choose another hall"
                ) from error
            raise

    def read(self, op: Callable[..., T], *args: Any) -> T:
        """A reader that is held up keeps pages of the store: so we begin when it is our turn, and Ctrl-Z waits."""
        os.sched_yield()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        try:
            return self.store.read(op, *args)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def is_alive(self, session: int) -> bool:
        return self._members is not None and self._members.is_alive(session)

    def close(self) -> None:
        with self.store.gate:
            self.is_closed = True
            self.store.close()
            self._close_members()

    def _close_members(self) -> None:
        if self._members is not None:
            self._members.close()
        self._place.close()


class Observer:
    """Looks into one hall. Raises HallRefused and HallDamaged as opening it does, Misuse when it was closed."""

    def __init__(self, directory: str) -> None:
        self.directory = resolved(directory)
        self._is_open = True
        try:
            embedded.check(self.directory)
            self._key = embedded.key_of(self.directory)
        except OSError as error:
            if isinstance(error, Broken):
                raise
            raise HallRefused(f"hall {self.directory}: it cannot be looked at: {error.strerror or error}") from error
        self._eyes: EmbeddedHost | _Outside | None = None
        self._open_eyes()

    def _open_eyes(self) -> EmbeddedHost | _Outside:
        with embedded.gate():
            if not self._is_open:
                raise Misuse(f"hall {self.directory}: the observer is closed; observe it again")
            eyes = self._eyes
            if eyes is None or (isinstance(eyes, _Outside) and eyes.is_closed):
                self._eyes = eyes = embedded.look_into(self.directory, self._key, _Outside)
                if isinstance(eyes, _Outside):
                    eyes.looking += 1
            return eyes

    def _look(self, inside: Callable[[EmbeddedHost], T], outside: Callable[[_Outside], T]) -> T:
        while True:
            eyes = self._eyes or self._open_eyes()
            if isinstance(eyes, EmbeddedHost):
                return inside(eyes)
            with eyes.store.gate:
                if not eyes.is_closed:
                    return outside(eyes)
            self._open_eyes()

    def read(self, op: Callable[..., T], *args: Any) -> T:
        return self._look(lambda host: host.read(op, *args), lambda eyes: eyes.read(op, *args))

    def is_alive(self, session: int) -> bool:
        return self._look(lambda host: host.is_alive(session), lambda eyes: eyes.is_alive(session))

    def revision(self) -> int:
        return self._look(lambda host: host.revision(), lambda eyes: eyes.store.revision())

    def usage(self) -> Usage:
        return self._look(lambda host: host.usage(), lambda eyes: eyes.store.usage())

    def readers(self) -> list[Reader]:
        return self._look(lambda host: host.readers(), lambda eyes: eyes.store.readers())

    def close(self) -> None:
        """Look no more. Twice is once."""
        with embedded.gate():
            self._is_open = False
            eyes, self._eyes = self._eyes, None
            if isinstance(eyes, _Outside):
                eyes.looking -= 1
                if not eyes.looking:
                    embedded.look_no_more(self._key, eyes)
        if isinstance(eyes, EmbeddedHost):
            eyes.close()
