"""Halls of their own for each test, and a look at what the whole run left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import guildhall
from guildhall import Client
from guildhall.hosts import embedded

signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell starts what runs in its background without.


@pytest.fixture(autouse=True, scope="session")
def _nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Shared memory and a temporary directory of our own, so that whatever is left there is ours."""
    tmp_path_factory.getbasetemp()
    home = Path("/dev/shm") / f"guildhall-test-{os.getpid()}"
    spill = Path(tempfile.gettempdir()) / f"guildhall-test-{os.getpid()}"
    for place in (home, spill):
        place.mkdir(mode=0o700)
    os.environ["GUILDHALL_HOME"] = str(home)
    os.environ["TMPDIR"] = tempfile.tempdir = str(spill)
    yield
    psutil.wait_procs(psutil.Process().children(recursive=True), timeout=3)
    running = [process.cmdline() for process in _ours(str(home))]
    left = [str(path) for path in (*home.glob("guildhall-*/*"), *spill.glob("guildhall-*"))]
    left += [
        str(path) for path in Path("/dev/shm").glob(f"guildhall-*/private-{os.getpid()}-*") if home not in path.parents
    ]
    left += [
        line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path_factory.getbasetemp()) in line
    ]
    for place in (home, spill):
        shutil.rmtree(place)
    assert not running, f"processes left behind: {running}"
    assert not left, f"left behind: {left}"


@pytest.fixture(autouse=True, scope="module")
def _nothing_open() -> Iterator[None]:
    """A hall that a test leaves open would be seen by tests of other modules."""
    yield
    left = [host.directory for host in embedded._hosts.values()]
    assert not left, f"left open: {left}"


def _ours(home: str) -> Iterator[psutil.Process]:
    """Our children, and who else works in our halls: a worker whose parent has gone is nobody's child."""
    children = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if "multiprocessing.resource_tracker" in " ".join(process.cmdline()):
                continue
            mine = process.pid != os.getpid() and process.environ().get("GUILDHALL_HOME", "").startswith(home)
            if process.status() != psutil.STATUS_ZOMBIE and (process in children or mine):
                yield process


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A test marked `alone` has no other thread in its process: the runner's own one would be one that might act."""
    if pyfuncitem.get_closest_marker("alone") is None or len(sys._current_frames()) == 1:
        return None
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        told = "the process ended by itself"
        try:
            arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
            pyfuncitem.obj(**arguments)
            told = ""
        except BaseException:
            told = traceback.format_exc()
        finally:
            os.write(writing, told.encode()[-60_000:])
            os._exit(0 if not told else 1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        pytest.fail(f"in a process of its own, which ended with {code}:\n{told}", pytrace=False)
    return True


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(n_workers=2) as made:
        yield made


@pytest.fixture
def hall() -> Iterator[guildhall.Hall]:
    """A private hall without workers."""
    with guildhall.open() as made:
        yield made


@pytest.fixture
def hall_name() -> Iterator[str]:
    """The name of a hall that nobody else uses; the hall is removed afterwards, for one with a name stays."""
    name = f"named-{os.urandom(4).hex()}"
    yield name
    shutil.rmtree(Path(os.environ["GUILDHALL_HOME"]) / f"guildhall-{os.getuid()}" / name, ignore_errors=True)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A memory file system of 8 MiB; needs the right to mount."""
    point = tmp_path / "small"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", str(point)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs privileges")
    yield point
    subprocess.run(["umount", str(point)], check=True)
