"""Large values: a pickle and its out-of-band buffers, written once into a file that every process maps."""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ...errors import HallDamaged, StoreFull
from ...hosts.embedded import EmbeddedHost, synchronize
from ...store.records import UNREADABLE
from . import hugepages, mapping

ALIGN = 64
BLOB = b"B"
_DESCRIPTION = msgspec.msgpack.Decoder(tuple[str, list[int]])
FAR = b"F"
"""How the stored value begins of one that is in pieces at a hall which is far."""
_numbers = itertools.count(1)


def write(host: EmbeddedHost, oid: bytes, pickled: bytes, buffers: Sequence[pickle.PickleBuffer]) -> tuple[bytes, str]:
    """Place the value of an object. Returns what to store for it and the blob's name; raises StoreFull if there is
    room nowhere.

    The name says who writes it and for which object: so whoever buries a writer finds what it left unfinished. When
    the hall has no room, the blob is a link to a file in the temporary directory. The link is there before the file
    is: so whoever removes the hall finds every file that belongs to it. In a durable hall it is on disk before this
    returns, and never elsewhere: a temporary directory may be empty when the machine starts again.
    """
    host.settle()  # Room first: what was let go may be as large.
    if host.is_far:
        parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
        name = f"{host.session}-{next(_numbers)}-{oid.hex()}"
        return FAR + msgspec.msgpack.encode((name, host.lay(name, parts), sum(part.nbytes for part in parts))), name
    from . import spilling  # Which a worker without large values does not need.

    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    spilling.make_room(host, _end([part.nbytes for part in parts]))
    name = f"{host.session}-{next(_numbers)}-{oid.hex()}"
    path = host.blob_path(name)
    spill = spilling.place()
    for place in (path,) if host.is_durable else (path, spill):
        try:
            if place is spill:
                os.symlink(spill, path)
            fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _fill(fd, parts)
                if host.is_durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            if host.is_durable:
                synchronize(os.path.dirname(path))
            return BLOB + msgspec.msgpack.encode((name, [part.nbytes for part in parts])), name
        except BaseException as error:
            host.remove_blob(name)
            if not isinstance(error, OSError):
                raise
            failure = error
    raise StoreFull(failure.errno, f"a value of {sum(p.nbytes for p in parts)} bytes: no room in memory or on disk")


def _fill(fd: int, parts: Sequence[memoryview]) -> None:
    end = 1
    for part, at in zip(parts, _places([part.nbytes for part in parts]), strict=True):
        if not hugepages.copy(fd, part, at):
            _write_all(fd, part, at)
        end = at + part.nbytes
    os.ftruncate(fd, max(end, 1))


def _places(sizes: Sequence[int]) -> list[int]:
    """Where each part begins in the file: large ones where huge pages do."""
    places = []
    end = 0
    for size in sizes:
        align = hugepages.HUGE if size >= hugepages.WORTH_BYTES else ALIGN
        places.append(-(-end // align) * align)
        end = places[-1] + size
    return places


def _end(sizes: Sequence[int]) -> int:
    """How large the file becomes."""
    return _places(sizes)[-1] + sizes[-1]


def _write_all(fd: int, part: memoryview, at: int) -> None:
    done = 0
    while done < part.nbytes:
        done += os.pwrite(fd, part[done : done + (1 << 30)], at + done)


def read(host: EmbeddedHost, data: bytes) -> Any:
    """The value: its buffers are mapped copy-on-write, so it is writable and shared until written."""
    if data[:1] == FAR:
        blob, places, _ = msgspec.msgpack.decode(data[1:])
        whole = host.fetch(blob, places)
        return pickle.loads(whole[0], buffers=whole[1:])
    blob, sizes = _described(host, data)
    fd = _open(host, blob)
    try:
        size = os.fstat(fd).st_size
        if min(sizes) < 0 or size < max(_end(sizes), 1):
            raise HallDamaged(f"hall {host.directory}: blob {blob} is cut short; scatter or compute its value anew")
        view = mapping.private(fd, size)
        with suppress(OSError):  # What was read lately is moved to disk last.
            os.utime(fd)
    finally:
        os.close(fd)
    parts = [view[at : at + size] for size, at in zip(sizes, _places(sizes), strict=True)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _described(host: EmbeddedHost, data: bytes) -> tuple[str, list[int]]:
    """The name of a blob and the sizes of its parts."""
    try:
        blob, sizes = _DESCRIPTION.decode(data[1:])
        if sizes and "/" not in blob:
            return blob, sizes
    except UNREADABLE:
        pass
    raise HallDamaged(f"hall {host.directory}: a large value has lost its file's name; scatter or compute it anew")


def _open(host: EmbeddedHost, blob: str) -> int:
    """A blob's file, for reading. What another user put in its place, in a directory where others may, is not read."""
    try:
        fd = os.open(host.blob_path(blob), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ELOOP):
            raise
        raise HallDamaged(f"hall {host.directory}: blob {blob} is gone; scatter or compute its value anew") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        raise HallDamaged(f"hall {host.directory}: blob {blob} is not as this user wrote it; scatter its value anew")
    return fd


def size_bytes(data: bytes) -> int:
    """How large the value is, without a look at its file."""
    found = msgspec.msgpack.decode(data[1:])
    return found[2] if data[:1] == FAR else sum(found[1])
