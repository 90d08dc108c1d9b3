"""Copying large buffers into a shared-memory file at the speed of memory.

Shared memory comes in pages of 4 KiB, and making them costs more than copying. Linux collapses them into pages of 2 MiB
on request (MADV_COLLAPSE, since 6.1), whatever the system's default, if file and address are aligned. Where that does
not work the caller writes as usual.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

from .mapping import BOTH, Area, libc

HUGE = 2 << 20
WORTH_BYTES = 8 << 20
_MADV_COLLAPSE = 25
_MAP_FIXED = 0x10


def copy(fd: int, buffer: memoryview, at: int) -> bool:
    """Copy the buffer into the file from `at` on. False if that has to be done by writing.

    Every page is there before it is touched, so a full file system cannot end in a signal.
    """
    if buffer.readonly or at % HUGE or buffer.nbytes < WORTH_BYTES:
        return False
    size = -(-buffer.nbytes // HUGE) * HUGE
    try:
        os.ftruncate(fd, at + size)
        for place in range(at, at + size, HUGE):
            os.pwrite(fd, b"\0", place)
    except OSError:
        return False
    area = Area(size + HUGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = -(-area.at // HUGE) * HUGE
    if not area.at or libc().mmap(base, size, BOTH, mmap.MAP_SHARED | _MAP_FIXED, fd, at) != base:
        return False
    return _copy_in_two(area, base, buffer, size)


def _copy_in_two(area: Area, base: int, buffer: memoryview, size: int) -> bool:
    """Collapse and fill, half of it in a second thread: neither holds the interpreter's lock.

    Each keeps the area and the buffer: after Ctrl-C the other may still be copying.
    """
    source = ctypes.c_char.from_buffer(buffer)
    failed: list[int] = []

    def fill(area: Area, source: ctypes.c_char, start: int, end: int) -> None:
        for place in range(start, end, HUGE):
            if failed or libc().madvise(base + place, HUGE, _MADV_COLLAPSE):
                failed.append(place)
                return
            at = ctypes.addressof(source) + place
            libc().memmove(base + place, at, min(HUGE, buffer.nbytes - place))

    half = size // HUGE // 2 * HUGE
    other = threading.Thread(target=fill, args=(area, source, half, size))
    other.start()
    try:
        fill(area, source, 0, half)
        other.join()
    except BaseException:
        failed.append(size)
        raise
    area.give_back()  # Not left to __del__: it takes milliseconds, and Python ignores Ctrl-C in a finalizer.
    return not failed
