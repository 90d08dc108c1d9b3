"""Who is alive, by kernel means: a byte of the members file for each session, locked as long as its process lives.

POSIX record locks are not inherited by fork and go with the process, however it ends. They also go when the process
closes any descriptor of the file: so it is opened once for each process and never closed while the session lasts.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
from contextlib import suppress

from ..store.records import MOST_SESSIONS

_FLOCK = struct.Struct("hhqqi")


class Members:
    """The members file of one hall, as one process holds it."""

    def __init__(self, path: str, *, may_make: bool = True) -> None:
        how = os.O_RDWR | os.O_CREAT if may_make else os.O_RDONLY
        self._fd = os.open(path, how | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def enter(self, session: int) -> None:
        """Lock the session's byte."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, session)

    def leave(self, session: int) -> None:
        """Unlock it: to others the session is dead from here on."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, session)

    def is_alive(self, session: int) -> bool:
        """Whether another process holds the session's byte. Never ask for a session of one's own."""
        return 0 < session < MOST_SESSIONS and self._is_locked(session, 1)

    def anybody(self) -> bool:
        """Whether any other process holds any byte."""
        return self._is_locked(0, 0)

    def _is_locked(self, start: int, size: int) -> bool:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Watch:
    """Readable when one of the watched processes has died; may be polled beside other descriptors."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pidfds: dict[int, int] = {}
        self.fd = self._epoll.fileno()

    def follow(self, pids: dict[int, int]) -> None:
        """Watch exactly these sessions, given with their process ids."""
        for session in self._pidfds.keys() - pids.keys():
            os.close(self._pidfds.pop(session))
        for session in pids.keys() - self._pidfds.keys():
            with suppress(OSError, AttributeError):  # Died already, or not Linux: found by looking.
                fd = os.pidfd_open(pids[session])
                self._epoll.register(fd, select.EPOLLIN)
                self._pidfds[session] = fd

    def fallen(self) -> bool:
        """Whether somebody died who has not been taken off the watch."""
        return bool(self._epoll.poll(0))

    def close(self) -> None:
        self.follow({})
        self._epoll.close()
