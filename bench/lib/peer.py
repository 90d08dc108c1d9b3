"""What a peer registers with: who it is, and its implementation of each work it can do.

A peer is a subclass in a module of `bench/peers`. `inherit` is called first, before any process is forked from this
one; `start` then starts servers and workers; `join` is called in each member process before it works. An implementation
is a method marked with `does`: it is told x and returns what will be called; in a member process it is told the
number of the member. Of `fan-out`, a subscriber is told its number and returns a call that waits for one message, for
at most so many seconds, and says whether it came; the publisher is told minus the number of subscribers. What must be
tidied up it says by `later`. Libraries are imported in `inherit`, so that the file can be read where they are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, TypeVar

from . import works

F = TypeVar("F", bound=Callable[..., Any])


class Left(Exception):
    """This peer does not do this work at this size, for the reason that is told."""


def does(*names: str) -> Callable[[F], F]:
    """The method implements these works."""
    assert set(names) <= set(works.BY_NAME), names

    def mark(method: F) -> F:
        method.does = names  # type: ignore[attr-defined]
        return method

    return mark


class Peer:
    name: ClassVar[str]
    package: ClassVar[str] = ""
    """The distribution that is asked for its version; none: of Python itself."""
    imports: ClassVar[str] = ""
    """What the work `import` imports."""
    before_fresh: ClassVar[str] = ""
    """Of the script `fresh`, the imports."""
    fresh: ClassVar[str] = ""
    """A script that starts all: when it has run, two workers have run a task."""
    after_fresh: ClassVar[str] = ""
    python: ClassVar[str] = sys.executable
    most_processes: ClassVar[int] = 64
    most_bytes: ClassVar[int] = 10**9

    def __init__(self) -> None:
        self._later: list[Callable[[], Any]] = []

    def __init_subclass__(cls) -> None:
        cls.works = {name: method for method in _methods(cls) for name in getattr(method, "does", ())}

    works: ClassVar[dict[str, Callable[..., Any]]] = {}

    @classmethod
    def version(cls) -> str:
        try:
            return version(cls.package) if cls.package else "of Python"
        except PackageNotFoundError:
            return ""

    @classmethod
    def all_works(cls) -> set[str]:
        fresh = {"start", "memory", "idle"} if cls.fresh else set()
        return {*cls.works, *fresh, *({"import"} if cls.imports else set())}

    def inherit(self) -> None:
        """Make what children must inherit."""

    def start(self) -> None:
        """Start servers and workers."""

    def stop(self) -> None:
        """End all that was started."""

    def join(self) -> None:
        """In a member process: attach to what `start` started."""

    def address(self) -> Any:
        """What `join` needs to know; set as `self.at` in members."""

    at: Any = None

    def later(self, call: Callable[[], Any]) -> None:
        """To be called when the work is over."""
        self._later.append(call)

    def tidy(self) -> None:
        while self._later:
            self._later.pop()()


def _methods(cls: type) -> list[Callable[..., Any]]:
    names = dict.fromkeys(name for base in cls.__mro__ for name in vars(base))
    return [method for name in names if callable(method := getattr(cls, name)) and hasattr(method, "does")]
