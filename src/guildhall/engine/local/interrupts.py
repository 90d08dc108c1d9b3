"""Interrupts that reach a task while its thread runs it, and nothing else: no other task, no code of the worker's own.

A thread is aimed at by its number, which another thread may get, and what it is sent comes at the next step of it that
happens to look. So a thread is sent something only while it is in the task, and does not leave the task before it is
known whether something was sent; if so, it has come by then.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
SIGNAL = signal.SIGURG
"""Sent to a main thread, whose sleep it ends."""


class Interrupted(BaseException):
    """Raised in a task that was cancelled by force. Not an Exception: the task shall not take it for one of its own."""


class Interruptible:
    """What one thread runs, one task after the other."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.current: bytes | None = None
        """The task that runs now."""
        self._is_open = False
        """Whether the thread is in that task's own code."""
        self._is_aimed_at = False
        """Another thread is about to send it something. That one looks whether this is open after it has set this, and
        the thread itself looks at this after it has closed: one of them sees the other."""
        self._is_sent = False
        self._wanted: bytes | None = None
        """The task that is to be interrupted and has not been yet."""

    def play(self, oid: bytes, call: Callable[[], T]) -> T:
        """The result of `call`, which may be interrupted as long as it runs."""
        try:
            try:
                self.current = oid
                self._open()
                return call()
            finally:
                self._is_open = False  # No step before at which something could arrive.
                if self._is_aimed_at or self._is_sent:
                    self._settle()
        except Interrupted:  # The only one, now that it is closed; but it may have come before all was settled.
            self._settle()
            raise
        finally:
            self.current = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """In code of the worker's own that the task has called. An interrupt comes before it or behind it."""
        if threading.current_thread() is not self.thread:  # The task has handed it on: that one is never interrupted.
            yield
            return
        oid, was_open = self.current, self._is_open
        try:
            self._is_open = False
            if self._is_aimed_at or self._is_sent:
                self._settle()
        except Interrupted:
            self._settle()
            self._wanted = oid
        try:
            yield
        finally:
            if was_open:
                self._open()

    def _open(self) -> None:
        self._is_open = True
        if self._wanted is not None and self._wanted == self.current:
            try:
                self._is_open = False
                self._settle()
            except Interrupted:
                self._settle()
            self._wanted = None
            raise Interrupted("cancelled by force")

    def _settle(self) -> None:
        """Closed: wait until nothing is under way to this thread. Raises what was sent and has not arrived.

        Nothing is taken back: Python (3.11) would believe for ever that somebody is to be interrupted.
        """
        while self._is_aimed_at:
            time.sleep(0)
        self._is_sent = False
        _arrive()

    def on_signal(self) -> None:
        """In a main thread: be interrupted, if the task that it is in is to be."""
        if self._is_open and self._wanted is not None and self._wanted == self.current:
            self._wanted = None
            raise Interrupted("cancelled by force")

    def interrupt(self, oid: bytes) -> bool:
        """Interrupt that task, if it is the current one. Whether it is. One thread calls this at a time."""
        if self.current != oid:
            return False
        if self.thread is threading.main_thread():
            assert self.thread.ident is not None, "a main thread runs"
            self._wanted = oid
            signal.pthread_kill(self.thread.ident, SIGNAL)
            return True
        self._is_aimed_at = True
        try:
            self._wanted = oid  # If it is not open, it is interrupted as soon as it is.
            if self._is_open and self.current == oid:
                self._is_sent = True
                _send(self.thread, Interrupted)
                self._wanted = None
        finally:
            self._is_aimed_at = False
        return True


def _arrive() -> None:
    """As a function begins, Python looks for what was sent to the thread, and raises it."""


def _send(thread: threading.Thread, what: type[BaseException]) -> None:
    """Have it raised in a thread that runs."""
    assert thread.ident is not None, "it runs"
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(what))
