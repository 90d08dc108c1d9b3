"""Which hall is meant when none is given: the task's, else the newest client's, else the one GUILDHALL names."""

from __future__ import annotations

import os
from typing import Protocol

from .embedded import EmbeddedHost

now: EmbeddedHost | None = None
"""The hall that is meant, if anything says which. A variable, because every operation of a handle asks."""
task: EmbeddedHost | None = None
"""In a worker, its hall."""


class Run(Protocol):
    """What a thread of a worker works on: the object of the task that runs now, and what was begun before it."""

    @property
    def current(self) -> bytes | None: ...

    @property
    def around(self) -> Run | None: ...


runs: dict[int, Run] = {}
"""In a worker, what each of its threads works on."""
has_guests = False
"""Whether other functions than tasks were run in this worker: they may give back what they took at any time."""
os.register_at_fork(after_in_child=runs.clear)
_defaults: list[EmbeddedHost] = []


def enter_task(host: EmbeddedHost) -> None:
    """From now on this process runs tasks in the hall."""
    global task
    task = host
    _choose()


def add_default(host: EmbeddedHost, *, is_last_choice: bool = False) -> None:
    """A hall to be meant: from now on, or if there is no other."""
    _defaults.insert(0 if is_last_choice else len(_defaults), host)
    _choose()


def remove_default(host: EmbeddedHost) -> None:
    """It is meant no more; the one before it is."""
    last = len(_defaults) - 1 - _defaults[::-1].index(host)
    del _defaults[last]
    _choose()


def _choose() -> None:
    global now
    now = task or (_defaults[-1] if _defaults else None)
