"""Looking at all that is in a hall, some at a time. Pure reads.

A read keeps every page that it might look at until it is over, and what is written meanwhile makes the store larger. So
nothing here looks at everything: each op looks at a few, and the caller goes on behind the last of them. What is seen
by two calls is of two moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..store.keys import first_name, name_of
from ..store.transaction import Txn


def page(txn: Txn, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
    """Some of the pairs whose keys start with the prefix, as they are: to be read when the transaction is over."""
    return list(txn.scan(prefix, after=after, limit=limit))


def names(txn: Txn, prefix: bytes, after: bytes, limit: int) -> list[bytes]:
    """The next names, packed, behind the name `after` (empty: from the first), that keys have behind the prefix.

    A name that has many keys is found once.
    """
    found: list[bytes] = []
    behind = prefix + _end(after) if after else b""
    while len(found) < limit:
        pair = next(iter(txn.scan(prefix, after=behind, limit=1)), None)
        if pair is None:
            break
        name = first_name(pair[0][len(prefix) :])
        found.append(name)
        behind = prefix + _end(name)
    return found


def _end(name: bytes) -> bytes:
    """What sorts behind all that begins with the name: a name ends with a zero byte, and none begins with another."""
    return name[:-1] + b"\x01"


def each(txn: Txn, of: Callable[[Txn, Any, bytes], Any], some: Iterable[bytes]) -> list[Any]:
    """What `of(txn, name, packed name)` tells of each of the names, at one moment."""
    return [of(txn, name_of(name), name) for name in some]
