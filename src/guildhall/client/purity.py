"""Keys of tasks: names for results, given by the user or made from the call, so that equal calls share one run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ..engine.local import functions, payload
from ..errors import Misuse, WrongType
from ..hosts.embedded import EmbeddedHost

MAX_KEY_BYTES = 400


class Keys(Protocol):
    """Says which key a call has."""

    def of(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The key of one call, asked for in the order of the calls."""


class Given:
    """The user's own keys, one after the other. Raises Misuse when there are more calls than keys."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys

    def of(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        for key in self._keys:
            return expect_key(key)
        raise Misuse("map: fewer keys than calls; give one key for each, or a text for all to begin with")


class Pure:
    """Made from the function and its arguments: the function's name and a hash of all (their pickles)."""

    def __init__(self, host: EmbeddedHost) -> None:
        self._host = host

    def of(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        import hashlib  # Here: most clients never hash.

        name = str(getattr(function, "__name__", type(function).__name__))
        digest = hashlib.sha1(usedforsecurity=False)
        code, _ = functions.pickled(self._host, function, name)
        for part in (code if code is not None else function, args, sorted(kwargs.items())):
            data, buffers, uses = payload.pickled(self._host, part, f"an argument of {name}")
            digest.update(data)
            for buffer in buffers:
                digest.update(buffer.raw())
            digest.update(b"".join(uses))
        return f"{name[:100]}-{digest.hexdigest()}"


def keys_of(host: EmbeddedHost, key: str | list[str] | None, pure: bool, *, is_single: bool) -> Keys | None:
    """What names the calls of one `submit` or `map`; None if each call is a call."""
    if key is None:
        return Pure(host) if pure else None
    if is_single:
        return Given(itertools.repeat(expect_key(key)))
    return Given(each_key(key))


def each_key(key: str | list[str]) -> Iterator[str]:
    """The keys of a map's calls: those given, or all that begin with the text."""
    if isinstance(key, list | tuple):
        return iter(key)
    expect_key(key)
    return (f"{key}-{number}" for number in itertools.count())


def expect_key(key: Any) -> str:
    """The key. Raises WrongType for anything but text, Misuse for none or too much of it."""
    if not isinstance(key, str):
        raise WrongType(f"key: expected text, got {type(key).__name__} {key!r:.60}")
    if not 0 < len(packed_key(key)) <= MAX_KEY_BYTES:
        raise Misuse(f"key {key!r:.60}: expected 1 to {MAX_KEY_BYTES} bytes of text, got {len(packed_key(key))}")
    return key


def packed_key(key: str) -> bytes:
    """The key as the store has it."""
    return key.encode("utf-8", "surrogatepass")
