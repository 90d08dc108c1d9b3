"""The fork server and its workers: whoever is killed, stopped or stuck, nobody is left and the work goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from guildhall import Broken, Client, KilledWorker

END_S = 2.0
"""Nothing of a killed client is there after that."""
LONG_S = 20.0
"""Never reached, unless something hangs."""


def soon(is_so: Callable[[], bool], limit_s: float = LONG_S) -> bool:
    """Whether it becomes so in that time."""
    until = time.monotonic() + limit_s
    while not is_so() and time.monotonic() < until:
        time.sleep(0.01)
    return is_so()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pids(client: Client) -> list[int]:
    """The workers', once all are at work."""
    pool = client.cluster.pool
    assert soon(lambda: all(process.has_joined and not process.has_ended for process in pool.processes))
    return [process.pid for process in pool.processes]


class Script:
    """A client in a process of its own, which has told the pids of its server and workers and where its hall is."""

    def __init__(self, text: str, tmp_path: Path, **options: Any) -> None:
        path = tmp_path / "script.py"
        path.write_text(SCRIPT + text)
        self.process = subprocess.Popen(
            [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.hall, *numbers = self.out.readline().split()
        self.pids = [int(number) for number in numbers]

    def is_gone(self) -> bool:
        return not os.path.exists(self.hall) and not any(map(is_running, self.pids))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        for pid in [self.process.pid, *self.pids]:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate(timeout=LONG_S)


SCRIPT = """
import ctypes, os, signal, subprocess, sys, threading, time
from guildhall import Client, Event
signal.signal(signal.SIGINT, signal.default_int_handler)

def tell(client):
    pool = client.cluster.pool
    print(client.host.directory, pool.server.pid, *(process.pid for process in pool.processes), flush=True)

"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def make(text: str, **options: Any) -> Script:
        made.append(Script(text, tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# The client ends.


@pytest.mark.parametrize(
    "stuck",
    [
        "ctypes.PyDLL(None).sleep(60)",
        "__import__('re').match('(a?){64}a{64}(?!a)', 'a' * 64 + 'b')",
        "time.sleep(60)",
        "Event('never').wait()",
        "os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_a_killed_client_leaves_nothing_whatever_its_workers_are_stuck_in(
    script: Callable[..., Script], stuck: str
) -> None:
    one = script(f"""
def get_stuck():
    print("stuck", flush=True)
    {stuck}

client = Client(n_workers=2)
tell(client)
client.submit(get_stuck).result()
""")
    assert one.out.readline() == "stuck\n"
    one.kill()
    assert soon(one.is_gone, END_S)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_client_killed_with_its_whole_process_group_leaves_nothing(
    script: Callable[..., Script], signum: signal.Signals
) -> None:
    heed = (
        "" if signum == signal.SIGKILL else f"signal.signal({signum:d}, signal.SIG_DFL)  # Under nohup it is ignored."
    )
    one = script(
        f"""
{heed}
client = Client(n_workers=2)
tell(client)
time.sleep({LONG_S})
""",
        start_new_session=True,
    )
    os.killpg(one.process.pid, signum)
    one.process.wait(END_S)
    assert soon(one.is_gone, END_S)


@pytest.mark.parametrize("fork", ["os.fork()", "ctypes.PyDLL(None).fork()"])
def test_a_forked_child_of_the_client_keeps_no_worker_alive(script: Callable[..., Script], fork: str) -> None:
    one = script(f"""
client = Client(n_workers=2)
child = {fork}
if child == 0:
    os.close(1)
    os.close(2)
    time.sleep({LONG_S})
    os._exit(0)
tell(client)
print(child, flush=True)
time.sleep({LONG_S})
""")
    child = int(one.out.readline())
    one.kill()
    try:
        assert soon(one.is_gone, END_S)
        assert is_running(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_disturbs_nothing(client: Client) -> None:
    before = pids(client)
    child = os.fork()
    if not child:
        status = 1
        try:
            status = client.submit(os.getpid).result(timeout=LONG_S) in before and 7
            client.cluster.close()
            client.cluster.pool.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert client.submit(os.getpid).result(timeout=LONG_S) in before
    assert pids(client) == before


def test_ctrl_c_to_the_whole_group_ends_the_client_cleanly(script: Callable[..., Script]) -> None:
    one = script(
        "with Client(n_workers=2) as client:\n    tell(client)\n    client.submit(time.sleep, 60).result()",
        start_new_session=True,
    )
    time.sleep(0.2)
    os.killpg(one.process.pid, signal.SIGINT)
    _, errors = one.process.communicate(timeout=LONG_S)
    assert one.process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt\n") == 1
    assert one.is_gone()


@pytest.mark.parametrize("wait_s", [0, 0.005, 0.02, 0.04])
def test_ctrl_c_while_it_starts_is_the_clients_alone(script: Callable[..., Script], wait_s: float) -> None:
    one = script(
        f"""
print("nowhere", flush=True)
def interrupt():
    while not open(f"/proc/self/task/{{os.getpid()}}/children").read():
        time.sleep(0.0005)
    time.sleep({wait_s})
    os.killpg(0, signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    with Client(n_workers=2):
        time.sleep({LONG_S})
except KeyboardInterrupt:
    print("interrupted", flush=True)
time.sleep({LONG_S})
""",
        start_new_session=True,
    )
    assert one.out.readline() == "interrupted\n"
    assert soon(lambda: not any(is_running(child.pid) for child in psutil.Process(one.process.pid).children()), END_S)
    one.kill()
    assert one.process.communicate(timeout=LONG_S) == ("", "")


def test_a_closed_client_leaves_nothing_not_even_a_zombie() -> None:
    client = Client(n_workers=2)
    client.submit(os.getpid).result(timeout=LONG_S)
    everybody = [client.cluster.pool.server.pid, *pids(client)]
    client.close()
    assert not any(map(psutil.pid_exists, everybody))
    assert not os.path.exists(client.host.directory)


def test_a_closed_client_leaves_nothing_of_a_stopped_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guildhall.engine.local.pool.CLOSE_S", 0.2)
    client = Client(n_workers=2)
    everybody = [client.cluster.pool.server.pid, *pids(client)]
    os.kill(everybody[0], signal.SIGSTOP)
    client.close()
    assert soon(lambda: not any(map(is_running, everybody)))
    assert not os.path.exists(client.host.directory)


def test_a_client_may_be_made_in_a_thread_that_ends() -> None:
    made: list[Client] = []
    thread = threading.Thread(target=lambda: made.append(Client(n_workers=1)))
    thread.start()
    thread.join()
    with made[0] as client:
        before = pids(client)
        time.sleep(0.2)
        assert client.submit(os.getpid).result(timeout=LONG_S) == before[0]


def test_spilled_blobs_go_with_a_killed_client(script: Callable[..., Script], tmp_path: Path) -> None:
    one = script(
        f"client = Client(n_workers=1)\ntell(client)\ntime.sleep({LONG_S})", env=os.environ | {"TMPDIR": str(tmp_path)}
    )
    mine, other = tmp_path / f"guildhall-{os.getuid()}-mine", tmp_path / f"guildhall-{os.getuid()}-other"
    mine.touch()
    other.touch()
    (Path(one.hall) / "blobs" / "1-1").symlink_to(mine)
    one.kill()
    assert soon(one.is_gone, END_S)
    assert soon(lambda: not mine.exists(), END_S)
    assert other.exists()


# A worker or the server ends.


def test_a_killed_worker_is_replaced_and_its_exit_described(client: Client) -> None:
    dead, other = pids(client)
    os.kill(dead, signal.SIGKILL)
    assert soon(lambda: dead not in pids(client))
    assert client.cluster.pool.exits[dead] == "killed by SIGKILL"
    assert pids(client)[1] == other
    assert set(client.gather(client.map(lambda _: (time.sleep(0.05), os.getpid())[1], range(8)))) == set(pids(client))


def test_the_exit_code_of_a_worker_is_told(client: Client) -> None:
    with pytest.raises(KilledWorker, match=r"local://\d+ \(process \d+\), exit code 3"):
        client.submit(os._exit, 3).result(timeout=LONG_S)


def test_a_killed_server_takes_its_workers_along_and_another_one_starts(client: Client) -> None:
    server, old = client.cluster.pool.server.pid, pids(client)
    stuck = client.submit(time.sleep, 0.5)
    os.kill(server, signal.SIGKILL)
    assert stuck.result(timeout=LONG_S) is None
    assert client.gather(client.map(abs, range(-100, 0))) == list(range(100, 0, -1))
    assert soon(lambda: not any(map(is_running, [server, *old])), END_S)
    assert soon(lambda: len(set(pids(client)) - set(old)) == 2)
    assert "fork server" in client.cluster.pool.exits[old[0]]


def test_workers_end_when_client_and_server_are_killed_together(script: Callable[..., Script]) -> None:
    one = script(
        """
client = Client(n_workers=2)
tell(client)
print("stuck", flush=True)
client.submit(ctypes.PyDLL(None).sleep, 60).result()
""".replace("ctypes.PyDLL(None).sleep, 60", "lambda: ctypes.PyDLL(None).sleep(60)")
    )
    time.sleep(0.2)
    os.kill(one.process.pid, signal.SIGSTOP)
    os.kill(one.pids[0], signal.SIGKILL)
    one.kill()
    assert soon(lambda: not any(map(is_running, one.pids)), END_S)


# What workers are given.


def test_workers_see_what_the_client_had_at_its_start(script: Callable[..., Script], tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise ImportError('the directory we are in is not on the path')")
    (tmp_path / "lib").mkdir()
    one = script(
        """
sys.path[0] = "lib"
sys.argv.append("--word")
os.environ["GIVEN"] = "yes"
def facts():
    return sys.path, sys.argv, dict(os.environ), os.getcwd()
client = Client(n_workers=1)
tell(client)
print(client.submit(facts).result() == facts())
print(client.submit(os.readlink, "/proc/self/fd/0").result())
print(client.submit(lambda: {"numpy", "random", "asyncio", "subprocess"} & set(sys.modules)).result())
client.submit(print, "printed by a worker").result()
client.close()
""",
        cwd=tmp_path,
    )
    assert one.process.wait(LONG_S) == 0
    assert one.out.read().splitlines() == ["True", "/dev/null", "set()", "printed by a worker"]


def descriptors(process: int | str = "self") -> list[str]:
    """What the descriptors of a process are, beside the standard streams."""
    place = f"/proc/{process}/fd"
    return [os.readlink(f"{place}/{fd}") for fd in os.listdir(place) if int(fd) > 2 and os.path.exists(f"{place}/{fd}")]


def test_a_worker_inherits_no_descriptor_but_the_standard_streams(client: Client) -> None:
    of_server = descriptors(client.cluster.pool.server.pid)
    assert not any(client.host.directory in name for name in of_server)
    numbered = {name for name in of_server if name.startswith(("socket:", "pipe:"))}
    assert len(numbered) == 5  # The line to the client, and two pairs.
    for worker in pids(client):
        assert not numbered & set(descriptors(worker))


def test_workers_begin_in_the_main_thread_with_signals_of_their_own(client: Client) -> None:
    def facts() -> tuple[bool, Any, Any, int]:
        is_main = threading.current_thread() is threading.main_thread()
        wakeup = signal.set_wakeup_fd(-1)
        return is_main, signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, ()), wakeup

    assert client.submit(facts).result(timeout=LONG_S) == (True, signal.SIG_DFL, set(), -1)
    assert len(os.listdir(f"/proc/{client.cluster.pool.server.pid}/task")) == 1


def test_workers_draw_different_random_numbers(client: Client) -> None:
    def draw() -> tuple[float, float]:
        import random

        import numpy

        time.sleep(0.05)
        return random.random(), float(numpy.random.random())

    drawn = client.gather([client.submit(draw) for _ in range(8)])
    assert len({a for a, _ in drawn}) == len({b for _, b in drawn}) == 8


# It cannot start.


def left_of_us() -> set[object]:
    """Processes that we started, zombies too, and private halls."""
    halls = Path(os.environ["GUILDHALL_HOME"]).glob(f"guildhall-*/private-{os.getpid()}-*")
    return {*halls, *psutil.Process().children(recursive=True)}


@contextmanager
def refused(match: str) -> Iterator[None]:
    """Broken with that message, and nothing left."""
    before = left_of_us()
    with pytest.raises(Broken, match=match):
        yield
    assert left_of_us() <= before


def test_a_failing_import_in_the_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lmdb.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.syspath_prepend(tmp_path)
    with refused("0 of 2 workers.*cannot import.*broken on purpose"):
        Client(n_workers=2)


def test_a_server_that_ends_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guildhall.py").write_text("raise SystemExit(9)")
    monkeypatch.syspath_prepend(tmp_path)
    with refused("0 of 2 workers.*fork server.*exit code 9"):
        Client(n_workers=2)


def test_an_interpreter_that_cannot_be_started_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with refused("'/no/such/python' cannot be started"):
        Client(n_workers=2)


def test_a_worker_that_cannot_join_the_hall_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import guildhall.hosts.place as it; it.filesystem = lambda path: 'nfs'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with refused("0 of 2 workers.*HallRefused.*nfs, a network file system"):
        Client(n_workers=2)
