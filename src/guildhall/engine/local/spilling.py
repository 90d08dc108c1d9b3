"""How much memory large values may take, and what is moved to disk when they take more: what was not read for longest.

A blob that moves is a link first, with the name of one that is being moved, so that whoever removes the hall finds its
new file; then a copy; then the link takes the place of the file, in one step. Who has the value mapped keeps what it
has mapped; who opens it later follows the link.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress

from ...errors import StoreFull
from ...hosts.embedded import EmbeddedHost
from ...primitives import values

MOVING = "."
"""Before the name of a blob: the link that it will be."""


def place() -> str:
    """A path on disk for a blob."""
    return os.path.join(tempfile.gettempdir(), f"guildhall-{os.getuid()}-{uuid.uuid4().hex}")


def make_room(host: EmbeddedHost, size_bytes: int) -> None:
    """See that a blob of that size fits the hall's budget, if it has one. Raises StoreFull if it alone does not.

    Who writes at the same time may be over it by what the others write just now.
    """
    budget = host.read(values.budget)
    if budget is None:
        return
    if size_bytes > budget:
        raise StoreFull(
            28, f"a value of {size_bytes} bytes is larger than the blob_budget of {budget}; raise that, or pass parts"
        )
    in_memory = sorted(_in_memory(host))
    excess = sum(size for _, size, _ in in_memory) + size_bytes - budget
    for _, size, name in in_memory:
        if excess <= 0:
            return
        if move(host, name):
            excess -= size


def _in_memory(host: EmbeddedHost) -> Iterator[tuple[float, int, str]]:
    """When each blob in memory was read last, its size in bytes, its name."""
    with suppress(FileNotFoundError), os.scandir(host.blob_path("")) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    yield stat.st_atime, stat.st_size, entry.name


def move(host: EmbeddedHost, name: str) -> bool:
    """Move a blob to disk. False if it is gone or not yet anybody's, is there already, or somebody else moves it."""
    path, moving, target = host.blob_path(name), host.blob_path(MOVING + name), place()
    try:
        os.symlink(target, moving)
    except OSError:
        return False
    try:
        if os.path.islink(path) or host.read(values.is_litter, name):  # Looked at second: nobody else moves it now.
            raise FileNotFoundError(path)
        _copy(path, target)
        os.rename(moving, path)
    except BaseException as error:
        for leftover in (target, moving):
            with suppress(OSError):
                os.unlink(leftover)
        if not isinstance(error, OSError):
            raise
        return False
    if host.read(values.is_litter, name):  # It went meanwhile, and whoever removed it may not have seen the link.
        for leftover in (target, path):
            with suppress(OSError):
                os.unlink(leftover)
    return True


def _copy(path: str, target: str) -> None:
    """Into a file that is new and, from its first byte on, for this user alone: others look into a temporary
    directory, and who has opened a file goes on reading it."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as copy, open(path, "rb") as blob:
        shutil.copyfileobj(blob, copy)
