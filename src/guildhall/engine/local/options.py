"""What a worker is told when it is started."""

from __future__ import annotations

import os

import msgspec

SEPARATOR = "\n"
"""Between the options and the hall's directory, which may have any other character."""


class WorkerOptions(msgspec.Struct, frozen=True):
    """How a worker works. `max_tasks`: after so many it ends and another takes its place; `memory_limit`: in bytes, of
    resident memory; `initializer`: the object, as hex, that holds what to call first; `authkey`: that of the client's
    `multiprocessing`, as hex, for proxies of its managers that come as arguments."""

    threads: int = 1
    resources: tuple[tuple[str, float], ...] = ()
    max_tasks: int | None = None
    memory_limit: int | None = None
    initializer: str = ""
    authkey: str = ""


def packed(options: WorkerOptions, hall: str) -> str:
    """The options and the hall's directory as one text."""
    return msgspec.json.encode(options).decode() + SEPARATOR + os.fsencode(hall).decode(errors="surrogateescape")


def unpacked(text: str) -> tuple[WorkerOptions, str]:
    """What `packed` was given."""
    options, _, hall = text.partition(SEPARATOR)
    return msgspec.json.decode(options, type=WorkerOptions), hall
