"""The clock of the package, turned by hand: what it takes for the time is what somebody else says it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from .. import deadline

Now = Callable[[], int]
"""Answers nanoseconds."""


@contextmanager
def turned_by_hand(monotonic_ns: Now, wall_ns: Now | None = None) -> Iterator[None]:
    """Until the end of this, the package reads these clocks, in every thread of this process and in what it forks.

    Modules keep readers of the clock under names of their own, for speed: all are found, and put back. `wall_ns` is
    the time since 1970, that others may step; by default it goes with the other.
    """
    played = _Played(monotonic_ns, wall_ns or monotonic_ns)
    here = vars(deadline)
    plain, found = here["time"], list(_readers())
    here["time"] = played.module
    for module, name, reader in found:
        setattr(module, name, played.instead[reader])
    try:
        yield
    finally:
        here["time"] = plain
        for module, name, reader in found:
            setattr(module, name, reader)


class _Played:
    """What stands in for the module `time`, and for each function of it."""

    def __init__(self, monotonic_ns: Now, wall_ns: Now) -> None:
        def monotonic() -> float:
            return monotonic_ns() / 1e9

        def wall() -> float:
            return wall_ns() / 1e9

        self.module = SimpleNamespace(monotonic=monotonic, monotonic_ns=monotonic_ns, time=wall, time_ns=wall_ns)
        self.instead = {time.monotonic: monotonic, time.time: wall}


def _readers() -> Iterator[tuple[Any, str, Any]]:
    """Where the package has the clock under a name of its own. What simulates is not simulated."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "guildhall" and not name.startswith(__package__):
            for attribute, value in list(vars(module).items()):
                if value is time.monotonic or value is time.time:
                    yield module, attribute, value
