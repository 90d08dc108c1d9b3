"""A hall's directory, held by a descriptor: what was checked is what is used.

A path is looked up anew at every use, and where others may rename things (in a shared directory that is not sticky, or
that is theirs) it may lead to another directory each time. Here it is opened once and its owner and mode are those of
what was opened; every file of the hall is reached through the descriptor. Nobody else can make a directory that belongs
to this user and that only this user may enter, nor put anything into one: so nothing in it is anybody else's.

The way to it is walked link by link: a link that another user put where anybody may put one is not followed, as the
kernel would not (`fs.protected_symlinks`) if it were asked.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress

from ..errors import HallDamaged, HallRefused

MAX_LINKS = 40
_close = os.close  # At the end of the interpreter a module may be gone before the last object.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "fuse.sshfs", "afs"}
_MEMORY = {"tmpfs", "ramfs"}
_FILES = ("namespace", "guard", "lock.mdb", "data.mdb")
_DIRECTORIES = ("bells", "blobs")
_LATER = ("members", "ballast")
"""Files that may not be there."""


class Place:
    """A directory that is this user's alone. `path` leads to it, whatever becomes of its name, until `close`.

    Raises HallRefused when it cannot be trusted.
    """

    _fd = -1

    def __init__(self, directory: str) -> None:
        _expect_ours(directory, os.lstat(directory))
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(self._fd)
            _expect_ours(directory, found)
        except BaseException:
            self.close()
            raise
        self.directory = directory
        self.key = found.st_dev, found.st_ino
        """What tells it from every other one, also from a later one of the same name."""
        self.path = f"/proc/self/fd/{self._fd}"

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def at(self, *names: str) -> str:
        """The path of something in it."""
        return os.path.join(self.path, *names)

    @property
    def is_in_memory(self) -> bool:
        """Whether it is on a memory file system."""
        return is_in_memory(self.path)

    def check_parts(self) -> None:
        """Refuse a hall of which a part is gone, or is something else than what we make."""
        for name in (*_FILES, *_DIRECTORIES, *_LATER):
            try:
                found = os.lstat(self.at(name))
            except FileNotFoundError:
                if name in _LATER:
                    continue
                raise HallDamaged(
                    f"hall {self.directory}: its {name} is gone; remove the directory to begin anew"
                ) from None
            is_right = stat.S_ISDIR if name in _DIRECTORIES else stat.S_ISREG
            if not is_right(found.st_mode) or found.st_uid != os.getuid():
                kind = "directory" if name in _DIRECTORIES else "file"
                raise HallDamaged(
                    f"hall {self.directory}: its {name} is not a {kind} of this user's; "
                    "remove the directory to begin anew"
                )

    def close(self) -> None:
        """Twice is once. Nothing is found through `path` from here on."""
        fd, self._fd = self._fd, -1
        self.path = "/proc/self/fd/-1"
        if fd >= 0:
            _close(fd)

    def __del__(self) -> None:
        self.close()


def trust(path: str, found: os.stat_result) -> None:
    """Refuse a directory that another user owns or may enter, or that is on a network file system."""
    _expect_ours(path, found)
    expect_local(path, filesystem(path))


def expect_local(path: str, kind: str) -> None:
    """Refuse a file system that is shared with other machines."""
    if kind in _NETWORK:
        raise HallRefused(f"hall directory {path}: on {kind}, a network file system; use a local one")


def expect_owner(path: str, found: os.stat_result) -> None:
    """Refuse what another user owns."""
    if found.st_uid != os.getuid():
        raise HallRefused(
            f"hall directory {path}: owned by user {found.st_uid}, expected {os.getuid()}; "
            "remove it or set GUILDHALL_HOME to a directory of your own"
        )


def _expect_ours(path: str, found: os.stat_result) -> None:
    expect_owner(path, found)
    if not stat.S_ISDIR(found.st_mode):
        raise HallRefused(f"hall directory {path}: expected a directory, not a link or a file")
    if found.st_mode & 0o077:
        raise HallRefused(f"hall directory {path}: mode {found.st_mode & 0o777:o}, expected 700; run chmod 700 on it")


def filesystem(path: str) -> str:
    """The type of the file system that the path is on, "" if unknown."""
    best, kind = "", ""
    real = os.path.realpath(path)
    with suppress(OSError), open("/proc/self/mountinfo", "rb") as table:
        for raw in table:
            left, _, right = raw.partition(b" - ")
            mount = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes((int(octal[1], 8),)), left.split()[4]))
            if len(mount) >= len(best) and (real == mount or real.startswith(mount.rstrip("/") + "/")):
                best, kind = mount, right.split()[0].decode()
    return kind


def is_in_memory(directory: str) -> bool:
    """Whether it is on a memory file system."""
    return filesystem(directory) in _MEMORY


def resolved(path: str) -> str:
    """The path without links and dots. What is not there stands at its end as it is.

    Raises HallRefused for a link that another user put where anybody may, and for a loop of links.
    """
    here = "/"
    ahead = [*reversed((path if os.path.isabs(path) else os.path.join(_working_directory(path), path)).split("/"))]
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = os.path.dirname(here)
        if name in ("", ".", ".."):
            continue
        at = os.path.join(here, name)
        target = _target(here, at)
        if target is None:
            here = at
            continue
        links += 1
        if links > MAX_LINKS:
            raise HallRefused(f"hall {path}: a loop of links")
        if target.startswith("/"):
            here = "/"
        ahead.extend(reversed(target.split("/")))
    return here


def _working_directory(path: str) -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise HallRefused(f"hall {path}: the working directory is gone; give a path that begins with /") from None


def _target(above: str, path: str) -> str | None:
    """Where a link leads; None if it is none."""
    try:
        found = os.lstat(path)
        if not stat.S_ISLNK(found.st_mode):
            return None
        around = os.stat(above)
        target = os.readlink(path)
    except OSError:  # Not there, or not ours to look at: whoever opens it says so.
        return None
    if around.st_mode & 0o002 and found.st_uid not in (0, os.getuid(), around.st_uid):
        raise HallRefused(
            f"hall directory {path}: a link that user {found.st_uid} has put where anybody may; "
            "choose a directory of your own"
        )
    return target


def make_way(directory: str) -> None:
    """Make the directory and those above it that are not there, for this user alone whatever the umask is."""
    above = os.path.dirname(directory)
    if above != directory and not os.path.isdir(above):
        make_way(above)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
