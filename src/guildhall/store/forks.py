"""Telling a forked child from its parent at the price of a memory read.

Asking the kernel for the process id costs as much as a third of a transaction. So a mark is a page that the kernel
empties in a forked child (MADV_WIPEONFORK, Linux 4.14), whoever forked: Python's hooks miss a fork made by a C library.
"""

from __future__ import annotations

import mmap
import os
from typing import Protocol

_MADV_WIPEONFORK = 18


class Mark(Protocol):
    """`mark[0]` is 1 in the process that made the mark, 0 in every child forked since."""

    def __getitem__(self, index: int, /) -> int: ...


class _SameProcess:
    """The slow mark, where there are no such pages."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return int(os.getpid() == self._pid)


NO_MARK: Mark = b"\0"
"""The mark of no process."""


def mark() -> Mark:
    """The mark of this process."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, AttributeError):
        return _SameProcess()
    page[0] = 1
    return page
