"""What an op may answer besides its result."""

from __future__ import annotations

from enum import Enum
from typing import Final, Literal


class Answer(Enum):
    PARKED = "parked"
    """Not granted; the waiter that was given now stands in line."""
    BUSY = "busy"
    """Not granted, and no waiter was given: the caller tries once."""


PARKED: Final = Answer.PARKED
BUSY: Final = Answer.BUSY
NotNow = Literal[Answer.PARKED, Answer.BUSY]
