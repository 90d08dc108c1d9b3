"""Looking into a hall without being in it: nobody notices, and the process that looks may join at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from faults import Child, eventually

import guildhall
from guildhall import HallDamaged, HallRefused, Lock, Misuse, NoHall, Queue, Variable
from guildhall.hosts import embedded
from guildhall.primitives import sessions

TELL = """
import guildhall, sys
with guildhall.observe(sys.argv[1]) as seen:
    print(*(f"{one.number} {one.is_alive}" for one in seen.snapshot().sessions), sep=",")
"""


def told(path: str) -> str:
    """Who is alive, as another process sees it."""
    done = subprocess.run([sys.executable, "-c", TELL, path], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_observer_is_no_session_and_writes_nothing(tmp_path: Path) -> None:
    with guildhall.open(tmp_path / "h") as hall:
        Variable("v", hall=hall).set(1)
        revision = hall.host.revision()
        assert told(hall.path) == "1 True"
        assert hall.host.revision() == revision
    assert told(str(tmp_path / "h")) == ""


def test_a_process_that_looks_into_its_own_hall_stays_alive_in_it(tmp_path: Path) -> None:
    """Closing a second descriptor of the members file would end its session for all others."""
    with guildhall.open(tmp_path / "h") as hall:
        for _ in range(2):
            with guildhall.observe(tmp_path / "h") as seen:
                assert len(seen.snapshot().sessions) == 1
            embedded.is_in_use(hall.path)
        assert told(hall.path) == "1 True"


def test_who_looks_may_join_and_leave_and_go_on_looking(tmp_path: Path) -> None:
    guildhall.open(tmp_path / "h").close()
    with guildhall.observe(tmp_path / "h") as one, guildhall.observe(tmp_path / "h") as other:
        assert one.snapshot().sessions == ()
        with guildhall.open(tmp_path / "h") as hall:
            Queue("q", hall=hall).put(1)
            assert len(one.snapshot().sessions) == 1
            assert told(hall.path) == "2 True"
        assert other.snapshot().things["queue"][0].statistics.size == 1
    assert told(str(tmp_path / "h")) == ""
    with guildhall.open(tmp_path / "h") as hall:
        assert Queue("q", hall=hall).get(timeout=0) == 1
        assert told(hall.path) == "3 True"


FILL = """
import guildhall, sys
with guildhall.open(sys.argv[1]) as hall:
    queue = guildhall.Queue("q", hall=hall)
    for _ in range(400):
        queue.put("x" * 50_000)
    print(flush=True)
    sys.stdin.readline()
"""


def test_an_observer_follows_a_store_that_grows(tmp_path: Path, hall_name: str) -> None:
    for where in (hall_name, str(tmp_path / "h")):
        guildhall.open(where).close()
        with guildhall.observe(where) as seen:
            pipe = subprocess.PIPE
            writer = subprocess.Popen([sys.executable, "-c", FILL, where], stdin=pipe, stdout=pipe)
            sizes = {0}
            while max(sizes) < 400:
                assert writer.poll() is None
                things = seen.snapshot().things
                sizes.add(things["queue"][0].statistics.size if things else 0)
            assert [one.pid for one in seen.snapshot().sessions] == [writer.pid]
            assert seen.snapshot().store.file_bytes > 20_000_000
            writer.communicate(b"\n")
            assert seen.snapshot().sessions == ()


LOOK_ON = """
import guildhall, sys
with guildhall.observe(sys.argv[1]) as seen:
    print(flush=True)
    while True:
        seen.snapshot()
"""


def test_who_is_suspended_while_looking_keeps_nothing(hall_name: str) -> None:
    """Ctrl-Z waits until the read is over: a reader that sleeps would make the store grow."""
    with guildhall.open(hall_name) as hall:
        for number in range(1, 50):
            Variable(number, hall=hall).set(number)
        # In a group of its own, as of a shell: in one that nobody minds, the system ignores Ctrl-Z.
        looking = subprocess.Popen([sys.executable, "-c", LOOK_ON, hall_name], stdout=subprocess.PIPE, process_group=0)
        assert looking.stdout is not None
        looking.stdout.readline()
        try:
            for _ in range(40):
                looking.send_signal(signal.SIGTSTP)
                assert eventually(lambda: psutil.Process(looking.pid).status() == psutil.STATUS_STOPPED)
                reading = [one for one in hall.host.readers() if one.pid == looking.pid and one.transaction]
                assert reading == []
                looking.send_signal(signal.SIGCONT)
                time.sleep(0.003)
        finally:
            looking.kill()
            looking.communicate()


def test_threads_look_while_others_join_and_leave(tmp_path: Path) -> None:
    guildhall.open(tmp_path / "h").close()
    errors = []

    def look() -> None:
        try:
            for _ in range(100):
                with guildhall.observe(tmp_path / "h") as seen:
                    seen.looking.read(sessions.everybody)
                    seen.looking.revision()
        except BaseException as error:
            errors.append(error)

    def join() -> None:
        try:
            for _ in range(20):
                guildhall.open(tmp_path / "h").close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for work in (look, look, join, join)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert not any(thread.is_alive() for thread in threads)


def test_a_forked_child_goes_on_looking(tmp_path: Path) -> None:
    with guildhall.open(tmp_path / "other"):
        path = str(tmp_path / "h")
        owner = subprocess.Popen(
            [sys.executable, "-c", f"import guildhall, sys; h = guildhall.open({path!r}); print(flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert owner.stdout is not None
        owner.stdout.readline()
        with guildhall.observe(path) as seen:
            assert Child(lambda: [one.is_alive for one in seen.snapshot().sessions]).result() == [True]
            assert [one.is_alive for one in seen.snapshot().sessions] == [True]
            owner.kill()
            owner.communicate()
            assert [one.is_alive for one in seen.snapshot().sessions] == [False]


def test_what_cannot_be_looked_into_is_refused(tmp_path: Path, hall_name: str) -> None:
    for missing in ("no-such", tmp_path / "no", "private-1-1", ".hidden"):
        with pytest.raises(NoHall, match="guildhall ls"):
            guildhall.observe(missing)
    with guildhall.open(hall_name) as hall:
        path = Path(hall.path)
    with guildhall.observe(hall_name) as seen:
        pass
    with pytest.raises(Misuse, match="closed"):
        seen.snapshot()
    path.chmod(0o755)
    with pytest.raises(HallRefused, match="chmod 700"):
        guildhall.observe(hall_name)
    path.chmod(0o700)
    (path / "namespace").write_text("pid:[4711]")
    with pytest.raises(HallRefused, match="container"):
        guildhall.observe(hall_name)
    (path / "guard").unlink()
    with pytest.raises(HallDamaged, match="guard"):
        guildhall.observe(hall_name)


def test_the_lock_of_a_process_that_observes_stays_its_own(hall_name: str) -> None:
    with guildhall.open(hall_name) as hall, Lock("l", hall=hall):
        with guildhall.observe(hall_name) as seen:
            (holder,) = seen.snapshot().things["lock"][0].statistics.holders
            assert holder.pid == os.getpid()
        assert Child(_is_free, hall_name).result() is False


def _is_free(name: str) -> bool:
    with guildhall.open(name) as hall:
        hall.host.bury_dead()
        return Lock("l", hall=hall).acquire(timeout=0)
