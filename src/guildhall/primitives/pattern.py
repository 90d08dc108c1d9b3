"""Patterns of topic names, as NATS has them: a name is segments between dots; `*` stands for any one segment, `>` at
the end for one or more. A star beside other letters is a letter.

A pattern that somebody subscribes to is a topic of its own, named by the pattern; what is published on a topic is also
appended to every pattern that fits its name. To find those, a publisher looks up one name for each shape in use: the
shape of "jobs.*" is "=.*", and for the topic "jobs.7" it stands for "jobs.*". So publishing costs one look-up for each
shape, however many patterns and topics there are.

Invariant: SHAPES counts, for each shape, the patterns that have subscribers; without any it is not there.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

from ..errors import Misuse
from ..store.keys import name_of, pack_name
from ..store.records import Form, Record
from ..store.transaction import Txn

SHAPES = b"\x6c"


class Shapes(Record, tag=1, frozen=True):
    """The shapes in use, and how many patterns have each."""

    counts: dict[str, int]


SHAPES_FORM = Form(Shapes)


@lru_cache(maxsize=1024)
def shape_of(name: bytes) -> str:
    """The shape of a packed name that is a pattern, "" if it is none. Only text can be a pattern."""
    if b"*" not in name and b">" not in name:
        return ""
    text = name_of(name)
    if not isinstance(text, str):
        return ""
    segments = text.split(".")
    shape = ["*" if segment == "*" else "=" for segment in segments]
    if segments[-1] == ">":
        shape[-1] = ">"
    return "" if set(shape) == {"="} else ".".join(shape)


def add(txn: Txn, shape: str) -> None:
    """A pattern of that shape has its first subscriber."""
    _count(txn, shape, 1)


def remove(txn: Txn, shape: str) -> None:
    """A pattern of that shape has lost its last subscriber."""
    _count(txn, shape, -1)


def _count(txn: Txn, shape: str, more: int) -> None:
    data = txn.get(SHAPES)
    counts = {} if data is None else dict(SHAPES_FORM.unpack(data).counts)
    counts[shape] = counts.get(shape, 0) + more
    counts = {shape: count for shape, count in counts.items() if count}
    if counts:
        txn.put(SHAPES, SHAPES_FORM.pack(Shapes(counts)))
    else:
        txn.delete(SHAPES)


@lru_cache(maxsize=4096)
def fitting(shapes: bytes, name: bytes) -> tuple[bytes, ...]:
    """The packed names that patterns of these shapes (as they are stored) would have if they fitted the topic."""
    text = name_of(name)
    if not isinstance(text, str):
        return ()
    segments = text.split(".")
    found = []
    for shape in SHAPES_FORM.unpack(shapes).counts:
        if pattern := _filled(shape.split("."), segments):
            with suppress(
                Misuse
            ):  # Stars for empty segments may make it too long a name: then nobody subscribes to it.
                found.append(pack_name("topic", pattern))
    return tuple(found)


def _filled(shape: list[str], segments: list[str]) -> str:
    """The pattern of that shape that fits a topic of those segments, "" if none does."""
    is_open = shape[-1] == ">"
    if len(segments) < len(shape) or (len(segments) > len(shape) and not is_open):
        return ""
    return ".".join(segment if part == "=" else part for part, segment in zip(shape, segments))
