"""Values that are kept under a name as long as the hall lives, whoever published them."""

from __future__ import annotations

from typing import Any

from ..engine.local import payload
from ..errors import NotPublished, Taken, WrongType
from ..hosts.embedded import EmbeddedHost
from ..primitives import dataset, values
from ..store.keys import name_of
from .hall import packed

MISSING: Any = object()
_KIND = "dataset"


def publish(host: EmbeddedHost, args: tuple[Any, ...], name: Any, kwargs: dict[str, Any], override: bool) -> None:
    """As `Client.publish_dataset`."""
    if name is not None:
        if len(args) != 1 or kwargs:
            raise WrongType(f"publish_dataset: expected one value for the name {name!r:.60}, got {len(args)}")
        kwargs = {name: args[0]}
    elif args:
        raise WrongType("publish_dataset: a value without a name; write publish_dataset(x=value) or give name=")
    for one, value in kwargs.items():
        stored, spent = payload.store(host, value, f"dataset {one!r:.60}: the value")
        try:
            if not host.transact(dataset.publish, packed(_KIND, one), stored, override):
                raise Taken(f"dataset {one!r:.60}: the name is taken; unpublish it first, or give override=True")
        finally:
            if spent:
                host.defer(values.release_for, host.session, spent)


def get(host: EmbeddedHost, name: Any, default: Any = MISSING) -> Any:
    """As `Client.get_dataset`."""
    stored = host.transact(dataset.fetch, packed(_KIND, name), host.session)
    if stored is not None:
        return payload.unpack(host, stored)
    if default is MISSING:
        raise NotPublished(f"dataset {name!r:.60}: not published; there are {list(names(host))!r:.200}")
    return default


def names(host: EmbeddedHost) -> tuple[Any, ...]:
    return tuple(name_of(key) for key in host.read(dataset.names))


def remove(host: EmbeddedHost, name: Any) -> None:
    host.transact(dataset.remove, packed(_KIND, name))
