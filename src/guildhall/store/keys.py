"""Tuples <-> bytes that sort as the tuples do.

The encoding is that of FoundationDB's tuple layer: a type byte before each element, text and bytes ended by 00 with
00 inside written as 00 FF, integers in as few bytes as they need. The first byte of a key names its region.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..errors import HallDamaged, Misuse, WrongType

MAX_NAME_BYTES = 400
"""A packed name may be this long: LMDB takes keys of 511 bytes, the rest is for what stands around the name."""

_END = b"\x00"


def pack(elements: Iterable[Any]) -> bytes:
    """The elements as bytes; raises WrongType for one that has no order-keeping form."""
    return b"".join(map(_pack_one, elements))


def _pack_one(element: Any) -> bytes:
    if element is None:
        return b"\x00"
    if element is True:
        return b"\x27"
    if element is False:
        return b"\x26"
    if isinstance(element, str):
        return b"\x02" + element.encode("utf-8", "surrogatepass").replace(_END, b"\x00\xff") + _END
    if isinstance(element, bytes):
        return b"\x01" + element.replace(_END, b"\x00\xff") + _END
    if isinstance(element, int):
        return pack_int(element)
    if isinstance(element, float):
        raw = struct.pack(">d", element)
        return b"\x21" + (bytes(255 - b for b in raw) if raw[0] & 0x80 else bytes([raw[0] ^ 0x80]) + raw[1:])
    if isinstance(element, tuple | list):
        inner = b"".join(b"\x00\xff" if e is None else _pack_one(e) for e in element)
        return b"\x05" + inner + _END
    raise WrongType(f"a name of type {type(element).__name__}: expected text, bytes, a number or a tuple of these")


_HEADS = [0x14 + size << 8 * size for size in range(9)]
"""By the size of a number: what its packed form begins with, before the number."""


def pack_int(number: int) -> bytes:
    """One integer, of at most 255 bytes."""
    if 0 <= number < 0x1000000:  # As nearly all: its bytes and their head at once.
        if number >= 0x10000:
            return (0x17000000 | number).to_bytes(4, "big")
        if number >= 0x100:
            return (0x160000 | number).to_bytes(3, "big")
        return (0x1500 | number).to_bytes(2, "big") if number else b"\x14"
    size = (number.bit_length() + 7) >> 3
    if number >= 0 and size <= 8:
        return (_HEADS[size] | number).to_bytes(size + 1, "big")
    if size > 255:
        raise Misuse(f"an integer of {size} bytes, at most 255")
    if number > 0:
        return bytes((0x1D, size)) + number.to_bytes(size, "big")
    head = bytes((0x14 - size,)) if size <= 8 else bytes((0x0B, 255 - size))
    return head + (number + (1 << 8 * size) - 1).to_bytes(size, "big")


pack_id = lru_cache(maxsize=1024)(pack_int)
"""As `pack_int`, for the few numbers that come again and again, such as sessions."""


def unpack(data: bytes) -> tuple[Any, ...]:
    """What `pack` was given, lists as tuples. Raises HallDamaged for bytes that are no key."""
    out: list[Any] = []
    at = 0
    try:
        while at < len(data):
            value, at = _unpack_one(data, at)
            out.append(value)
    except _UNREADABLE as error:
        raise _damaged(data) from error
    if at != len(data):  # A number that was cut off.
        raise _damaged(data)
    return tuple(out)


_UNREADABLE = (IndexError, ValueError, struct.error, RecursionError)


def _damaged(data: bytes) -> HallDamaged:
    return HallDamaged(f"a key cannot be read ({data[:40].hex()}): written by another version, or damaged")


def _unpack_one(data: bytes, at: int) -> tuple[Any, int]:
    code = data[at]
    at += 1
    if code == 0x00:
        return None, at
    if code in (0x26, 0x27):
        return code == 0x27, at
    if code in (0x01, 0x02):
        end = at
        while True:
            end = data.index(0, end)
            if data[end + 1 : end + 2] != b"\xff":
                break
            end += 2
        raw = data[at:end].replace(b"\x00\xff", _END)
        return (raw if code == 0x01 else raw.decode("utf-8", "surrogatepass")), end + 1
    if code == 0x21:
        raw = data[at : at + 8]
        raw = bytes([raw[0] ^ 0x80]) + raw[1:] if raw[0] & 0x80 else bytes(255 - b for b in raw)
        return struct.unpack(">d", raw)[0], at + 8
    if code == 0x05:
        inner: list[Any] = []
        while True:
            if data[at] == 0:
                if data[at + 1 : at + 2] != b"\xff":
                    return tuple(inner), at + 1
                inner.append(None)
                at += 2
            else:
                value, at = _unpack_one(data, at)
                inner.append(value)
    if code == 0x1D:
        size = data[at]
        return int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
    if code == 0x0B:
        size = 255 - data[at]
        return int.from_bytes(data[at + 1 : at + 1 + size], "big") - (1 << 8 * size) + 1, at + 1 + size
    size = abs(code - 0x14)
    if size > 8:
        raise ValueError(f"no such type of key element: {code:#x}")
    number = int.from_bytes(data[at : at + size], "big")
    return (number if code >= 0x14 else number - (1 << 8 * size) + 1), at + size


def pack_name(kind: str, name: Any) -> bytes:
    """A user's name as a key part. Lists count as tuples. Raises WrongType or Misuse, naming the kind.

    The byte behind it keeps names apart: packed, "a" is the beginning of "a\\0b", and ("a",) that of ("a", None).
    """
    try:
        packed = _pack_one(name) + _END
    except WrongType:
        raise WrongType(
            f"{kind} name {name!r:.80}: expected text, bytes, a number or a tuple of these, got {type(name).__name__}"
        ) from None
    except Misuse as error:
        raise Misuse(f"{kind} name of type {type(name).__name__}: {error}") from None
    except RecursionError:
        raise Misuse(f"{kind} name: a tuple nested deeper than Python can follow; use a flat one") from None
    if len(packed) > MAX_NAME_BYTES:
        raise Misuse(f"{kind} name {name!r:.40}...: {len(packed)} bytes, at most {MAX_NAME_BYTES}; use a shorter name")
    return packed


def first_name(data: bytes) -> bytes:
    """The packed name that the data begins with."""
    try:
        end = _unpack_one(data, 0)[1]
    except _UNREADABLE as error:
        raise _damaged(data) from error
    if data[end : end + len(_END)] != _END:  # Whoever goes on behind what ends so would come here again.
        raise _damaged(data)
    return data[: end + len(_END)]


def name_of(packed: bytes) -> Any:
    """The name that `pack_name` was given."""
    found = unpack(packed)
    if not found:
        raise _damaged(packed)
    return found[0]
