"""The worker processes of one client: started by its fork server, replaced when they die, ended."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ... import deadline
from ...errors import Broken, Misuse
from ...hosts.embedded import EmbeddedHost
from . import inbox, memory, payload, tasks
from .forkserver import Line
from .options import WorkerOptions, packed
from .tasks import Recipe

START_S = 60.0
CLOSE_S = 5.0
MAX_REST_S = 1.0
RETIRED = "exit code 0"
"""How a worker ends that was told to."""
_BOOT = (
    "'guildhall fork server and workers'; import gc, sys; gc.disable(); control, client, count, *rest = sys.argv[1:]; "
    "sys.path[:], sys.argv[:] = rest[:int(count)], rest[int(count):]; "
    "from guildhall.engine.local.forkserver import main; main(int(control), int(client))"
)
"""Not `-m`: the path has to be the client's before the first import, without the working directory in front of it. What
`ps` shows begins with who it is."""

_ends: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class ForkServer:
    """The fork server of this client, as the client holds it. It ends with the client, and all workers with it.

    Made as soon as the process is started: what it imports, it imports while the client makes the hall.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        _ends.update((ours, theirs))
        self.line = Line(ours)
        self.failure = ""
        path = [where for entry in sys.path if (where := entry or _working_directory())]
        facts = [str(theirs.fileno()), str(os.getpid()), str(len(path))]
        try:
            with theirs, _interrupts_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, *facts, *path, *sys.argv],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Who kills the client's whole group, as Jupyter does, leaves one to tidy up.
                )
        except OSError as error:
            ours.close()
            raise Broken(f"fork server: {sys.executable!r} cannot be started: {error}") from error
        except BaseException:
            ours.close()  # If it is running, it ends by this.
            raise
        self.pid = self._process.pid

    def ask(self, verb: str, about: str = "") -> None:
        with suppress(OSError):  # It has ended; `receive` says so.
            self.line.send(verb, about)

    def receive(self, timeout_s: float | None) -> list[tuple[str, str]]:
        """What it has to tell: at least one message, none when it has ended. Raises TimeoutError."""
        self.line.socket.settimeout(timeout_s)
        messages = self.line.receive()
        for verb, about in messages:
            if verb in ("failed", "refused"):
                self.failure = about
        return messages

    def end(self) -> str:
        """End it and its workers, at once. Returns how it ended, also if it has ended before."""
        self.ask("bye")
        try:
            status = self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:  # It is stopped, perhaps.
            self._process.kill()
            status = self._process.wait()
        return describe_exit(status)

    def close(self) -> None:
        self.end()
        self.line.close()


