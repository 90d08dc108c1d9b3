"""The only reader of the clock: what a user gives as `timeout` becomes a deadline here, and nowhere else."""

from __future__ import annotations

import functools
import re
import time
from contextlib import suppress
from datetime import timedelta

Timeout = float | int | str | timedelta | None

_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]*)\s*")


def seconds(timeout: Timeout) -> float | None:
    """The timeout in seconds, None for ever.

    Takes a number of seconds, a `timedelta`, or text such as "200ms" or "1s".
    Raises ValueError for a negative or nonsensical one, TypeError for another type.
    """
    if timeout is None:
        return None
    if isinstance(timeout, timedelta):
        value = timeout.total_seconds()
    elif isinstance(timeout, str):
        found = _TEXT.fullmatch(timeout)
        unit = found and (found[2] or "s")
        if found is None or unit not in _UNITS_S:
            raise ValueError(f"timeout {timeout!r}: expected seconds or text such as '200ms' or '1s'")
        value = float(found[1]) * _UNITS_S[unit]
    elif isinstance(timeout, int | float) and not isinstance(timeout, bool):
        try:
            value = float(timeout)
        except OverflowError:
            raise ValueError("timeout: an integer beyond all time; expected seconds, or None (wait for ever)") from None
    else:
        raise TypeError(f"timeout: expected seconds, a timedelta or None, got {type(timeout).__name__} {timeout!r}")
    if not value >= 0:
        raise ValueError(f"timeout {timeout!r}: expected 0 (try once), a positive time, or None (wait for ever)")
    return None if value == float("inf") else value


now = time.monotonic
"""Seconds on a clock that only goes forward, the same for all processes of the machine since it started."""


def epoch(at: float) -> float:
    """A moment of that clock as seconds since 1970, for people to read."""
    return time.time() - (time.monotonic() - at)


def lease(lease_s: Timeout) -> float | None:
    """How long a lease lasts, in seconds; None for ever. Takes what `seconds` takes, but not 0."""
    value = seconds(lease_s)
    if value == 0:
        raise ValueError(f"lease_s {lease_s!r}: expected a positive time, or None (until it is released)")
    return value


def ticks_ns() -> int:
    """Nanoseconds on that clock, the same for all processes since the machine was started."""
    return time.monotonic_ns()


@functools.cache
def boot() -> str:
    """Which start of the machine that was; "" where it is not told."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()
    return ""


def after(timeout_s: float | None) -> float | None:
    """The deadline that many seconds from now; None for never."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def left(deadline: float | None) -> float | None:
    """Seconds until the deadline, not below 0; None for ever."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())
