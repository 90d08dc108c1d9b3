"""How a handle looks, in one line and in a notebook: what its `statistics()` tell of this moment.

A look never fails and changes nothing: it opens no hall, and of one that is closed it says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from ... import deadline
from .. import html

SHOWN = 10
"""So many holders and waiters are listed, and the others counted."""
MAX_NAME = 60
_NAMES = ("kind", "name")


class Shown(Protocol):
    """What this file needs of a handle."""

    name: Any

    def _has_hall(self) -> bool: ...

    def statistics(self) -> Any: ...


def line(handle: Shown) -> str:
    """The handle in one line."""
    return f"<{type(handle).__name__} {_name(handle):.{MAX_NAME}}: {_told(handle)}>"


def page(handle: Shown) -> str:
    """The handle as HTML."""
    facts: list[tuple[str, object]] = [("Name", f"{_name(handle):.200}")]
    try:
        seen = _statistics(handle)
    except Exception as error:
        facts.append(("Status", _trouble(error)))
    else:
        facts += [("Status", "no hall")] if seen is None else _facts(seen)
    return html.table(f"guildhall {type(handle).__name__}", facts)


def _name(handle: Shown) -> str:
    names = getattr(handle, "names", None)  # Of a MultiLock, whose own name nobody gave.
    return ", ".join(map(repr, names)) if names else repr(handle.name)


def _statistics(handle: Shown) -> Any:
    """None if there is no hall to look in."""
    return handle.statistics() if handle._has_hall() else None


def _trouble(error: Exception) -> str:
    return f"cannot be seen: {type(error).__name__}: {error}"


def _told(handle: Shown) -> str:
    try:
        seen = _statistics(handle)
    except Exception as error:
        return f"{_trouble(error):.200}"
    if seen is None:
        return "no hall"
    if hasattr(seen, "holders"):
        return _who_holds(seen)
    if hasattr(seen, "term") and seen.term is None:
        return f"nobody leads, candidates {seen.candidates}"
    words = [f"{value}" if isinstance(value, _Flag) else f"{name} {value}" for name, value in _fields(seen)]
    return ", ".join(words)


class _Flag(str):
    """A fact that is told by its name."""


def _who_holds(seen: Any) -> str:
    holders = ", ".join(_who(one) for one in seen.holders[:3])
    more = f" and {len(seen.holders) - 3} more" if len(seen.holders) > 3 else ""
    waiting = f", {len(seen.waiting)} waiting" if seen.waiting else ""
    return (f"held by {holders}{more}" if holders else "free") + waiting


def _who(one: Any) -> str:
    pid = "" if one.pid is None else f" (pid {one.pid})"
    return f"session {one.session}{pid}{' to ' + one.mode if one.mode else ''}"


def _fields(seen: Any) -> list[tuple[str, Any]]:
    """The first fact, and those of the others that are neither nothing nor a name."""
    names = [field.name for field in dataclasses.fields(seen) if field.name not in _NAMES]
    values = [(name, getattr(seen, name)) for name in names]
    return [
        (name, _Flag(("" if value else "not ") + name.removeprefix("is_")) if isinstance(value, bool) else value)
        for place, (name, value) in enumerate(values)
        if not place or value not in (None, False, 0, "", ())
    ]


def _facts(seen: Any) -> list[tuple[str, object]]:
    """All facts, and each of those who hold and wait in a line."""
    names = [field.name for field in dataclasses.fields(seen) if field.name not in _NAMES]
    kind = getattr(seen, "kind", "")
    return [(_title(name), _fact(getattr(seen, name))) for name in names if (name, kind) != ("capacity", "rwlock")]


def _title(name: str) -> str:
    return name.removeprefix("is_").replace("_bytes", " in bytes").replace("_", " ").capitalize()


def _fact(value: Any) -> object:
    if isinstance(value, tuple):
        lines = [_in_full(one) for one in value[:SHOWN]]
        return [*lines, *([f"and {len(value) - SHOWN} more"] if len(value) > SHOWN else [])] or "nobody"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value in (None, "") else value


def _in_full(one: Any) -> str:
    """One who holds or waits."""
    words = [_who(one)]
    if one.since is not None:
        words.append(f"for {max(0.0, deadline.epoch(deadline.now()) - one.since):.1f} s")
    if token := getattr(one, "fencing_token", 0):
        words.append(f"fencing token {token}")
    if getattr(one, "count", 1) > 1:
        words.append(f"{one.count} times")
    if names := getattr(one, "names", ()):
        words.append(f"of {', '.join(map(repr, names)):.200}")
    if getattr(one, "previous_holder_died", False):
        words.append("whose previous holder died")
    return ", ".join(words)
