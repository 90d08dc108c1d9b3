"""Actors of a Dask cluster: Dask's own, with our names and errors."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent import futures as standard
from functools import partial
from typing import Any, Protocol

from .. import deadline
from ..deadline import Timeout
from ..engine.dask import Engine, Native
from ..errors import Misuse, WrongType


class Origin(Protocol):
    """The future that an actor came from."""

    @property
    def key(self) -> Any:
        """The actor's name."""

    @property
    def engine(self) -> Engine:
        """What asks its worker."""

    @property
    def inner(self) -> Native:
        """Dask's own future."""

    def call(self, actor: Native, name: str, args: Any, kwargs: Any) -> standard.Future[Any]:
        """Call a method of the actor. Futures in the arguments become their results."""


def expect_class(kind: Any, kwargs: dict[str, Any]) -> None:
    """Raises WrongType for anything but a class, Misuse for an actor that is to be made anew when its worker dies."""
    if not isinstance(kind, type):
        raise WrongType(f"submit: actor=True: expected a class, got {type(kind).__name__} {kind!r:.60}")
    if kwargs.pop("restart", False):
        raise Misuse(
            f"actor {kind.__name__}: restart=True: an actor of a Dask cluster ends with its worker; keep its state in "
            "a Variable and submit it again when a call raises ActorLost"
        )


class DaskActor:
    """Stands for an object that lives in a worker. Its methods give a `DaskActorFuture`, its attributes their value.

    Calls are answered in the order in which one caller makes them. The object lives as long as the future that it came
    from, or a DaskActor. When its worker dies, calls raise ActorLost.
    """

    def __init__(self, future: Origin, native: Native | None = None) -> None:
        self._future = future
        self._bound = native

    @property
    def _native(self) -> Native:
        if self._bound is None:
            self._bound = self._future.engine.native_result(self._future.inner)
        return self._bound

    def __getattr__(self, name: str) -> Any:
        kind = self._native._cls
        if name.startswith("_"):
            raise AttributeError(f"actor {kind.__name__}: {name!r} is its own affair")
        if callable(getattr(kind, name, None)):
            return partial(self._ask, name)
        return self._future.engine.actor_attribute(self._native, name)

    def _ask(self, name: str, /, *args: Any, **kwargs: Any) -> DaskActorFuture:
        return DaskActorFuture(self, name, self._future.call(self._native, name, args, kwargs))

    def __dir__(self) -> list[str]:
        return [name for name in dir(self._native._cls) if not name.startswith("_")]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return DaskActor, (self._future,)

    def __repr__(self) -> str:
        return f"<Actor: {self._native._cls.__name__}, key: {self._future.key}>"


class DaskActorFuture:
    """The answer to a call, there or to come. Keeps the actor alive until then."""

    def __init__(self, actor: DaskActor, name: str, asked: standard.Future[Any]) -> None:
        self._actor = actor
        self._asked = asked
        self.key = f"{actor._native._cls.__name__}.{name}"

    @property
    def _engine(self) -> Engine:
        return self._actor._future.engine

    def done(self) -> bool:
        """Whether it is there."""
        return self._asked.done()

    def result(self, timeout: Timeout = None) -> Any:
        """The answer; raises what the method raised, ActorLost, TimedOut."""
        return self._engine.await_call(self._asked, deadline.seconds(timeout), self.key)

    def exception(self, timeout: Timeout = None) -> BaseException | None:
        """What the method raised; None if it did not."""
        self._engine.await_end(self._asked, deadline.seconds(timeout), f"actor call {self.key}")
        return self._asked.exception()

    def __await__(self) -> Generator[Any, None, Any]:
        async def wait() -> Any:
            import asyncio

            return await asyncio.wrap_future(self._asked)

        return wait().__await__()

    def __repr__(self) -> str:
        return f"<ActorFuture: {'finished' if self.done() else 'pending'}, key: {self.key}>"
