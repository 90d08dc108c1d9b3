"""Opening a hall, looking into one, removing one, and finding the one that is meant."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from ..engine.local import inbox
from ..errors import Misuse, NoHall, WrongType
from ..hosts import current, embedded
from ..hosts.embedded import EmbeddedHost, home, open_hall, private_directory
from ..hosts.place import resolved
from ..store.keys import pack_name
from . import places

if TYPE_CHECKING:
    from ..hosts.observer import Observer
    from .census import Snapshot


class Hall:
    """One shared namespace, opened by this process. A context manager; `close` leaves it."""

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host
        self._is_open = True

    @property
    def host(self) -> EmbeddedHost:
        """What runs the operations. Raises Misuse when this hall was closed, though others may have it open."""
        if not self._is_open:
            raise Misuse(f"hall {self._host.directory}: it is closed; open it again")
        return self._host

    @property
    def path(self) -> str:
        """The hall's directory."""
        return self._host.directory

    def snapshot(self) -> Snapshot:
        """All that is in the hall now: sessions, tasks, every named thing with its statistics, the room it takes.

        Reads only, in many short steps, so that nobody waits for it; `as_dict()` of it is ready for JSON.
        """
        from .census import take  # Here and not above: nobody pays for it who does not look.

        return take(self.host)

    def close(self) -> None:
        """Leave the hall. What this process holds in it is given back, when its last opener closes. Twice is once."""
        if self._is_open:
            self._is_open = False
            self._host.close()

    def __enter__(self) -> Hall:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = f"session {self._host.session}" if self._is_open else "closed"
        return f"<Hall {self._host.directory} {state}>"


class ObservedHall:
    """A hall that this process looks into and is not in. A context manager; `close` ends it."""

    def __init__(self, looking: Observer) -> None:
        self.looking = looking

    @property
    def path(self) -> str:
        """The hall's directory."""
        return self.looking.directory

    def snapshot(self) -> Snapshot:
        """As `Hall.snapshot`."""
        from .census import take

        return take(self.looking)

    def close(self) -> None:
        """Look no more. Twice is once."""
        self.looking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ObservedHall {self.path}>"


def open(name: str | os.PathLike[str] | None = None, *, durable: bool = False) -> Hall:
    """The hall of that name ("jobs": in shared memory) or at that path ("./state": on disk); made if it is not there.

    A `pathlib.Path` is always a path. None opens a private hall, gone with its last member. `durable=True`, of a hall
    at a path: every commit is on disk before the call returns, large values too, so a loss of power takes nothing that
    a call returned. Every process that writes has to open it so: one that does not may leave the store torn.

    The address of a Dask cluster ("tcp://host:port") opens the hall in its scheduler.

    Raises HallRefused for a directory that is not safe to use, StoreFull when there is no room.
    """
    if places.is_address(name) and not durable:
        return places.of_dask("FarHall")(name)  # type: ignore[no-any-return]
    is_path = _is_path(name)
    if durable and not is_path:
        raise Misuse(
            f"hall {name!r:.60}: it lives in memory; for durable=True give a path such as './{name or 'state'}'"
        )
    if name is None:
        return Hall(open_hall(private_directory(), estates=(inbox.bury_worker,), is_private=True))
    text = _text(name)
    if is_path:
        return Hall(open_hall(text, durable=durable, estates=(inbox.bury_worker,)))
    if text.startswith((".", PRIVATE)) or len(text) > 100:
        raise Misuse(
            f"hall {text!r:.120}: a name starts with neither '.' nor 'private-' and has at most 100 characters"
        )
    return Hall(open_hall(os.path.join(home(text), text), durable=durable, estates=(inbox.bury_worker,)))


PRIVATE = "private-"
"""How the names of halls begin that belong to one client."""


def observe(name: str | os.PathLike[str]) -> ObservedHall:
    """Look into the hall of that name or at that path, also a private one, without joining it: nobody notices.

        with guildhall.observe("jobs") as hall:
            print(hall.snapshot().sessions)

    Raises NoHall if there is none, and what `open` raises for one that cannot be used.
    """
    from ..hosts.observer import Observer

    return ObservedHall(Observer(directory_of(name)))


def join(directory: str, role: str) -> Hall:
    """A hall that is there, private or not, joined in a role that others see."""
    return Hall(open_hall(directory, role=role, estates=(inbox.bury_worker,)))


def remove(name: str | os.PathLike[str], *, force: bool = False) -> None:
    """Remove the hall of that name or at that path, with all that is in it.

    Raises Misuse while sessions are alive in it. With `force` it is gone all the same: they go on in what nobody else
    finds any more, and a hall that is opened under the name is another one. Raises NoHall if there is none.
    """
    directory = directory_of(name)
    if force:
        embedded.remove_hall(directory)
        is_gone = not embedded.is_hall(directory)
    else:
        is_gone = embedded.remove_unused(directory)
    if not is_gone:
        raise Misuse(f"hall {directory}: {_who_is_in(directory)}; end them first, or remove it with force=True")


def _who_is_in(directory: str) -> str:
    with suppress(OSError), observe(directory + "/") as hall:
        alive = [one for one in hall.snapshot().sessions if one.is_alive]
        if alive:
            named = ", ".join(f"{one.number} (pid {one.pid}, {one.role})" for one in alive[:5])
            return f"{len(alive)} sessions are alive in it: {named}{', ...' if len(alive) > 5 else ''}"
    return "somebody is in it, or it cannot be renamed"


def directory_of(name: str | os.PathLike[str]) -> str:
    """Where the hall of that name or at that path is. Raises NoHall if there is none."""
    text = _text(name)
    if _is_path(name):
        found: str | None = resolved(text)
    else:
        found = embedded.find(text)
    if found is None or not embedded.is_hall(found):
        raise NoHall(f"hall {text!r:.200}: there is none; `guildhall ls` lists those that there are")
    return found


def _is_path(name: Any) -> bool:
    return isinstance(name, os.PathLike) or (isinstance(name, str) and "/" in name)


def _text(name: Any) -> str:
    text = name if isinstance(name, str) else os.fspath(name) if isinstance(name, os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise WrongType(f"hall {name!r:.80}: expected a name such as 'jobs' or a path such as './state'")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise Misuse(f"hall {name!r:.80}: no file can have this name; use letters, digits, '-' and '_'") from None
    return text


def host_of(given: Any) -> EmbeddedHost:
    """The host of a Hall or Client, or of what is current. Raises NoHall if there is none."""
    if given is not None:
        host = getattr(given, "host", None)
        if isinstance(host, EmbeddedHost):
            return host
        raise WrongType(f"hall: expected a Hall or a Client, got {type(given).__name__} {given!r:.60}")
    if current.now is not None:
        return current.now
    if "distributed.worker" in sys.modules and (found := _of_dask_worker()) is not None:
        return found
    named = os.environ.get("GUILDHALL")
    if places.is_address(named):
        return places.of_dask("DaskClient")(named).host  # type: ignore[no-any-return]
    if named:
        opened = open(named)
        current.add_default(opened.host, is_last_choice=True)
        return opened.host
    raise NoHall("no hall: make a Client(), pass hall=guildhall.open(name), or set GUILDHALL to a hall's name or path")


def _of_dask_worker() -> EmbeddedHost | None:
    """The hall of the cluster whose worker this process is; from now on the one that is meant in it."""
    from ..hosts import dask

    try:
        host = dask.of_worker()
    except NoHall:
        return None
    current.add_default(host, is_last_choice=True)
    return host


def packed(kind: str, name: Any) -> bytes:
    return pack_name(kind, name)
