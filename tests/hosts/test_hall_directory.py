"""Halls that cannot be trusted, used or read: refused with the reason and the next step, never with a signal."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import Child

import guildhall
from guildhall import HallDamaged, HallRefused, Lock, Misuse, Queue, Variable
from guildhall.hosts import embedded
from guildhall.hosts.sweeper import Sweeper

NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GUILDHALL_HOME", str(tmp_path))
    return tmp_path / f"guildhall-{os.getuid()}"


def refused(what: Any, *words: str) -> None:
    """Opening is refused, and the message says where and why."""
    with pytest.raises(HallRefused) as error:
        guildhall.open(what)
    for word in words:
        assert word in str(error.value)


def test_a_directory_of_another_user_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, -1)
    for name in (None, "jobs"):
        refused(name, str(home), f"user {NOBODY}", "GUILDHALL_HOME")


def test_a_hall_of_another_user_is_refused(tmp_path: Path) -> None:
    guildhall.open(tmp_path / "h").close()
    os.chown(tmp_path / "h", NOBODY, -1)
    refused(tmp_path / "h", str(tmp_path / "h"), f"user {NOBODY}")


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_directory_open_to_others_is_refused(home: Path, tmp_path: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)
    refused("jobs", str(home), f"{mode:o}", "chmod 700")
    guildhall.open(tmp_path / "h").close()
    (tmp_path / "h").chmod(mode)
    refused(tmp_path / "h", "chmod 700")


def test_a_link_in_the_place_of_the_home_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.symlink_to(tmp_path / "elsewhere")
    refused("jobs", str(home), "link")


def test_a_file_in_the_place_of_a_directory_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", str(tmp_path / "file"))
    refused(tmp_path / "file" / "h", str(tmp_path / "file"))
    home.write_text("mine")
    refused("jobs", str(home))
    home.unlink()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_with_other_things_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir(mode=0o700)
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    refused(tmp_path / "photos", str(tmp_path / "photos"))
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.jpg"]
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_an_empty_directory_becomes_a_hall(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir(mode=0o755)
    with guildhall.open(tmp_path / "h") as hall:
        Variable("v", hall=hall).set(1)


def test_missing_parents_are_made_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with guildhall.open(tmp_path / "a" / "b" / "h") as hall:
        Variable("v", hall=hall).set(1)
    monkeypatch.setenv("GUILDHALL_HOME", str(tmp_path / "no" / "such"))
    with guildhall.open() as hall:
        assert hall.path.startswith(str(tmp_path / "no" / "such"))


def test_a_home_that_is_a_file_or_a_loop_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop"):
        monkeypatch.setenv("GUILDHALL_HOME", str(tmp_path / name))
        refused("jobs", str(tmp_path / name))
        refused(None, str(tmp_path / name))
    refused(tmp_path / "loop", str(tmp_path / "loop"))


@pytest.fixture
def read_only(small_tmpfs: Path) -> Path:
    guildhall.open(small_tmpfs / "made").close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_tmpfs)], check=True)
    return small_tmpfs


def test_a_read_only_file_system_is_refused(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(read_only / "new", str(read_only / "new"), "ead-only")
    refused(read_only / "made", str(read_only / "made"), "ead-only")
    monkeypatch.setenv("GUILDHALL_HOME", str(read_only))
    refused("jobs", str(read_only), "ead-only")


def test_a_place_where_this_user_may_not_write_is_refused(tmp_path: Path) -> None:
    for place in [tmp_path, *tmp_path.parents][:-2]:
        os.chmod(place, 0o755)
    code = "import guildhall, sys\ntry: guildhall.open(sys.argv[1])\nexcept guildhall.HallRefused as e: print(e)"
    asked = ["setpriv", f"--reuid={NOBODY}", "--clear-groups", sys.executable, "-c", code, str(tmp_path / "h")]
    done = subprocess.run(asked, capture_output=True, text=True)
    if "ModuleNotFoundError" in done.stderr or "ermission denied" in done.stderr.split("\n")[0]:
        pytest.skip("another user cannot read this checkout")
    assert str(tmp_path / "h") in done.stdout, done.stderr
    assert "ermission denied" in done.stdout


def test_a_hall_made_in_another_container_is_refused(tmp_path: Path) -> None:
    guildhall.open(tmp_path / "h").close()
    (tmp_path / "h" / "namespace").write_text("pid:[4711]")
    refused(tmp_path / "h", str(tmp_path / "h"), "another container", "4711")


@pytest.mark.parametrize("name", ["namespace", "guard", "lock.mdb", "bells", "blobs"])
def test_a_hall_with_a_missing_part_is_damaged(tmp_path: Path, name: str) -> None:
    guildhall.open(tmp_path / "h").close()
    part = tmp_path / "h" / name
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(HallDamaged, match=rf"{tmp_path / 'h'}.*{name} is gone"):
        guildhall.open(tmp_path / "h")


LOOK = """
import sys, guildhall
try:
    with guildhall.open(sys.argv[1]) as hall:
        for n in range(200):
            guildhall.Variable(f"v{n}", hall=hall).get(timeout=0)
            guildhall.Variable(f"v{n}", hall=hall).set("y" * 3000)
        guildhall.Queue("q", hall=hall).put_many(range(100))
