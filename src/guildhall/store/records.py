"""Records <-> bytes: msgspec structs written as msgpack arrays whose first element is the record's version."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from ..errors import HallDamaged

R = TypeVar("R", bound="Record")


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one key holds. Subclasses give `tag=` their version, a whole number."""


class Form(Generic[R]):
    """How one class of records is written and read: `pack` and `unpack`.

    `unpack` raises one of UNREADABLE if the bytes are not a record of this version. Stores make a HallDamaged of it; to
    do it here would cost every op.
    """

    __slots__ = ("pack", "unpack")

    def __init__(self, record: type[R]) -> None:
        self.pack = msgspec.msgpack.Encoder().encode
        self.unpack = msgspec.msgpack.Decoder(record).decode


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


def damaged(error: Exception) -> HallDamaged:
    """What to raise in place of one of UNREADABLE."""
    return HallDamaged(f"a record cannot be read ({error}): written by another version, or damaged")
