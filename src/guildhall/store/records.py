"""Records <-> bytes: msgspec structs written as msgpack arrays whose first element is the record's version."""

from __future__ import annotations

import struct
from typing import Annotated, Generic, TypeVar

import msgspec

from ..errors import GuildhallError, HallDamaged

R = TypeVar("R", bound="Record")
MOST_SESSIONS = 1 << 62
"""The numbers of sessions are below: the kernel keeps a lock for each byte of a file, and takes no larger ones."""
SessionNumber = Annotated[int, msgspec.Meta(gt=0, lt=MOST_SESSIONS)]
ProcessId = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


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
_STUMBLES = (
    StopIteration,
    AssertionError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    OverflowError,
    struct.error,
)


def damaged(error: Exception) -> HallDamaged:
    """What to raise in place of one of UNREADABLE."""
    return HallDamaged(f"a record cannot be read ({error}): written by another version, or damaged")


_OURS = (
    "guildhall.primitives.",
    "guildhall.store.keys",
    "guildhall.engine.local.",
    "guildhall.client.handles.statistics",
    "guildhall.client.census",
)
"""Where ops are, and what they read with. Not the stores: an op that is called with what it does not take is a bug."""


def torn(error: BaseException) -> HallDamaged | None:
    """What to raise in place of an error that an op stumbles over, because what it found does not fit together.

    An op raises errors of ours, and lets pass what a signal's handler raises. Whatever else comes out of its own lines,
    and is not a caller's mistake, says that a record is not there, or is another one than it should be.
    """
    if isinstance(error, GuildhallError) or not isinstance(error, _STUMBLES):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_globals.get("__name__", "").startswith(_OURS):
        return None
    return HallDamaged(
        f"what is stored does not fit together ({type(error).__name__}: {error!s:.100}): "
        "it is damaged, unless this is a bug of guildhall"
    )


def damage_of(error: Exception) -> HallDamaged | None:
    """What to raise in place of an error of whoever reads records outside of an op; None if they are not to blame."""
    return damaged(error) if isinstance(error, UNREADABLE) else torn(error)
