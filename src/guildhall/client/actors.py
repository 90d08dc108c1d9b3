"""Actors, as those who call them hold them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..engine.local import actors, payload, stage
from ..engine.local.tasks import Recipe
from ..errors import GuildhallError, WrongType
from ..hosts.embedded import EmbeddedHost, host_at
from ..primitives import values
from . import html
from .futures import Future
from .hall import host_of


class ActorFuture(Future):
    """The answer to a call, there or to come. Keeps the actor alive until then."""

    __slots__ = ("_actor",)

    _actor: Actor


class Actor:
    """Stands for an object that lives in a worker. Its methods give an `ActorFuture`, its other attributes their value.

    Calls are answered in the order in which one caller makes them, on a thread of the actor's own, so also by a busy
    worker; `async` methods go on beside the calls after them. The object lives as long as an Actor or the future that
    it came from does. When its worker dies, calls raise ActorLost, unless it was submitted with `restart=True`: then it
    is made anew, and what had begun raises.
    """

    def __init__(self, future: Future, kind: type) -> None:
        self._future = future
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"actor {self._kind.__name__}: {name!r} is its own affair")
        if callable(getattr(self._kind, name, None)):
            return partial(self._ask, name)
        return _ask(self, name, None, {}).result()

    def _ask(self, name: str, /, *args: Any, **kwargs: Any) -> ActorFuture:
        return _ask(self, name, args, kwargs)

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._kind) if not name.startswith("_")]

    def __reduce__(self) -> tuple[Any, ...]:
        return Actor, (self._future, self._kind)

    def __repr__(self) -> str:
        return f"<Actor: {self._kind.__name__}, key: {self._future.key}>"

    def _repr_html_(self) -> str:
        try:
            status = {"finished": "at home", "error": "its home is gone"}.get(self._future.status, self._future.status)
        except GuildhallError:  # The hall is closed.
            status = "lost"
        facts = [("Class", self._kind.__name__), ("Key", self._future.key), ("Status", status)]
        return html.table("guildhall Actor", facts)


def _ask(actor: Actor, name: str, args: tuple[Any, ...] | None, kwargs: dict[str, Any]) -> ActorFuture:
    host, called = actor._future._host, f"{actor._kind.__name__}.{name}"
    data, uses, spent = payload.inline(host, (args, {name: kwargs}), f"an argument of {called}")
    oid = host.new_object()
    try:
        host.transact(actors.call, actor._future._oid, oid, Recipe(called, b"", data), uses)
    finally:
        if spent:
            host.defer(values.release_for, host.session, spent)
    future = ActorFuture(host, oid, None, called)
    future._actor = actor
    return future


def maker(kind: Any, is_restarting: bool) -> Callable[..., Any]:
    """What to submit, in the place of the class. Raises WrongType for anything else than a class."""
    if not isinstance(kind, type):
        raise WrongType(f"submit: actor=True: expected a class, got {type(kind).__name__} {kind!r:.60}")

    def make(*args: Any, **kwargs: Any) -> Any:
        return stage.make(kind, proxy, is_restarting, args, kwargs)

    make.__name__ = kind.__name__
    return make


def proxy(directory: str, actor: bytes, kind: type) -> Actor:
    """What a result is read as that is an actor."""
    host: EmbeddedHost = host_at(directory) or payload.context.host or host_of(None)
    host.transact(values.hold_for, host.session, (actor,))
    return Actor(Future(host, actor, None, kind.__name__), kind)
