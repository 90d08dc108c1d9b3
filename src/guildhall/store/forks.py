"""Telling a forked child from its parent at the price of a memory read.

Asking the kernel for the process id costs as much as half a transaction. So a mark is a page that the kernel empties in a
forked child (MADV_WIPEONFORK, Linux 4.14), whoever forked: Python's hooks miss a fork made by a C library.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence

_MADV_WIPEONFORK = 18


class _SameProcess(Sequence[int]):
    """The slow mark, where there are no such pages."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: object) -> int:  # type: ignore[override]
        return int(os.getpid() == self._pid)

    def __len__(self) -> int:
        return 1


def mark() -> Sequence[int]:
    """A sequence whose first element is 1 in this process and 0 in every child forked from now on."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(_MADV_WIPEONFORK)
    except (OSError, AttributeError):
        return _SameProcess()
    page[0] = 1
    return page
