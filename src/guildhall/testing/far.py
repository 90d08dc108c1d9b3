"""What happens in a hall that is in a Dask scheduler, written down: commits there, calls where they are made.

Both write while it happens, as in `recorder`. A process writes under which number a call asks before it sends that; the
scheduler, inside the transaction, for which session and number it is. So a commit finds its call also if the process
that asked is dead when it is made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..hosts.dask import wire
from ..hosts.dask.link import Link
from ..hosts.dask.scheduler import Line, SchedulerHall
from .recorder import Files, burials, record


@contextmanager
def recording_calls(directory: Path) -> Iterator[Files]:
    """Until the end of this, under what numbers this process, and all that it forks meanwhile, asks for its calls."""
    files, plain_ask, plain_frame = Files(directory), Link._ask, wire.frame
    asking = threading.local()

    def ask(link: Link, *args: Any) -> int:
        asking.session = link.session
        try:
            return plain_ask(link, *args)
        finally:
            asking.session = 0

    def frame(message: Any) -> bytes:
        session = getattr(asking, "session", 0)
        if session:  # It is not sent yet: whoever dies here did not ask.
            files.log.asks(session, message[0])
        return plain_frame(message)

    Link._ask, wire.frame = ask, frame  # type: ignore[assignment,method-assign]
    try:
        yield files
    finally:
        Link._ask, wire.frame = plain_ask, plain_frame  # type: ignore[method-assign]


@contextmanager
def recording_commits(directory: Path) -> Iterator[Files]:
    """Until the end of this, the commits of halls that this process, a scheduler, makes from now on."""
    files, plain_open, plain_answer = Files(directory), SchedulerHall._open, Line._answer

    def open_store(hall: SchedulerHall, path: str | None) -> Any:
        store = plain_open(hall, path)
        record(store, files)
        return store

    def answer(line: Line, number: int, *args: Any) -> bytes:
        with files.log.asked(line._seat.number, number):
            return plain_answer(line, number, *args)

    SchedulerHall._open, Line._answer = open_store, answer  # type: ignore[assignment,method-assign]
    with burials(lambda: files.log):
        try:
            yield files
        finally:
            SchedulerHall._open, Line._answer = plain_open, plain_answer  # type: ignore[method-assign]
