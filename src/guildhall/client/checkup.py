"""What is wrong with a hall, and its repair. Finding only looks; repairing joins the hall for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..engine.local import inbox
from ..errors import Broken
from ..hosts import embedded
from ..hosts.embedded import open_hall
from ..hosts.observer import Looking, Observer, blob_files
from ..primitives import sessions


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, in words. `remedy` says what to do; with `can_fix` a repair does it."""

    hall: str
    kind: str
    what: str
    remedy: str
    can_fix: bool = True


def examine(directory: str) -> list[Finding]:
    """All that is wrong with the hall at the directory."""
    try:
        observer = Observer(directory)
        try:
            return [*_sessions(observer), *_blobs(observer), *_bells(observer), *_readers(observer), *_room(observer)]
        finally:
            observer.close()
    except Broken as error:
        return [Finding(directory, "unusable", str(error), "see what it says", can_fix=False)]


def examine_leftovers() -> list[Finding]:
    """What dead private halls left, and halls that were being made or removed by processes that died."""
    return [
        Finding(path, "leftover", f"{os.path.basename(path)}: a hall that nobody can be in any more", "remove it")
        for root in embedded.homes()
        for path in embedded.leftovers(root)
    ]


def repair(directory: str) -> None:
    """Do what can be done. Raises what joining a hall raises."""
    host = open_hall(directory, role="doctor", estates=(inbox.bury_worker,))
    try:
        host.bury_dead()
        for blob in _orphans(host):
            host.remove_blob(blob)
        for bell in _strays(host):
            with suppress(OSError):
                os.unlink(host.at("bells", bell))
        host.tidy()
    finally:
        host.close()


def remove_leftovers() -> list[str]:
    """Remove what `examine_leftovers` finds. Returns the directories that are gone."""
    return [path for root in embedded.homes() for path in embedded.sweep(root)]


# -- finding ----------------------------------------------------------------------------------------------------------


def _sessions(hall: Looking) -> Iterator[Finding]:
    import psutil

    for one in hall.read(sessions.everybody):
        if not hall.is_alive(one.number):
            what = f"session {one.number} (pid {one.pid}, {one.role}) is dead and not buried: what it held is not free"
            yield Finding(hall.directory, "dead-session", what, "bury it")
            continue
        with suppress(psutil.Error):
            if psutil.Process(one.pid).status() == psutil.STATUS_STOPPED:
                what = f"session {one.number} (pid {one.pid}, {one.role}) is stopped (SIGSTOP): others may wait for it"
                yield Finding(hall.directory, "stopped", what, f"kill -CONT {one.pid}, or kill it", can_fix=False)


def _blobs(hall: Looking) -> Iterator[Finding]:
    sizes = {file.name: file.size_bytes for file in blob_files(hall.directory)}
    for blob in _orphans(hall):
        what = f"blob {blob} of {sizes.get(blob, 0)} bytes belongs to nobody, and its writer is dead"
        yield Finding(hall.directory, "orphaned-blob", what, "remove it")


def _orphans(hall: Looking) -> list[str]:
    """Blobs without an object, whose writers are dead: a living one may be about to make it."""
    found = []
    for file in blob_files(hall.directory):
        writer, _, rest = file.name.partition("-")
        if not writer.isdecimal() or not rest or hall.is_alive(int(writer)):
            continue
        with suppress(ValueError):  # Not a name of ours.
            if hall.read(sessions.is_litter, file.name):
                found.append(file.name)
    return found


def _bells(hall: Looking) -> Iterator[Finding]:
    strays = _strays(hall)
    if strays:
        what = f"{len(strays)} bells of sessions that are gone, such as {strays[0]}"
        yield Finding(hall.directory, "stray-bells", what, "remove them")


def _strays(hall: Looking) -> list[str]:
    """Sockets in `bells` of sessions that are dead and buried; a burial takes those of the others along."""
    names = os.listdir(os.path.join(hall.directory, "bells"))
    numbers = {name: int(first) for name in names if (first := name.partition(".")[0]).isdecimal()}
    known = {one.number for one in hall.read(sessions.everybody)}
    return sorted(name for name, number in numbers.items() if number not in known and not hall.is_alive(number))


def _readers(hall: Looking) -> Iterator[Finding]:
    """Only those that died while they read: the slots of others cost nothing, and are used again."""
    for reader in hall.readers():
        if reader.transaction is not None and not os.path.exists(f"/proc/{reader.pid}"):
            what = f"a reader of the store (pid {reader.pid}) died; it keeps all since commit {reader.transaction}"
            yield Finding(hall.directory, "stale-reader", what, "clear its slot")


def _room(hall: Looking) -> Iterator[Finding]:
    usage = hall.usage()
    if usage.is_nearly_full:
        gone = "" if usage.has_ballast else ", and its reserve is gone"
        what = f"the store is nearly full: {usage.used_bytes} bytes used, {usage.left_bytes} left for it{gone}"
        remedy = "take or delete something, or free its file system"
        yield Finding(hall.directory, "nearly-full", what, remedy, can_fix=False)
