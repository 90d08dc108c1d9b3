"""A seat before each line: who has just let a lock go and wants it again looks from there, without a commit.

Standing in line costs a commit, and so does being served from there. Of two processes that pass a lock to and fro each
would pay both, and keep the other one from the store meanwhile. So the first who finds a lock held, with nobody in
line, takes the seat: a word in memory that all processes of the hall share. Whoever releases the lock says so in that
word, and lets who sits there go first. A word is a hint and no more: it decides who looks and who lets pass, never who
holds. If it is lost, overwritten or left behind by one that died, it costs the others at most one look.

A word is 0, or positive: somebody looks, or negative: the lock was let go for who looks.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from . import marks

SEATS = 512
"""Locks share seats, by their names; a word tells which lock it is about, so that one does not wait for another's."""
_SPREAD = 0x9E37_79B1
_WHO = 1 << 32
_ATTEMPTS = 1 << 20


def seat_of(key: bytes) -> tuple[int, int]:
    """The seat of a lock, and what its words begin with."""
    number = int.from_bytes(key) % 0x7FFF_FFFF  # The same in every process, which `hash` is not.
    return (number * _SPREAD >> 16) % SEATS, (number or 1) * _WHO


def word_of(about: int, session: int, attempt: int) -> int:
    """What to write for one attempt."""
    return about | (session % 4096) * _ATTEMPTS | attempt % _ATTEMPTS


def is_about(word: int, about: int) -> bool:
    """Whether the word is one of the lock whose words begin so."""
    return abs(word) & -_WHO == about


def mapped(path: str) -> MutableSequence[int]:
    """The seats of a hall, in a file of one page. Without room for it: some of this process alone."""
    try:
        return marks.mapped(path, SEATS)
    except OSError:
        return private()


def private() -> MutableSequence[int]:
    """Seats that no other process sees."""
    return [0] * SEATS


def unmap(words: MutableSequence[int]) -> None:
    """The file system may be unmounted next."""
    if isinstance(words, memoryview):
        memory = words.obj
        words.release()
        memory.close()
