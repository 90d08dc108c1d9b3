"""filelock: a lock on a file; what it guards is another file."""

from __future__ import annotations

from pathlib import Path

from lib.peer import Peer, does
from lib.timing import Call

from .files import folder


class FileLock(Peer):
    name = "filelock"
    package = "filelock"
    imports = "filelock"

    def inherit(self) -> None:
        import filelock

        self.lib = filelock
        self.folder = folder()
        self.file, self.path = Path(self.folder.name, "n"), Path(self.folder.name, "lock")
        self.file.write_text("0")

    def stop(self) -> None:
        self.folder.cleanup()

    @does("lock")
    def lock(self, x: int) -> Call:
        lock = self.lib.FileLock(self.path)
        return lambda: (lock.acquire(), lock.release())

    @does("add", "increments", "adds")
    def increment(self, number: int) -> Call:
        lock = self.lib.FileLock(self.path)

        def increment() -> None:
            lock.acquire()
            self.file.write_text(str(int(self.file.read_text()) + 1))
            lock.release()

        return increment
