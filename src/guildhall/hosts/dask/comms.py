"""The one place that knows `distributed`: its plugin, its connections, and what of it this process is.

A connection to the hall begins as one of Dask's to the scheduler's own address: its TLS, its handshake, the port that
is open anyway. Then both ends take the socket out of Dask's hands, and speak frames of ours over it (`wire`): an
operation is one message there and one back, from the thread that waits for it, with no event loop in between.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import socket
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from ...errors import Broken, HallRefused
from . import inside
from .scheduler import PROTOCOL, Line, SchedulerHall

try:
    import distributed

    inside.expect()  # Before parts of it are imported by name.
    from distributed import threadpoolexecutor, worker
    from distributed.comm.core import connect as connect_comm
    from distributed.core import Status
    from distributed.diagnostics.plugin import SchedulerPlugin
    from distributed.scheduler import Scheduler
except ImportError as error:
    raise ImportError("a Dask cluster needs 'distributed': pip install 'guildhall[dask]'") from error

NAME = "guildhall"
VERSION = version("guildhall")
DIAL_S = 30.0
"""So long a scheduler that does not answer is tried."""


# -- in the scheduler -------------------------------------------------------------------------------------------------


class HallPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Puts the hall into a scheduler, and tells it who has gone."""

    name = NAME
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        install(scheduler)

    def remove_worker(self, scheduler: Any, worker: str, **kwargs: Any) -> None:
        scheduler.extensions[NAME].bury_of(worker)

    def remove_client(self, scheduler: Any, client: str) -> None:
        scheduler.extensions[NAME].bury_of(client)

    async def close(self) -> None:
        for scheduler in Scheduler._instances:
            if scheduler.plugins.get(NAME) is self and NAME in scheduler.extensions:
                scheduler.extensions[NAME].close()


def install(scheduler: Any) -> SchedulerHall:
    """The hall of the scheduler, which is made if there is none. `GUILDHALL_STORE` in its environment is a path: then
    it is kept there, and is as it was when another scheduler takes it up."""
    hall: SchedulerHall | None = scheduler.extensions.get(NAME)
    if hall is None:
        hall = SchedulerHall(scheduler.loop.asyncio_loop, os.environ.get("GUILDHALL_STORE"))
        hall.released = lambda key: scheduler.client_releases_keys(keys=[key], client=NAME)
        hall.knock = _knocker(scheduler)
        scheduler.extensions[NAME] = hall
        scheduler.handlers["guildhall_hello"] = _hello
        scheduler.handlers["guildhall_line"] = _liner(hall)
        if NAME not in scheduler.plugins:
            scheduler.add_plugin(HallPlugin(), name=NAME)
    return hall


async def _hello() -> dict[str, Any]:
    """Whoever wants to come in learns first whether it would be understood."""
    return {"version": VERSION, "protocol": PROTOCOL}


def _liner(hall: SchedulerHall) -> Any:
    async def guildhall_line(comm: Any, number: int, token: bytes, role: str, pid: int, owner: str) -> Any:
        """Make the connection a line of that session's, or of a new one's."""
        sock, left = _taken_over(comm)
        seat = hall.find(number, token) if number else hall.enter(role, pid, owner)
        Line(hall, seat, sock, left)
        return Status.dont_reply

    return guildhall_line


def _knocker(scheduler: Any) -> Any:
    def knock(owner: str, session: int, bell: int, number: int) -> None:
        if owner in scheduler.stream_comms:  # Else it has gone, and is buried.
            message = {"op": "guildhall_knock", "session": session, "bell": bell, "number": number}
            scheduler.worker_send(owner, message)

    return knock


def _taken_over(comm: Any) -> tuple[socket.socket, bytes]:
    """The connection's socket, which Dask forgets, and what was read from it already."""
    try:
        stream = comm.stream
        left = bytes(stream._read_buffer[: stream._read_buffer_size])
        sock: socket.socket = stream.socket
        release, forget = stream.io_loop.remove_handler, comm._finalizer.detach
    except AttributeError as error:
        raise inside.refusal(f"{type(error.obj).__name__}.{error.name}") from error
    stream.set_close_callback(None)
    release(sock)
    stream.socket = None
    forget()
    comm.stream, comm._closed = None, True
    return sock, left


# -- in a client or a worker ------------------------------------------------------------------------------------------


def hall_here(address: str) -> SchedulerHall | None:
    """The hall, if its scheduler is in this process."""
    for scheduler in list(Scheduler._instances):
        if getattr(scheduler, "_address", None) == address or address in getattr(scheduler, "_addresses", ()):
            return install(scheduler)
    return None


def dial(address: str, security: Any, greeting: dict[str, Any]) -> tuple[socket.socket, bytes]:
    """A line to the hall at the scheduler, greeted. The plugin is put there if it is not.

    Raises HallRefused if the scheduler has not what it needs, Broken if it cannot be reached.
    """
    line: tuple[socket.socket, bytes] = _in_a_loop(_dial(address, security, greeting))
    return line