class WorkerProcess:
    """One worker, held so that a signal never meets another process that got its number."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.has_joined = False
        self.has_ended = False
        self._fd = -1
        with suppress(AttributeError, OSError):  # Not Linux; or it has ended, and the message is under way.
            self._fd = os.pidfd_open(pid)

    def strike(self) -> None:
        """Kill it. Its parent tells of its end."""
        with suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)
            elif not self.has_ended:
                os.kill(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kill it and see it gone: it has lost the parent whose task that was."""
        if self._fd >= 0:
            self.strike()
            poll = select.poll()
            poll.register(self._fd, select.POLLIN)
            poll.poll(CLOSE_S * 1000)
        elif not self.has_ended and not hasattr(os, "pidfd_open"):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.forget()

    def forget(self) -> None:
        """It has ended."""
        self.has_ended = True
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pool:
    """`n_workers` processes in the host's hall. A supervisor thread replaces those that die, and the fork server.

    Made when all workers have joined the hall. Raises Broken, with the reason, when one cannot; then none is left.
    """

    def __init__(self, host: EmbeddedHost, n_workers: int, server: ForkServer, options: WorkerOptions) -> None:
        self.host = host
        self.n_workers = n_workers
        self._told = packed(options, host.directory)
        self.server = server
        self.processes: list[WorkerProcess] = []
        self.exits: dict[int, str] = {}
        """How workers ended, by process id, the latest last."""
        self._pid = os.getpid()
        self._rest_s = 0.0
        self._gate = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True, name="guildhall-supervisor")
        try:
            self._enlist()
            payload.load_ahead()  # The server still imports.
            self._await_workers()
            self._thread.start()
        except BaseException:
            self.close()
            raise

    # -- starting -----------------------------------------------------------------------------------------------------

    def _enlist(self) -> None:
        """Ask a new fork server for all workers."""
        if self.host.is_private:
            self.server.ask("remove", self.host.directory)
        for _ in range(self.n_workers):
            self.server.ask("worker", self._told)

    def _await_workers(self) -> None:
        """Until every worker has joined the hall."""
        until = deadline.after(START_S)
        while (joined := sum(process.has_joined for process in self.processes)) < self.n_workers:
            try:
                why = self._what_failed(is_serving=self._listen(deadline.left(until)))
            except TimeoutError:
                why = f"no more in {START_S:g} s"
            if why:
                raise Broken(f"{joined} of {self.n_workers} workers started: {why}")

    def _what_failed(self, is_serving: bool) -> str:
        if self.server.failure:
            return self.server.failure
        if self.exits:
            ends = ", ".join(f"worker {pid}: {how}" for pid, how in self.exits.items())
            return f"{ends}, before all had joined the hall"
        if not is_serving:
            return f"fork server {self.server.pid}: {self.server.end()}; its standard error says why"
        return ""

    # -- supervising --------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        while not self._closing.is_set():
            if not self._listen(None):
                self._renew()

    def _listen(self, timeout_s: float | None) -> bool:
        """Wait for news of the fork server and act on it. False: it has ended."""
        messages = self.server.receive(timeout_s)
        for verb, about in messages:
            if verb == "started":
                self._place(WorkerProcess(int(about)))
            elif verb == "joined":
                self._find(about).has_joined = True
                self._rest_s = 0.0
            elif verb == "ended":
                pid, _, status = about.partition(" ")
                self._replace(self._find(pid), describe_exit(os.waitstatus_to_exitcode(int(status))))
            elif verb == "refused":
                self._ask_again()
        return bool(messages)

    def _place(self, process: WorkerProcess) -> None:
        """Put it where one has ended."""
        for place, other in enumerate(self.processes):
            if other.has_ended:
                self.processes[place] = process
                return
        self.processes.append(process)

    def _find(self, pid: str) -> WorkerProcess:
        return next(process for process in self.processes if process.pid == int(pid) and not process.has_ended)

    def _replace(self, process: WorkerProcess, how: str) -> None:
        process.forget()
        if how != RETIRED:
            self._record(process.pid, how)
        with self._gate:
            is_surplus = self._alive() >= self.n_workers
            if is_surplus:
                self.processes.remove(process)
        if is_surplus:
            return
        if process.has_joined:
            self.server.ask("worker", self._told)
        else:
            self._ask_again()

    def _alive(self) -> int:
        return sum(not process.has_ended for process in self.processes)

    def scale(self, n_workers: int) -> None:
        """So many workers from now on: more are started, surplus ones end when the tasks that they run have ended."""
        with self._gate:
            self.n_workers, before = n_workers, self.n_workers
            for _ in range(n_workers - before):
                self.server.ask("worker", self._told)
            surplus = [process for process in self.processes if not process.has_ended][n_workers:]
        crew = self.host.read(tasks.crew)
        for process in surplus:
            for session, info in crew.items():
                if info.pid == process.pid:
                    order(self.host, session, "retire")

    def restart(self) -> None:
        """Kill every worker. Others take their places."""
        for process in list(self.processes):
            if process.has_joined:
                process.strike()

    def _record(self, pid: int, how: str) -> None:
        """Tell how a worker ended, then bury it: whose task it ran may ask."""
        self.exits.pop(pid, None)
        self.exits[pid] = how
        with suppress(Broken, Misuse):  # The hall is full or closed. Who looks next buries it.
            self.host.bury_dead()

    def _ask_again(self) -> None:
        """For a worker in place of one that did not come to work."""
        self._rest()
        self.server.ask("worker", self._told)

    def _rest(self) -> None:
        """What fails again and again is tried ever more slowly, until a worker joins."""
        self._closing.wait(self._rest_s)
        self._rest_s = min(MAX_REST_S, 2 * self._rest_s or 0.01)

    def _renew(self) -> None:
        """The fork server has ended: see that its workers have, too, and start another one."""
        ended = self.server
        how = f"its fork server {ended.pid} ended ({ended.end()})"
        for process in self.processes:
            if not process.has_ended:
                process.kill()
                self._record(process.pid, how)
        self._rest()
        with self._gate:  # Not while `close` looks at which server to end.
            if not self._closing.is_set():
                with suppress(Broken):  # No process to be had: the old one's end is heard again, and we come back.
                    self.server = ForkServer()
                    ended.line.close()
                    self._enlist()

    # -- ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all workers, at once. Does nothing in a forked child, whose workers they are not."""
        if os.getpid() != self._pid:
            return
        with self._gate:
            self._closing.set()
        self.server.end()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
        for process in self.processes:
            process.kill()
        self.server.line.close()
        with suppress(Exception):
            self.host.bury_dead()


def order(host: EmbeddedHost, session: int, what: str, *args: object) -> None:
    """Have the worker of that session call a function of `worker.py`, soon; nobody hears of the end."""
    from . import worker  # Which a client that orders nothing does not need.

    recipe = Recipe(what, pickle.dumps(getattr(worker, what)), pickle.dumps((args, {})), is_plain=True)
    host.transact(inbox.order, session, host.new_object(), recipe)


def _working_directory() -> str:
    """Where this process works, "" if that has been removed: then nothing can be imported from there."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def describe_exit(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        known = {one.value: one.name for one in signal.Signals}
        return f"killed by {known.get(-status, f'signal {-status}')}"
    return "ended at its memory_limit" if status == memory.STATUS else f"exit code {status}"


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process started meanwhile begins with SIGINT blocked: Ctrl-C cannot end it before it ignores that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _close_ends() -> None:
    for end in list(_ends):
        end.close()


os.register_at_fork(after_in_child=_close_ends)  # A child that kept the line open would hide the client's end.
