"""`guildhall top`: a hall, live."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live

from ..client.census import Snapshot, take
from ..client.hall import ObservedHall
from ..errors import NoHall
from . import screen, views

SHARE = 0.1
"""At most this part of a core is spent on looking, however much there is to see."""
MAX_OBJECTS = 20_000


def watch(observed: ObservedHall, every_s: float, count: int | None, *, is_json: bool) -> None:
    """Show a frame after each interval, so many or until Ctrl-C."""
    frames = _frames(observed, every_s, count)
    if is_json:
        for before, seen in frames:
            screen.show_json(views.top_as_dict(before, seen), is_line=True)
    elif screen.is_terminal():
        _show_live(frames)
    else:
        for place, (before, seen) in enumerate(frames):
            screen.show(*([""] if place else []), *views.of_top(before, seen))


def _show_live(frames: Iterator[tuple[Snapshot, Snapshot]]) -> None:
    console = Console(highlight=False)
    last = None
    try:
        with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            for before, seen in frames:
                last = screen.rendered(views.of_top(before, seen))
                live.update(last, refresh=True)
    finally:
        if last is not None:
            console.print(last)  # What was seen last stays when the screen is given back.


def _frames(observed: ObservedHall, every_s: float, count: int | None) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Pairs of snapshots, for what happened between them."""
    before, cost_s = _look(observed)
    while count is None or count > 0:
        time.sleep(max(every_s, cost_s / SHARE))
        seen, cost_s = _look(observed)
        yield before, seen
        before = seen
        count = None if count is None else count - 1


def _look(observed: ObservedHall) -> tuple[Snapshot, float]:
    """A snapshot, and how long it took this process to make it."""
    began = time.process_time()
    try:
        seen = take(observed.looking, max_objects=MAX_OBJECTS)
    except FileNotFoundError:
        if os.path.exists(observed.path):
            raise
        raise NoHall(f"hall {observed.path}: it has been removed; `guildhall ls` lists those that there are") from None
    return seen, time.process_time() - began
