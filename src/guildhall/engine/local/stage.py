"""Where actors act: a thread for each in its worker, so that they answer however busy the worker is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import Broken, Misuse, StoreFull
from ...hosts import current
from ...hosts.embedded import EmbeddedHost
from ...primitives import values, waiters
from ...primitives.op import Answer
from ...primitives.values import ERROR
from . import actors, tasks
from .running import arguments, ended
from .tasks import Done, Recipe

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class Born:
    """The result of the task that makes an actor. Where it is read, `proxy` makes of it what stands for the actor."""

    def __init__(self, proxy: Callable[..., Any], *facts: Any) -> None:
        self._proxy = proxy
        self._facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return self._proxy, self._facts


def make(
    kind: type, proxy: Callable[..., Any], is_restarting: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Born:
    """In a task: make the object and have it act from now on."""
    from .worker import slot

    run = slot.run
    assert run is not None, "called by a worker"
    assert run.current is not None, "called in a task"
    host, actor = run.host, run.current
    instance = kind(*args, **kwargs)
    host.transact(actors.settle_in, actor, host.session, is_restarting)
    Actor(host, actor, instance).start()
    return Born(proxy, host.directory, actor, kind)


class _Call(NamedTuple):
    """What the thread of an actor works on: the call that it answers."""

    current: bytes
    around: None = None


class Actor(threading.Thread):
    """Answers the calls to one object, one after the other; what is awaited goes on beside the next ones."""

    def __init__(self, host: EmbeddedHost, actor: bytes, instance: Any) -> None:
        super().__init__(daemon=True, name=f"guildhall-actor-{type(instance).__name__}")
        self._host = host
        self._actor = actor
        self._instance = instance
        self._loop: AbstractEventLoop | None = None

    def run(self) -> None:
        """Until nobody refers to the actor, or the hall is closed."""
        with suppress(Broken, Misuse):
            while self._answer_next():
                pass
            self._host.insist(actors.move_out, self._actor)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _answer_next(self) -> bool:
        host = self._host
        waiter, bell = host.waiter(), host.bell()
        try:
            found = host.insist(actors.take, self._actor, waiter._replace(bell=bell.number))
            if isinstance(found, Answer):
                self._wait(waiter, bell)
                return True
        finally:
            host.done(bell)
        if found is None:
            return False
        key, oid, recipe = found
        if self._is_awaited(recipe):
            self._later(key, oid, recipe)
        else:
            current.runs[threading.get_ident()] = _Call(oid)
            end = ended(host, oid, recipe, lambda: self._call(*arguments(host, recipe)))
            current.runs.pop(threading.get_ident(), None)
            self._tell(key, end)
        return True

    def _is_awaited(self, recipe: Recipe) -> bool:
        from inspect import iscoroutinefunction  # Here, as asyncio below: most actors have no use for them.

        return iscoroutinefunction(getattr(type(self._instance), recipe.name.rpartition(".")[2], None))

    def _later(self, key: bytes, oid: bytes, recipe: Recipe) -> None:
        """Begin a coroutine, and answer when it has ended."""
        from asyncio import run_coroutine_threadsafe

        async def run() -> Any:
            return await self._call(*arguments(self._host, recipe))

        future = run_coroutine_threadsafe(run(), self._running_loop())
        future.add_done_callback(lambda future: self._tell(key, ended(self._host, oid, recipe, future.result)))

    def _wait(self, waiter: Any, bell: Any) -> None:
        """Until there is a call, or nobody refers to the actor."""
        host = self._host
        while not host.read(waiters.is_granted, waiter):
            if host.read(values.look, self._actor) is None:
                host.insist(waiters.withdraw, waiter)
                return
            host.sleep(bell, None)

    def _call(self, args: tuple[Any, ...] | None, named: dict[str, Any]) -> Any:
        """The answer of a method, or without arguments the value of an attribute."""
        [(name, kwargs)] = named.items()
        found = getattr(self._instance, name)
        return found if args is None else found(*args, **kwargs)

    def _running_loop(self) -> AbstractEventLoop:
        if self._loop is None:
            from asyncio import new_event_loop

            self._loop = new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name=f"{self.name}-loop").start()
        return self._loop

    def _tell(self, key: bytes, end: Done) -> None:
        host = self._host
        try:
            host.transact(actors.done, key, end)
        except StoreFull:
            host.insist(actors.done, key, Done(end.oid, ERROR, tasks.FULL))
        if end.uses:
            host.defer(values.release_for, host.session, end.uses)
