"""Records <-> bytes: msgspec structs written as msgpack arrays whose first element is the record's version."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from ..errors import HallDamaged

R = TypeVar("R", bound="Record")


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one key holds. Subclasses give `tag=` their version, a whole number."""


class Form(Generic[R]):
    """How one class of records is written and read."""

    __slots__ = ("_decode", "pack")

    def __init__(self, record: type[R]) -> None:
        self.pack = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(record).decode

    def unpack(self, data: bytes) -> R:
        """The record. Raises HallDamaged if these bytes are not one of this version."""
        try:
            return self._decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HallDamaged(f"a record cannot be read ({error}): written by another version, or damaged") from None
