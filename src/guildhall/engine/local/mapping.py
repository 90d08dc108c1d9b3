"""Memory mapped with the C library's own calls: for what the module `mmap` does not offer.

A mapping of Python's keeps a descriptor of its file as long as it lives (before Python 3.13 in any case), so a thousand
large results would take a thousand of them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from functools import cache

_FAILED = ctypes.c_void_p(-1).value
BOTH = mmap.PROT_READ | mmap.PROT_WRITE


@cache
def libc() -> ctypes.CDLL:
    """The C library, its calls about memory declared."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.memmove.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return library


class Area:
    """A piece of the address space, given back when nobody refers to it any more. `at` is 0 if there was none."""

    at = 0

    def __init__(self, size: int, protection: int, flags: int, fd: int = -1) -> None:
        self._libc = libc()  # Kept, because at the end of the process the module may be gone first.
        self._size = size
        at = self._libc.mmap(None, size, protection, flags, fd, 0)
        if at not in (None, _FAILED):
            self.at = at

    def give_back(self) -> None:
        """Unmap. Twice is once."""
        at, self.at = self.at, 0
        if at:
            self._libc.munmap(at, self._size)

    def __del__(self) -> None:
        self.give_back()


def private(fd: int, size: int) -> memoryview:
    """The file's first `size` bytes, copied on write; unmapped with the last view of them. Raises OSError."""
    area = Area(size, BOTH, mmap.MAP_PRIVATE, fd)
    if not area.at:
        code = ctypes.get_errno()
        raise OSError(code, f"{size} bytes of a blob cannot be mapped: {os.strerror(code)}")
    bytes_there = (ctypes.c_char * size).from_address(area.at)
    bytes_there.area = area  # type: ignore[attr-defined]
    return memoryview(bytes_there).cast("B")
