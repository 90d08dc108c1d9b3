"""Where the hall in a scheduler keeps large values, in the parts in which they came: in memory, or beside its store.

What is kept on a disk is there when another scheduler takes the hall up; as with the store, nothing is promised if the
machine itself goes down.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from typing import BinaryIO, Protocol

from ...errors import Misuse, StoreFull

_LENGTH = struct.Struct("!Q")
_NAME = re.compile(r"[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*")
"""Of a value: it comes from another process, and is to be a file's."""


class Shelf(Protocol):
    """Large values by name, each a row of parts."""

    def add(self, blob: str, part: bytes) -> None:
        """One more part of it."""

    def part(self, blob: str, number: int) -> bytes:
        """A part of it; raises FileNotFoundError if it has gone."""

    def remove(self, blob: str) -> None:
        """Let go of it. Nothing happens if it is not there."""

    def sizes(self) -> dict[str, int]:
        """How many bytes each has, by name."""


class MemoryShelf:
    """They end with the scheduler."""

    def __init__(self) -> None:
        self._blobs: dict[str, list[bytes]] = {}

    def add(self, blob: str, part: bytes) -> None:
        self._blobs.setdefault(blob, []).append(part)

    def part(self, blob: str, number: int) -> bytes:
        parts = self._blobs.get(blob)
        if parts is None:
            raise FileNotFoundError("the value is gone")
        return parts[number]

    def remove(self, blob: str) -> None:
        self._blobs.pop(blob, None)

    def sizes(self) -> dict[str, int]:
        return {blob: sum(map(len, parts)) for blob, parts in self._blobs.items()}


class DiskShelf:
    """Each value is a file, in which the parts stand one behind the other, each behind its length."""

    def __init__(self, directory: str) -> None:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._directory = directory

    def _path(self, blob: str) -> str:
        if not _NAME.fullmatch(blob):
            raise Misuse(f"large value {blob!r:.60}: that is no name of one")
        return os.path.join(self._directory, blob)

    def add(self, blob: str, part: bytes) -> None:
        try:
            with open(self._path(blob), "ab") as file:
                file.write(_LENGTH.pack(len(part)))
                file.write(part)
        except OSError as error:
            self.remove(blob)
            raise StoreFull(f"large value {blob}: the scheduler's disk does not take it: {error}") from error

    def part(self, blob: str, number: int) -> bytes:
        with open(self._path(blob), "rb") as file:
            for _ in range(number):
                file.seek(_length_at(file), os.SEEK_CUR)
            return file.read(_length_at(file))

    def remove(self, blob: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path(blob))

    def sizes(self) -> dict[str, int]:
        found = {}
        for entry in os.scandir(self._directory):
            with suppress(FileNotFoundError):
                found[entry.name] = entry.stat().st_size
        return found


def _length_at(file: BinaryIO) -> int:
    return int(_LENGTH.unpack(file.read(_LENGTH.size))[0])