except guildhall.HallDamaged as error:
    assert sys.argv[1] in str(error) or "record" in str(error), error
    print("damaged")
except guildhall.TimedOut:
    print("lost")
else:
    print("whole")
"""


def spoiled(source: Path, target: Path, spoil: Any) -> str:
    """What a process says that opens and uses a copy of the hall that was spoiled."""
    shutil.copytree(source, target)
    spoil(target / "data.mdb")
    done = subprocess.run([sys.executable, "-c", LOOK, str(target)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-600:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module", params=["shared memory", "disk"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A closed hall of 200 variables. Where it lies decides how it is mapped."""
    place = (
        tmp_path_factory.mktemp("halls") if request.param == "disk" else Path(os.environ["GUILDHALL_HOME"]) / "written"
    )
    place.mkdir(exist_ok=True)
    make = (
        "import sys, guildhall; hall = guildhall.open(sys.argv[1])\n"
        "for n in range(200): guildhall.Variable(f'v{n}', hall=hall).set('x' * 3000)\nhall.close()"
    )
    subprocess.run([sys.executable, "-c", make, str(place / "h")], check=True)
    yield place / "h"
    shutil.rmtree(place)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.5, 0.9])
def test_a_truncated_store_is_damaged(written: Path, share: float) -> None:
    def cut(data: Path) -> None:
        used = (written.parent / "h" / "data.mdb").stat().st_size
        os.truncate(data, int(used * share) if share else 0)

    said = spoiled(written, written.parent / f"cut-{share}", cut)
    assert said == "damaged" or (share == 0.9 and said == "whole")


