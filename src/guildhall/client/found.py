"""Which halls there are, and which of them is meant by who does not say."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..errors import Broken, NoHall
from ..hosts import embedded
from ..hosts.observer import Observer
from ..primitives import sessions
from . import hall


@dataclass(frozen=True, slots=True)
class HallSeen:
    """One hall of this user: how many sessions are alive in it, what it takes, and, if it cannot be used, why."""

    name: str
    path: str
    is_private: bool
    sessions: int
    file_bytes: int
    problem: str = ""


def halls() -> list[HallSeen]:
    """All halls of this user that have a name or are private. Those at paths of their own cannot be found."""
    found = [_seen(directory) for directory in embedded.halls()]
    return [one for one in found if not one.problem or embedded.is_hall(one.path)]  # It may have gone meanwhile.


def _seen(directory: str) -> HallSeen:
    name = os.path.basename(directory)
    is_private = name.startswith(hall.PRIVATE)
    try:
        observer = Observer(directory)
        try:
            everybody = observer.read(sessions.everybody)
            alive = sum(observer.is_alive(one.number) for one in everybody)
            return HallSeen(name, directory, is_private, alive, observer.usage().file_bytes)
        finally:
            observer.close()
    except Broken as error:
        return HallSeen(name, directory, is_private, 0, 0, str(error))


def meant(given: str | None) -> str:
    """The directory of the hall that is given, else of the one that GUILDHALL names, else of the only live one.

    Raises NoHall, with the names of those that there are.
    """
    named = given or os.environ.get("GUILDHALL")
    if named:
        return hall.directory_of(named)
    there = halls()
    live = [one for one in there if one.sessions]
    if len(live) == 1:
        return live[0].path
    if live:
        names = ", ".join(one.name for one in live)
        raise NoHall(f"{len(live)} halls are live: {names}; choose one with --hall NAME, or set GUILDHALL")
    quiet = f"; nobody is in {', '.join(one.name for one in there)}" if there else ""
    raise NoHall(f"no hall is live{quiet}; give one with --hall NAME_OR_PATH, or set GUILDHALL")
