"""Large values: a pickle and its out-of-band buffers, written once into a file that every process maps."""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from ...errors import StoreFull
from ...hosts.embedded import EmbeddedHost
from . import hugepages

ALIGN = 64
BLOB = b"B"
_numbers = itertools.count(1)


def write(host: EmbeddedHost, pickled: bytes, buffers: Sequence[pickle.PickleBuffer]) -> tuple[bytes, str]:
    """Place a value. Returns what to store for it and the blob's name; raises StoreFull if there is room nowhere."""
    host.flush()
    parts = [memoryview(pickled), *(buffer.raw() for buffer in buffers)]
    name = f"{host.session}-{next(_numbers)}"
    for blob in (name, spilled(host.directory, name)):
        path = host.blob_path(blob)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            end = 1
            for part, at in zip(parts, _places([part.nbytes for part in parts]), strict=True):
                if not hugepages.copy(fd, part, at):
                    _write_all(fd, part, at)
                end = at + part.nbytes
            os.ftruncate(fd, max(end, 1))
            return BLOB + msgspec.msgpack.encode((blob, [part.nbytes for part in parts])), blob
        except OSError as error:
            os.unlink(path)
            failure = error
        finally:
            os.close(fd)
    raise StoreFull(failure.errno, f"a value of {sum(p.nbytes for p in parts)} bytes: no room in memory or on disk")


def spilled(directory: str, name: str) -> str:
    """Where a hall's blob goes that finds no room in memory."""
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"guildhall-{os.getuid()}-{os.path.basename(directory)}-{name}")


def remove_spilled(directory: str) -> None:
    """Remove all spilled blobs of a hall that is gone."""
    place, prefix = os.path.split(spilled(directory, ""))
    with suppress(OSError):
        for name in os.listdir(place):
            if name.startswith(prefix):
                os.unlink(os.path.join(place, name))


def _places(sizes: Sequence[int]) -> list[int]:
    """Where each part begins in the file: large ones where huge pages do."""
    places = []
    end = 0
    for size in sizes:
        align = hugepages.HUGE if size >= hugepages.WORTH_BYTES else ALIGN
        places.append(-(-end // align) * align)
        end = places[-1] + size
    return places


def _write_all(fd: int, part: memoryview, at: int) -> None:
    done = 0
    while done < part.nbytes:
        done += os.pwrite(fd, part[done : done + (1 << 30)], at + done)


def read(host: EmbeddedHost, data: bytes) -> Any:
    """The value: its buffers are mapped copy-on-write, so it is writable and shared until written."""
    blob, sizes = msgspec.msgpack.decode(data[1:])
    fd = os.open(host.blob_path(blob), os.O_RDONLY | os.O_CLOEXEC)
    try:
        mapped = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    view = memoryview(mapped)
    parts = [view[at : at + size] for size, at in zip(sizes, _places(sizes), strict=True)]
    return pickle.loads(parts[0], buffers=parts[1:])