@pytest.mark.parametrize("what", ["random", "zeros", "text"])
def test_an_overwritten_store_is_damaged(written: Path, what: str) -> None:
    def overwrite(data: Path) -> None:
        size = data.stat().st_size
        data.write_bytes({"random": os.urandom(size), "zeros": bytes(size), "text": b"hello " * (size // 6)}[what])

    assert spoiled(written, written.parent / f"over-{what}", overwrite) == "damaged"


@pytest.mark.parametrize("what", ["random", "zeros"])
def test_a_store_with_a_spoiled_page_never_ends_in_a_signal(written: Path, what: str) -> None:
    """LMDB has no checksums: a spoiled value may read as another one, but the process must survive."""
    dice = random.Random(7)
    pages = (written / "data.mdb").stat().st_size // 4096
    for page in [0, 1, *dice.sample(range(2, min(pages, 200)), 4)]:

        def spoil(data: Path, page: int = page) -> None:
            with data.open("r+b") as file:
                file.seek(page * 4096)
                file.write(bytes(4096) if what == "zeros" else dice.randbytes(4096))

        assert spoiled(written, written.parent / f"page-{what}-{page}", spoil) in ("damaged", "lost", "whole")


# -- one hall, several opens ------------------------------------------------------------------------------------------


def test_two_opens_in_one_process_share_one_session_and_one_close_leaves_the_other(hall_name: str) -> None:
    one, other = guildhall.open(hall_name), guildhall.open(hall_name)
    assert one.host.session == other.host.session
    Variable("v", hall=one).set(1)
    lock = Lock("l", hall=other)
    lock.acquire()
    one.close()
    one.close()
    one.close()
    assert Variable("v", hall=other).get(timeout=0) == 1
    assert lock.locked()
    other.close()


def test_a_closed_hall_says_so(hall_name: str) -> None:
    hall, other = guildhall.open(hall_name), guildhall.open(hall_name)
    variable = Variable("v", hall=hall)
    hall.close()
    with pytest.raises(Misuse, match=f"{hall_name}.*closed"):
        Variable("v", hall=hall)
    other.close()
    assert "closed" in repr(hall)
    for call in (variable.get, lambda: variable.set(1), variable.delete):
        with pytest.raises(Misuse, match=f"{hall_name}.*closed"):
            call()
    with guildhall.open(hall_name) as again:
        Variable("v", hall=again).set(2)


def test_a_link_leads_to_the_same_hall(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    with guildhall.open(tmp_path / "real" / "h") as one, guildhall.open(tmp_path / "link" / "h") as other:
        assert one.host is other.host
        (tmp_path / "direct").symlink_to(tmp_path / "real" / "h")
        with guildhall.open(tmp_path / "direct") as third:
            assert third.host is one.host
            code = (
                "import sys, guildhall; print(guildhall.Variable('v', hall=guildhall.open(sys.argv[1])).get(timeout=5))"
            )
            Variable("v", hall=third).set("same")
            for name in ("direct", "link/h"):
                said = subprocess.check_output([sys.executable, "-c", code, str(tmp_path / name)], text=True)
                assert said == "same\n"


def test_fifty_processes_that_open_a_hall_at_once_are_all_in_it(hall_name: str, tmp_path: Path) -> None:
    def enter(place: Any, number: int, read: int) -> None:
        os.read(read, 1)
        with guildhall.open(place) as hall:
            Queue("here", hall=hall).put(number)

    for round_number in range(20):
        place: Any = f"{hall_name}-{round_number}" if round_number % 2 else tmp_path / f"h{round_number}"
        read, write = os.pipe()
        children = [Child(enter, place, number, read) for number in range(50)]
        os.write(write, b"." * 50)
        for child in children:
            child.result()
        with guildhall.open(place) as hall:
            assert sorted(Queue("here", hall=hall).get(batch=True)) == list(range(50))
            path = Path(hall.path)
        assert not [p for p in path.parent.iterdir() if ".new-" in p.name or ".gone-" in p.name]
        shutil.rmtree(path)
        os.close(read)
        os.close(write)


def test_threads_that_open_and_close_a_hall_at_once_leave_it_whole(hall_name: str) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(60):
                with guildhall.open(hall_name) as hall:
                    Variable(f"v{number}", hall=hall).set(1)
                with guildhall.open(hall_name), guildhall.open() as private:
                    Variable("v", hall=private).set(1)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_a_hall_opened_again_as_durable_is_durable_for_this_process(tmp_path: Path) -> None:
    with guildhall.open(tmp_path / "h") as hall:
        Variable("v", hall=hall).set(1)
        with guildhall.open(tmp_path / "h", durable=True) as durable:
            assert Variable("v", hall=durable).get() == 1
            assert durable.host._store is not None
            flags = durable.host._store._env.flags()
            assert (flags["sync"], flags["metasync"]) == (True, True)
            Variable("v", hall=hall).set(2)
            assert Variable("v", hall=durable).get() == 2


def test_a_hall_with_a_name_is_found_where_it_is_however_much_room_there_is(
    hall_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GUILDHALL_HOME")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for room_bytes, other in ((0, 1 << 62), (1 << 62, 0)):
        monkeypatch.setattr(embedded, "ROOM_BYTES", room_bytes)
        with guildhall.open(hall_name) as hall:
            path = hall.path
        monkeypatch.setattr(embedded, "ROOM_BYTES", other)
        with guildhall.open(hall_name) as hall:
            assert hall.path == path
        shutil.rmtree(path)


def test_a_hall_whose_name_speaks_of_going_stays(home: Path) -> None:
    with guildhall.open("my.gone-fishing") as hall:
        Variable("v", hall=hall).set(1)
    guildhall.open().close()
    with guildhall.open("my.gone-fishing") as hall:
        assert Variable("v", hall=hall).get(timeout=1) == 1


def test_a_mount_point_of_any_bytes_is_known_by_its_file_system(tmp_path: Path) -> None:
    for name in ("s p\u00e4ce", "\udce4"):
        point = tmp_path / name
        point.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "none", str(point)], capture_output=True).returncode:
            pytest.skip("mounting needs privileges")
        try:
            assert embedded.filesystem(str(point)) == "tmpfs"
            (point / "deep").mkdir()
            subprocess.run(["mount", "-t", "ramfs", "none", str(point / "deep")], check=True)
            assert embedded.filesystem(str(point / "deep")) == "ramfs"
        finally:
            subprocess.run(["umount", "-R", str(point)], check=True)


def test_a_path_object_is_a_path_also_without_a_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with guildhall.open(Path("state")) as hall:
        assert hall.path == str(tmp_path / "state")


@pytest.mark.parametrize("name", ["jobs", None])
def test_a_hall_in_memory_does_not_promise_to_be_durable(name: str | None) -> None:
    with pytest.raises(Misuse, match="give a path such as"):
        guildhall.open(name, durable=True)


@pytest.mark.parametrize(("age_ns", "stays"), [(0, True), (embedded.MAKING_NS * 2, False)])
def test_an_empty_private_hall_goes_though_a_process_has_its_makers_number_again(
    age_ns: int, stays: bool, home: Path
) -> None:
    with guildhall.open("other") as hall:
        root = Path(hall.path).parent
    left = root / f"private-{os.getpid()}-{time.time_ns() - age_ns:x}"
    embedded.open_hall(str(left)).close()
    with guildhall.open():
        assert left.exists() == stays


def test_a_sweeper_that_is_busy_when_it_is_closed_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    with guildhall.open() as hall:
        monkeypatch.setattr(hall.host, "settle", lambda: time.sleep(1.3))
        sweeper = Sweeper(hall.host)
        hall.host.drop(b"\x15\x01\x15\x63")
        time.sleep(0.1)
        sweeper.close()
        assert sweeper._thread.is_alive()
        sweeper._thread.join(5)
    assert not failed
