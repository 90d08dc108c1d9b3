"""Words of shared memory that outlive the process: what a thread has received, told without a commit.

An op commits in the store that it handed something to a thread; only the thread knows whether that arrived. It writes
the number of its call into a word of its own, as the last thing that the call does: a store into memory that is mapped
from a file, which stays when the process is killed. Whoever buries the session reads the words.

A forked child has a session and so a file of its own. What was written is not on disk: after a loss of power the last
call of each thread counts as not arrived.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import MutableSequence, Sequence
from contextlib import suppress
from weakref import WeakSet

from ..store.keys import pack_int

LANES = 512
"""So many threads of a process at a time have a word; a file is one page."""


class Lane:
    """One thread's word. A call takes the next number, and when it is over writes it: `words[index] = number`.

    So `number` is above the word while a call is under way that may have been handed something, and only then. `step`
    is 1; or 0 where there is no word in shared memory: then all calls have number 0. `key` names the lane in the hall.
    `spent` is for the caller: a key that its next call will delete, or that of the thread which has the word next.
    """

    __slots__ = ("__weakref__", "_free", "index", "key", "number", "session", "spent", "step", "words")

    def __init__(
        self,
        session: int,
        words: MutableSequence[int],
        index: int,
        free: deque[tuple[int, bytes]] | None,
        spent: bytes = b"",
    ) -> None:
        self.session = session
        self.key = pack_int(session) + pack_int(index)
        self.spent = spent
        self.words = words
        self.index = index
        self.number = words[index]
        self.step = 0 if free is None else 1
        self._free = free

    def __del__(self) -> None:
        """With its thread; the next thread goes on with the number, first of all free ones: it deletes what is spent.

        Not if a call never came to its end.
        """
        if self._free is not None and self.number == self.words[self.index]:
            self._free.appendleft((self.index, self.spent))


class Marks:
    """The words of one session. The file is made by the first thread that needs it."""

    def __init__(self, path: str, session: int) -> None:
        self._path = path
        self._session = session
        self.mine = threading.local()
        self._gate = threading.Lock()
        self._free: deque[tuple[int, bytes]] | None = None
        self.no_lane = Lane(session, [0], 0, None)
        """For calls that have no word."""
        self._words: MutableSequence[int] = []
        self._lanes: WeakSet[Lane] = WeakSet()

    def new_lane(self) -> Lane:
        """A word for this thread, from now on `mine.lane`."""
        with self._gate:
            self.mine.lane = lane = self._free_lane()
            self._lanes.add(lane)
        return lane

    def reserve(self) -> Lane | None:
        """A word that no call gets: who has it writes there what it likes. None if there is no room."""
        with self._gate:
            lane = self._free_lane()
            if not lane.step:
                return None
            lane.number = -1  # Never equal to its word: it does not come back.
            self._lanes.add(lane)
        return lane

    def _free_lane(self) -> Lane:
        if self._free is None:
            with suppress(OSError):  # No room: then the calls are as without marks.
                self._words = _mapped(self._path)
                self._free = deque((index, b"") for index in range(LANES))
        if self._free:
            index, spent = self._free.popleft()
            return Lane(self._session, self._words, index, self._free, spent)
        return self.no_lane

    def close(self) -> None:
        """Remove the file and unmap it: its file system may be unmounted next. A call that still runs marks nothing."""
        with self._gate:
            words, self._words = self._words, []
            for lane in self._lanes:
                lane.words = list(words)
            if isinstance(words, memoryview):
                memory = words.obj
                words.release()
                with suppress(BufferError):
                    memory.close()
                with suppress(OSError):
                    os.unlink(self._path)

    def words(self) -> Sequence[int]:
        """As `read` gives them for a session that is dead."""
        return self._words


def _mapped(path: str) -> MutableSequence[int]:
    try:
        return mapped(path, LANES)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise


def mapped(path: str, count: int) -> MutableSequence[int]:
    """So many words in a file, which is made if it is not there. Raises OSError without room for it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(fd, 0, 8 * count)  # A page that is not there would be a signal.
        return memoryview(mmap.mmap(fd, 8 * count)).cast("q")  # type: ignore[return-value]
    finally:
        os.close(fd)


def read(path: str) -> Sequence[int]:
    """The words that a dead session left, by lane; none if it had no file, or that is none of ours."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    with open(fd, "rb") as file:
        data = file.read(8 * LANES)
    return memoryview(data[: len(data) & ~7]).cast("q").tolist()
