"""The mutex of LMDB's writers, seen from outside: who finds it taken looks for a moment before it sleeps there.

LMDB sleeps at once. Being woken takes a writer longer than most commits take, whoever lets the mutex go pays for it,
and by then another one often has it (docs/decisions/0015-writer-mutex.md). So its word is looked at first. Looking
takes nothing and promises nothing: LMDB alone says whose the mutex is.

What this file must not know: what is written, and by whom.

Closing any descriptor of `lock.mdb` drops the locks by which LMDB tells who has the store open. So the page is mapped
before the environment is opened, and unmapped behind its end.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Final

PLACE = 64
"""Where in `lock.mdb` the mutex lies: behind the first line of the header."""
OWNER: Final = 0x3FFFFFFF
"""Those of its bits that name the thread that has it. The others: somebody sleeps there, or has died with it."""
UNSEEN: Sequence[int] = (0,)
"""In place of the word where it cannot be looked at: it seems to be free."""
LOOKS = 400
"""So often in a row, some 15 us: most commits are over by then."""
TURNS = 100
"""And so often behind giving the core to whoever else can run: whose it is may be waiting for one."""

_FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of the system call, by machine."""
_EVERYBODY = 0x7FFFFFFF
_WAKE = 1


def _is_glibc() -> bool:
    """Elsewhere the word holds something else."""
    try:
        return sys.platform == "linux" and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False


_CAN_LOOK = _is_glibc() and len(os.sched_getaffinity(0)) > 1


class WriterMutex:
    """That of the store whose lock file is at the path. `word[0] & OWNER` is the thread that has it; 0: it is free."""

    def __init__(self, path: str) -> None:
        self.word = UNSEEN
        self._page: memoryview | None = None
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # LMDB has something to say about that.
            return
        try:
            self._page = memoryview(mmap.mmap(fd, mmap.PAGESIZE))
        except (OSError, ValueError):
            return
        finally:
            os.close(fd)
        if _CAN_LOOK:
            self.word = self._page[PLACE : PLACE + 4].cast("I")

    def rouse(self) -> None:
        """Wake all who sleep there."""
        if self._page is not None and sys.platform == "linux" and os.uname().machine in _FUTEX:
            place = ctypes.byref(ctypes.c_uint32.from_buffer(self._page, PLACE))
            ctypes.CDLL(None).syscall(_FUTEX[os.uname().machine], place, _WAKE, _EVERYBODY, None, None, 0)

    def close(self) -> None:
        """Only behind the end of the environment."""
        page, self._page = self._page, None
        if page is not None:
            if isinstance(self.word, memoryview):
                self.word.release()
            memory = page.obj
            page.release()
            memory.close()  # type: ignore[attr-defined]
        self.word = UNSEEN


def look(word: Sequence[int]) -> None:
    """Until the mutex is free, or it is time to sleep."""
    for _ in range(LOOKS):
        if not word[0] & OWNER:
            return
    for _ in range(TURNS):
        os.sched_yield()
        if not word[0] & OWNER:
            return