def _in_a_loop(dialling: Any) -> Any:
    """What it answers, run in a thread: in this one a loop may be running."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(asyncio.run(dialling))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, name="guildhall-dial", daemon=True)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def station_here(hosts: Any) -> tuple[str, Any] | None:
    """Where other workers dial the worker whose task runs in this thread, and how it dials them. `hosts` are this
    process's: from now on each hears of who dials it, and of what the scheduler tells it. None if it is none."""
    worker = _worker_here()
    if worker is None:
        return None
    security, mine = worker.security.get_connection_args("worker"), worker.address
    if not mine.startswith(("tcp://", "tls://")):  # No socket to take out of Dask's hands.
        return None

    def host() -> Any:
        return hosts.get((worker.scheduler.address, mine))

    async def guildhall_post(comm: Any, session: int, sender: int) -> Any:
        sock, left = _taken_over(comm)
        host().accept(sock, left, session, sender)
        return Status.dont_reply

    def guildhall_knock(session: int, bell: int, number: int) -> None:
        if (here := host()) is not None:
            here.knock(session, bell, number)

    worker.handlers["guildhall_post"] = guildhall_post
    worker.stream_handlers["guildhall_knock"] = guildhall_knock
    return mine, lambda address, greeting: _in_a_loop(_dial_station(address, security, greeting))


async def _dial_station(address: str, security: Any, greeting: dict[str, Any]) -> tuple[socket.socket, bytes]:
    comm = await connect_comm(address, timeout=DIAL_S, **security)
    try:
        if not hasattr(comm, "stream"):
            raise HallRefused(f"worker at {address}: a station needs tcp:// or tls://")
        await comm.write({"op": "guildhall_post", **greeting})
        return _taken_over(comm)
    finally:
        if not comm.closed():
            comm.abort()


async def _dial(address: str, security: Any, greeting: dict[str, Any]) -> tuple[socket.socket, bytes]:
    try:
        comm = await connect_comm(address, timeout=DIAL_S, **security)
    except OSError as error:
        raise Broken(f"hall at {address}: its scheduler cannot be reached: {error}") from error
    try:
        if not hasattr(comm, "stream"):
            raise HallRefused(f"hall at {address}: a line needs tcp:// or tls://; start the scheduler with one of them")
        trouble = await _put_plugin(
            comm
        )  # Does nothing if it is there; to ask for that first would be logged as an error.
        answer = await _ask(comm, {"op": "guildhall_hello"})
        if not _is_hello(answer):
            raise _refusal(address, trouble)
        _check(answer, address)
        await comm.write({"op": "guildhall_line", **greeting})
        return _taken_over(comm)
    finally:
        if not comm.closed():
            comm.abort()


async def _ask(comm: Any, message: dict[str, Any]) -> Any:
    await comm.write(message)
    return await comm.read()


def _is_hello(answer: Any) -> bool:
    return isinstance(answer, dict) and "protocol" in answer


async def _put_plugin(comm: Any) -> str:
    """Put the plugin into the scheduler, if it is not there. What it said if it does not take it."""
    message = {
        "op": "register_scheduler_plugin",
        "plugin": pickle.dumps(HallPlugin(), 4),
        "name": NAME,
        "idempotent": True,
    }
    answer = await _ask(comm, message)
    return str(answer.get("exception_text", "")) if isinstance(answer, dict) else ""


def _refusal(address: str, trouble: str) -> HallRefused:
    if "No module named" in trouble:
        return HallRefused(
            f"hall at {address}: guildhall is not installed where the scheduler runs ({trouble}); there run "
            f"pip install 'guildhall[dask]=={VERSION}', and on the workers, and start the scheduler again"
        )
    return HallRefused(
        f"hall at {address}: its scheduler does not let a plugin in ({trouble or 'it gave no reason'}); start it with "
        "`dask scheduler --preload guildhall.hosts.dask`"
    )


def _check(answer: Any, address: str) -> None:
    if (answer["version"], answer["protocol"]) != (VERSION, PROTOCOL):
        raise HallRefused(
            f"hall at {address}: the scheduler has guildhall {answer['version']}, "
            f"this process ({socket.gethostname()}, pid {os.getpid()}) has {VERSION}; "
            f"install the same version everywhere: pip install 'guildhall[dask]=={answer['version']}' here, "
            f"or =={VERSION} at the scheduler"
        )


def client_facts(client: Any) -> tuple[str, Any, str]:
    """The scheduler's address, how to connect to it, and the id of a `distributed.Client`."""
    if not isinstance(client, distributed.Client):
        raise TypeError(f"connect: expected a distributed.Client, got {type(client).__name__} {client!r:.60}")
    address = client.scheduler.address if client.scheduler is not None else client._start_arg
    return address, client.security.get_connection_args("client"), client.id


def worker_facts() -> tuple[str, Any, str] | None:
    """The same of the worker whose task runs in this thread, or that this process is; None if it is none."""
    here = _worker_here()
    if here is None:
        return None
    return here.scheduler.address, here.security.get_connection_args("worker"), here.address


def _worker_here() -> Any:
    """The worker whose task runs in this thread, or that this process is; None if it is none."""
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def in_task() -> bool:
    """Whether this thread runs a task of Dask and counts for its worker."""
    return hasattr(worker.thread_state, "key") and getattr(threadpoolexecutor.thread_state, "proceed", False)


def give_way() -> Callable[[], None]:
    """Others run meanwhile, and the task goes on at once when its wait is over: it may hold what they wait for."""
    if in_task():
        contextvars.Context().run(_leave_slot, distributed.get_worker())
    return _nothing_to_do


def _leave_slot(of: Any) -> None:
    """Not in the context of the task, which the event loop would hand on to the tasks that it begins now."""
    worker._worker_cvar.set(of)
    distributed.secede()


def _nothing_to_do() -> None: ...
