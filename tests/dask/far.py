"""A hall that is far, in one process: the scheduler's half in a thread with an event loop, the other over a socket.

All of it is real but Dask: what is tested is the host, its link, what travels, and the hall that ops are run in.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import cloudpickle

from guildhall.errors import Broken
from guildhall.hosts.dask import wire
from guildhall.hosts.dask.host import DaskHost
from guildhall.hosts.dask.link import Link
from guildhall.hosts.dask.scheduler import Line, SchedulerHall


class Far:
    """The scheduler's half."""

    def __init__(self, path: str | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="guildhall-far", daemon=True)
        self.thread.start()
        self.hall = self.do(lambda: SchedulerHall(self.loop, path))
        self.hall.orphans_grace_s = 0.0
        self.hall._do_test = self._test
        self.hall._do_bury = self._bury
        self.ends: list[socket.socket] = []
        """The far ends of all connections."""
        self.between: list[socket.socket] = []
        """Those of connections between stations."""
        self.unreachable: set[str] = set()
        self.is_down = False
        self.stations: dict[str, DaskHost] = {}
        self.hall.knock = self._knock
        self._welcoming: set[Any] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.address = self._listener.getsockname()
        self.accepting = self.do(lambda: self.loop.create_task(self._accept()))

    def do(self, call: Callable[[], Any]) -> Any:
        """In its thread."""

        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def _test(self, seat: Any, call: bytes) -> Any:
        op, args, reads = cloudpickle.loads(call)
        return (self.hall.store.read if reads else self.hall.store.transact)(op, *args)

    def _bury(self, seat: Any) -> None:
        for one in list(self.hall.seats.values()):
            if one.line is None:
                self.hall.bury(one)

    async def _accept(self) -> None:
        while True:
            end, _ = await self.loop.sock_accept(self._listener)
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._welcoming.add(self.loop.create_task(self._welcome(end)))

    async def _welcome(self, end: socket.socket) -> None:
        data = await self.loop.sock_recv(end, 4096)
        if not data:  # Ctrl-C came behind the connecting.
            end.close()
            return
        greeting = pickle.loads(data)
        known = self.hall.find(greeting["number"], greeting["token"])
        is_new = not greeting["number"]
        seat = self.hall.enter(greeting["role"], greeting["pid"], greeting["owner"]) if is_new else known
        self.ends.append(end)
        Line(self.hall, seat, end)

    def dial(self, greeting: dict[str, Any]) -> tuple[socket.socket, bytes]:
        if self.is_down:
            raise Broken("it is down")
        near = socket.create_connection(self.address)
        near.sendall(pickle.dumps(greeting))
        near.setblocking(False)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return near, b""

    def host(self, role: str = "process", owner: str = "") -> FarHost:
        """One more process, as far as the hall can tell."""
        return FarHost("far", role, lambda host: Link("far", self.dial, role, owner, host._heard, host.words))

    def station(self, role: str = "worker") -> FarHost:
        """One that others can dial."""
        address = f"station-{len(self.stations)}"
        host = self.stations[address] = FarHost(
            "far",
            role,
            lambda host: Link("far", self.dial, role, "", host._heard, host.words),
            (address, self.dial_station),
        )
        return host

    def dial_station(self, address: str, greeting: dict[str, Any]) -> tuple[socket.socket, bytes]:
        if address in self.unreachable:
            raise OSError("it is unreachable")
        near, end = socket.socketpair()
        for one in (near, end):
            one.setblocking(False)
        self.between.append(end)
        self.stations[address].accept(end, b"", greeting["session"], greeting["sender"])
        return near, b""

    def _knock(self, owner: str, session: int, bell: int, number: int) -> None:
        for host in list(self.stations.values()):
            host.knock(session, bell, number)

    def cut(self, ends: list[socket.socket] | None = None) -> None:
        """Connections break: these, or all."""
        for end in list(self.ends if ends is None else ends):
            self.ends.remove(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.do(self.accepting.cancel)
        self.do(self.hall.close)
        self.do(lambda: None)  # Connections are closed by calls of their own.
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self._listener.close()


class FarHost(DaskHost):
    """A host whose hall tests look into with functions of their own, which else do not travel."""

    def transact(self, op: Callable[..., Any], *args: Any) -> Any:
        return super().transact(op, *args) if _travels(op) else self._ask("test", cloudpickle.dumps((op, args, False)))

    insist = transact

    def bury_dead(self) -> list[int]:
        """Those whose connections are gone, without waiting whether they come back."""
        for _ in range(2):
            self._ask("bury")
        return super().bury_dead()

    def read(self, op: Callable[..., Any], *args: Any) -> Any:
        return super().read(op, *args) if _travels(op) else self._ask("test", cloudpickle.dumps((op, args, True)))


def _travels(op: Any) -> bool:
    return wire.is_op(op) and op.__module__.startswith("guildhall.") and "<" not in op.__qualname__
