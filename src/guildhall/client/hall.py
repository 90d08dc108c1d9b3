"""Opening a hall, and finding the one that is meant."""

from __future__ import annotations

import os
from typing import Any

from ..engine.local import inbox
from ..errors import Misuse, NoHall, WrongType
from ..hosts import current
from ..hosts.embedded import EmbeddedHost, home, open_hall, private_directory
from ..store.keys import pack_name


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


def open(name: str | os.PathLike[str] | None = None, *, durable: bool = False) -> Hall:
    """The hall of that name ("jobs": in shared memory) or at that path ("./state": on disk); made if it is not there.

    A `pathlib.Path` is always a path. None opens a private hall, gone with its last member. `durable=True`, of a hall
    at a path: every commit is on disk before the call returns. Raises HallRefused for a directory that is not safe to
    use, StoreFull when there is no room.
    """
    is_path = isinstance(name, os.PathLike) or (isinstance(name, str) and "/" in name)
    if durable and not is_path:
        raise Misuse(
            f"hall {name!r:.60}: it lives in memory; for durable=True give a path such as './{name or 'state'}'"
        )
    if name is None:
        return Hall(open_hall(private_directory(), estates=(inbox.bury_worker,), is_private=True))
    text = name if isinstance(name, str) else os.fspath(name) if isinstance(name, os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise WrongType(f"hall {name!r}: expected a name such as 'jobs' or a path such as './state'")
    if is_path:
        return Hall(open_hall(os.path.abspath(text), durable=durable, estates=(inbox.bury_worker,)))
    if text.startswith((".", "private-")) or len(text) > 100:
        raise Misuse(
            f"hall {text!r:.120}: a name starts with neither '.' nor 'private-' and has at most 100 characters"
        )
    return Hall(open_hall(os.path.join(home(text), text), durable=durable, estates=(inbox.bury_worker,)))


def host_of(given: Any) -> EmbeddedHost:
    """The host of a Hall or Client, or of what is current. Raises NoHall if there is none."""
    if given is not None:
        host = getattr(given, "host", None)
        if isinstance(host, EmbeddedHost):
            return host
        raise WrongType(f"hall: expected a Hall or a Client, got {type(given).__name__} {given!r:.60}")
    if current.now is not None:
        return current.now
    named = os.environ.get("GUILDHALL")
    if named:
        opened = open(named)
        current.add_default(opened.host, is_last_choice=True)
        return opened.host
    raise NoHall("no hall: make a Client(), pass hall=guildhall.open(name), or set GUILDHALL to a hall's name or path")


def packed(kind: str, name: Any) -> bytes:
    return pack_name(kind, name)
