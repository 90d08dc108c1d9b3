"""Exceptions that travel: with their causes, the text of their traceback, and their type if that can be had at all."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

from ...errors import TaskFailed
from . import payload


def encode(error: BaseException) -> bytes:
    """An exception with its causes and the text of its traceback.

    As in a generator, StopIteration becomes a RuntimeError: raised by `result()` it would end the caller's loop.
    """
    if isinstance(error, StopIteration):
        stop, error = error, RuntimeError(f"the task raised StopIteration: {error}").with_traceback(error.__traceback__)
        error.__cause__ = stop
    import traceback

    text = "".join(traceback.format_exception(error))
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and not any(link is seen for seen in chain):
        chain.append(link)
        link = link.__cause__
    return pickle.dumps((_words(error), text, [_portable(link) for link in chain]))


def _words(error: BaseException) -> str:
    """The exception's type and text, also if it refuses to give its text."""
    import traceback

    return "".join(traceback.format_exception_only(error)).strip()


def _portable(error: BaseException) -> bytes:
    """The exception's pickle, proved to come back the same; made otherwise, or only its words, if it does not."""
    for made in (error, _Parts(error)):
        try:
            data: bytes = payload.cloudpickled(made)
            if str(pickle.loads(data)) == str(error):
                return data
        except BaseException:  # Its own methods may raise anything, and the worker goes on.
            continue
    return pickle.dumps(Exception(_words(error)))


def travels(error: BaseException) -> bool:
    """Whether its pickle comes back the same."""
    try:
        return str(pickle.loads(payload.cloudpickled(error))) == str(error)
    except BaseException:
        return False


class _Parts:
    """Stands for an exception in a pickle, and is read back as one without asking its constructor."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self._error), self._error.args, self._error.__dict__)


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def decode(data: bytes) -> tuple[BaseException, str]:
    """The exception and the text of its traceback where it was raised."""
    words, text, chain = pickle.loads(data)
    errors = [_read_error(link, words) for link in chain]
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    errors[0].add_note("Raised in a worker:\n" + text.rstrip())
    return errors[0], text


def _read_error(data: bytes, words: str) -> BaseException:
    try:
        error: BaseException = pickle.loads(data)
        return error
    except Exception as broken:
        return TaskFailed(f"the task failed with {words}; the exception itself cannot be read here: {broken!r}")
