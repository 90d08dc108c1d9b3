"""Another user of the machine can neither read, ring nor join a hall, nor have this one read what is not its own.

The other user is a child that gives up root's rights, so these tests need them; the rest holds for whoever runs them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from faults import Child, eventually

import guildhall
from guildhall import Client, HallDamaged, HallRefused, Lock, Queue, Variable
from guildhall.engine.local import blobs, spilling
from guildhall.hosts import embedded, place
from guildhall.store import lmdb as lmdb_store

NOBODY = 65534
BIG = b"x" * 200_000
PIDFD_GETFD = 438

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


class Evil:
    """Whoever unpickles it makes a directory."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def as_nobody(function: Callable[..., Any], *args: Any) -> Any:
    """What the function returns to a process of another user."""
    return Child(_demoted, function, args).result()


def _demoted(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return function(*args)


def outcome(function: Callable[..., Any], *args: Any) -> str:
    """The name of the error that it raises; "done"."""
    try:
        function(*args)
    except Exception as error:
        return type(error).__name__
    return "done"


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory like /tmp, which is also the home of halls and the temporary directory."""
    made = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="guildhall-shared-"))
    made.chmod(0o1777)
    monkeypatch.setenv("GUILDHALL_HOME", str(made))
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def open_to_all(shared: Path) -> Path:
    """The same, without the bit that keeps others from renaming and removing what is there."""
    shared.chmod(0o777)
    return shared


# -- a hall that is in use --------------------------------------------------------------------------------------------


def attacks(path: Path) -> list[Callable[[], Any]]:
    """What another user may try with a file or directory of a hall."""
    tries: list[Callable[[], Any]] = [
        lambda: os.listdir(path) if path.is_dir() else path.read_bytes(),
        lambda: os.close(os.open(path, os.O_RDONLY)),
        lambda: os.truncate(path, 0),
        lambda: os.rename(path, path.with_name("taken")),
        lambda: path.chmod(0o777),
        lambda: os.symlink("/", path / "planted"),
    ]
    if path.suffix not in (".mdb", ".marks") and path.parent.name == "bells":
        tries.append(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"!", str(path)))
    return tries


def attack(paths: list[Path], pid: int) -> list[str]:
    """The outcomes that are not a refusal, of all that another user tries with those paths and that process."""
    done = []
    for path in paths:
        for number, attempt in enumerate(attacks(path)):
            if (answer := outcome(attempt)) not in ("PermissionError", "NotADirectoryError", "IsADirectoryError"):
                done.append(f"{number} at {path}: {answer}")
    for what in ("fd", "root/proc", "map_files"):
        done += [what] if outcome(os.listdir, f"/proc/{pid}/{what}") != "PermissionError" else []
    for what in ("mem", "environ"):
        done += [what] if outcome(Path(f"/proc/{pid}/{what}").read_bytes) != "PermissionError" else []
    pidfd = os.pidfd_open(pid)
    done += [f"descriptor {fd}" for fd in range(40) if ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0) >= 0]
    os.close(pidfd)
    return done


def join(name: str, path: str) -> list[str]:
    calls: list[Callable[[], Any]] = [
        lambda: guildhall.open(path),
        lambda: guildhall.open(Path(path)),
        lambda: guildhall.observe(path),
        lambda: guildhall.observe(name),
        lambda: guildhall.remove(path, force=True),
    ]
    return [outcome(call) for call in calls]


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0])
def test_another_user_can_neither_read_nor_ring_nor_join(shared: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        hall = guildhall.open("jobs")
        Variable("small", hall=hall).set("secret")
        Variable("large", hall=hall).set(BIG)
        (blob,) = os.listdir(Path(hall.path) / "blobs")
        assert spilling.move(hall.host, blob)
        Queue("q", hall=hall).put(1)
        Queue("q", hall=hall).get()  # Marks the thread's word.
        bell = hall.host.bell()
    finally:
        os.umask(before)
    (spilled,) = (path for path in shared.iterdir() if path.is_file())
    parts = [path for path in Path(hall.path).rglob("*") if path.exists()]
    assert {"data.mdb", "lock.mdb", "members", "guard", blob} <= {path.name for path in parts}
    assert any(path.is_socket() for path in parts)
    home = Path(hall.path).parent
    hall.host.done(bell)

    def report() -> Any:
        return attack([home, Path(hall.path), *parts, spilled], os.getppid()), join("jobs", hall.path)

    done, joined = as_nobody(report)
    assert done == []
    assert set(joined) <= {"HallRefused", "NoHall", "Misuse"}, joined
    assert "done" not in joined
    assert Variable("small", hall=hall).get() == "secret"
    assert Variable("large", hall=hall).get() == BIG
    hall.close()


def sockets_of(process: psutil.Process) -> set[str]:
    """The names of the process's local sockets; those made as pairs have none."""
    inodes = {link[8:-1] for fd in os.listdir(f"/proc/{process.pid}/fd") if (link := _link(process.pid, fd))}
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    return {row[7] for row in rows if row[6] in inodes and len(row) > 7}


def _link(pid: int, fd: str) -> str:
    with suppress(OSError):
        link = os.readlink(f"/proc/{pid}/fd/{fd}")
        return link if link.startswith("socket:") else ""
    return ""


def test_every_socket_that_has_a_name_is_a_bell_in_a_hall(client: Client) -> None:
    """Those of the fork server and of workers are pairs, which nobody can connect to; none has an abstract name."""
    lock = Lock("l", hall=client)
    with lock:
        waiting = client.submit(lambda: Lock("l").acquire(timeout=5))
        assert eventually(lambda: any(sockets_of(p) for p in psutil.Process().children(recursive=True)))
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        named = {name for process in processes for name in sockets_of(process)}
    assert waiting.result()
    assert len(processes) >= 4
    for name in named:
        assert name.startswith("/proc/self/fd/"), name
        assert name.rsplit("/", 1)[1].replace(".", "").isdigit(), name


def test_forged_rings_are_harmless(hall_name: str, tmp_path: Path) -> None:
    """A ring says nothing but "look again": what is in it is thrown away."""
    hall = guildhall.open(hall_name)

    def wait() -> bool:
        with guildhall.open(hall_name) as mine:
            return Lock("l", hall=mine).acquire(timeout=10)

    lock = Lock("l", hall=hall)
    lock.acquire()
    child = Child(wait)
    bells = Path(hall.path) / "bells"
    assert eventually(lambda: any(path.is_socket() for path in bells.iterdir()))
    evil = b"\x80\x05" + b"cos\nmkdir\n(V" + str(tmp_path / "mark").encode() + b"\ntR."
    until, sent = time.monotonic() + 0.3, 0
    forger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    forger.setblocking(False)
    while time.monotonic() < until:
        for path in bells.iterdir():
            for message in (b"!", evil, os.urandom(60_000), b"\0" * 17):
                with suppress(BlockingIOError):
                    forger.sendto(message, str(path)) if path.is_socket() else None
                    sent += 1
    forger.close()
    assert sent > 100
    assert lock.locked()
    lock.release()
    assert child.result() is True
    assert not (tmp_path / "mark").exists()
    hall.close()


# -- what others planted before ---------------------------------------------------------------------------------------


def plant(what: str, path: Path, target: Path) -> None:
    if what == "directory":
        path.mkdir(mode=0o700)
    elif what == "open directory":
        path.mkdir()
        path.chmod(0o777)
    elif what == "file":
        path.write_text("")
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(str(path))
    else:
        path.symlink_to(target if what == "link to ours" else path.parent / "theirs")
        with suppress(FileExistsError):
            (path.parent / "theirs").mkdir(mode=0o777)


PLANTED = ["directory", "open directory", "file", "pipe", "socket", "link to ours", "link to theirs"]


@needs_root
@pytest.mark.parametrize("what", PLANTED)
def test_what_another_user_planted_in_place_of_the_home_is_refused(shared: Path, tmp_path: Path, what: str) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    as_nobody(plant, what, shared / f"guildhall-{os.getuid()}", ours)
    for name in ("jobs", None):
        with pytest.raises(HallRefused):
            guildhall.open(name)
    assert list(ours.iterdir()) == []


@needs_root
@pytest.mark.parametrize("what", PLANTED)
def test_what_another_user_planted_in_place_of_a_hall_is_refused(shared: Path, tmp_path: Path, what: str) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    as_nobody(plant, what, shared / "h", ours)
    with pytest.raises(HallRefused):
        guildhall.open(shared / "h")
    assert list(ours.iterdir()) == []


@needs_root
@pytest.mark.parametrize("what", ["link to ours", "link to theirs"])
@pytest.mark.parametrize("below", ["h", "deep/h", "../h"])
def test_a_link_that_another_user_planted_on_the_way_is_not_followed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, below: str
) -> None:
    ours = tmp_path / "ours"
    ours.mkdir(mode=0o700)
    as_nobody(plant, what, shared / "x", ours)
    with pytest.raises(HallRefused, match=f"user {NOBODY} has put"):
        guildhall.open(f"{shared}/x/{below}")
    with pytest.raises(HallRefused, match=f"user {NOBODY} has put"):
        guildhall.observe(f"{shared}/x/{below}")
    monkeypatch.setenv("GUILDHALL_HOME", f"{shared}/x")
    with pytest.raises(HallRefused, match=f"user {NOBODY} has put"):
        guildhall.open("jobs")
    assert list(ours.iterdir()) == []


def test_links_of_ones_own_are_followed_and_loops_are_refused(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (shared / "one").symlink_to(tmp_path / "real")
    (shared / "two").symlink_to("one/../real")
    (shared / "loop").symlink_to("loop")
    assert place.resolved(f"{shared}/two/./h/") == os.path.realpath(f"{shared}/two/h")
    with guildhall.open(f"{shared}/two/h") as hall:
        assert hall.path == str(tmp_path / "real" / "h")
    with pytest.raises(HallRefused, match="loop"):
        guildhall.open(f"{shared}/loop/h")


def planted_hall(path: Path, mark: str) -> None:
    """A hall of another user, whose values are traps."""
    with guildhall.open(path) as hall:
        Variable("v", hall=hall).set(Evil(mark))


@needs_root
def test_a_hall_that_is_exchanged_behind_the_check_is_not_read(
    open_to_all: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a directory where everybody may rename everything."""
    ours, theirs, mark = open_to_all / "h", open_to_all / "planted", str(open_to_all / "mark")
    with guildhall.open(ours) as hall:
        Variable("v", hall=hall).set("ours")
    as_nobody(planted_hall, theirs, mark)
    check = embedded._check_parts

    def exchange() -> None:
        os.rename(ours, open_to_all / "taken")
        os.rename(theirs, ours)

    def checked(what: Any) -> None:
        check(what)
        if theirs.exists():
            as_nobody(exchange)

    monkeypatch.setattr(embedded, "_check_parts", checked)
    with pytest.raises(HallRefused, match=f"user {NOBODY}"):  # It sees that its hall is not there any more.
        guildhall.open(ours)
    assert not os.path.exists(mark)


@needs_root
def test_a_hall_that_is_exchanged_while_it_is_open_goes_on(open_to_all: Path) -> None:
    ours, theirs, mark = open_to_all / "h", open_to_all / "planted", str(open_to_all / "mark")
    with guildhall.open(ours) as hall:
        Variable("large", hall=hall).set(BIG)
        as_nobody(planted_hall, theirs, mark)

        def exchange() -> None:
            os.rename(ours, open_to_all / "taken")
            os.rename(theirs, ours)

        as_nobody(exchange)
        assert Variable("large", hall=hall).get() == BIG
        Variable("later", hall=hall).set(BIG)
        assert Variable("later", hall=hall).get() == BIG
        assert Lock("l", hall=hall).acquire(timeout=0)
        pid = os.fork()
        if not pid:  # A forked child opens all of it anew.
            os._exit(Variable("large", hall=hall).get() != BIG)
        assert os.waitpid(pid, 0)[1] == 0
    assert not os.path.exists(mark)


@needs_root
def test_a_hall_is_made_where_others_exchange_directories(
    open_to_all: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They put links in place of what is being made: nothing is written through them."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    create = lmdb_store.LmdbStore.create

    def exchange() -> None:
        (aside,) = open_to_all.glob(".new-*")
        os.rename(aside, open_to_all / "taken")
        os.mkdir(aside)
        for name in ("guard", "namespace", "data.mdb", "lock.mdb", "ballast"):
            os.symlink(precious, aside / name)

    def created(directory: str, **options: Any) -> None:
        as_nobody(exchange)
        create(directory, **options)

    monkeypatch.setattr(embedded.LmdbStore, "create", created)
    with pytest.raises(HallRefused):
        guildhall.open(open_to_all / "h")
    assert precious.read_text() == "mine"


# -- what others put in place of what is ours -------------------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("what", ["trap", "pipe", "nothing", "shorter"])
def test_a_spilled_value_that_another_user_replaced_is_not_read(open_to_all: Path, what: str) -> None:
    mark = str(open_to_all / "mark")
    with guildhall.open("jobs") as hall:
        variable = Variable("v", hall=hall)
        variable.set([Evil(mark), BIG])
        (blob,) = os.listdir(Path(hall.path) / "blobs")
        assert spilling.move(hall.host, blob)
        (spilled,) = (path for path in open_to_all.iterdir() if path.is_file())
        good = spilled.read_bytes()

        def replace() -> None:
            spilled.unlink()
            if what == "trap":
                spilled.write_bytes(good)
            elif what == "pipe":
                os.mkfifo(spilled)

        if what == "shorter":
            os.truncate(spilled, 0)
        else:
            as_nobody(replace)
        with pytest.raises(HallDamaged):
            variable.get()
        assert not os.path.exists(mark)
        variable.delete()
    spilled.unlink(missing_ok=True)


def test_a_value_that_moves_to_disk_is_never_readable_by_others(
    hall_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    copy = shutil.copyfileobj

    def copied(source: Any, target: Any) -> None:
        modes.append(stat.S_IMODE(os.fstat(target.fileno()).st_mode))
        copy(source, target)

    monkeypatch.setattr(spilling.shutil, "copyfileobj", copied)
    before = os.umask(0)
    try:
        with guildhall.open(hall_name) as hall:
            Variable("v", hall=hall).set(BIG)
            (blob,) = os.listdir(Path(hall.path) / "blobs")
            assert spilling.move(hall.host, blob)
            assert Variable("v", hall=hall).get() == BIG
            Variable("v", hall=hall).delete()
    finally:
        os.umask(before)
    assert modes == [0o600]


@needs_root
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_a_hall_that_is_removed_takes_no_other_files_along(tmp_path: Path, owner: int) -> None:
    """Blobs are removed where their links lead: those that we made lead to files that are called as we call them."""
    precious = tmp_path / "papers"
    precious.write_text("mine")
    (tmp_path / "h" / "blobs").mkdir(parents=True)
    (tmp_path / "h" / "blobs" / "1-1-00").symlink_to(precious)
    if owner:
        (tmp_path / "h" / "blobs" / "1-2-00").symlink_to(tmp_path / f"guildhall-{os.getuid()}-precious")
        (tmp_path / f"guildhall-{os.getuid()}-precious").write_text("mine")
    (tmp_path / "h").chmod(0o700)
    os.chown(tmp_path / "h", owner, -1)
    embedded._erase(str(tmp_path / "h"))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"papers"} | ({f"guildhall-{os.getuid()}-precious"} if owner else set())


def test_what_is_made_on_the_way_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0)
    try:
        guildhall.open(tmp_path / "a" / "b" / "h").close()
        monkeypatch.setenv("GUILDHALL_HOME", str(tmp_path / "c" / "d"))
        guildhall.open().close()
    finally:
        os.umask(before)
    for made in ("a", "a/b", "a/b/h", "c", "c/d"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700, made


def test_a_blob_is_named_and_sized_as_it_was_written(hall: guildhall.Hall) -> None:
    """A record that names a file elsewhere, or parts that the file does not have, reads nothing."""
    import msgspec

    for described in (("../namespace", [1]), ("/etc/passwd", [1]), ("x", []), ("x", [-1, 5]), (1, [2]), "junk"):
        with pytest.raises(HallDamaged):
            blobs.read(hall.host, blobs.BLOB + msgspec.msgpack.encode(described))


@needs_root
@pytest.mark.parametrize("part", ["data.mdb", "lock.mdb", "guard", "members"])
def test_a_part_that_may_not_be_read_is_named(shared: Path, part: str) -> None:
    """Of a hall of one's own: root may read everything, so it is the other user's."""
    as_nobody(planted_hall, shared / "h", "mark")
    (shared / "h" / part).chmod(0)

    def look() -> str:
        with pytest.raises(HallRefused, match="Permission denied"):
            guildhall.open(shared / "h")
        with pytest.raises(HallRefused) as told:
            guildhall.observe(shared / "h")
        return str(told.value)

    assert f"its {part} cannot be looked at: Permission denied; make it readable" in as_nobody(look)


# -- long paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [90, 107, 108, 109, 250, 3000])
def test_sleepers_are_woken_however_long_the_path_is(tmp_path: Path, length: int) -> None:
    """A socket's path holds 107 bytes."""
    path = str(tmp_path)
    while len(path) + 1 < length - 2:
        path += "/" + "d" * min(200, length - 2 - len(path) - 1)
    with guildhall.open(f"{path}/h") as hall:

        def wait() -> bool:
            with guildhall.open(f"{path}/h") as mine:
                return guildhall.Event("e", hall=mine).wait(10)

        child = Child(wait)
        assert eventually(lambda: any(name.is_socket() for name in (Path(hall.path) / "bells").iterdir()))
        began = time.monotonic()
        guildhall.Event("e", hall=hall).set()
        assert child.result()
        assert time.monotonic() - began < 0.9  # Rung: who looks by itself does so once a second.
    shutil.rmtree(tmp_path / "d", ignore_errors=True)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    for below in ("x" * 256 + "/h", "/".join(["d" * 200] * 25)):
        with pytest.raises(HallRefused, match="too long"):
            guildhall.open(f"{tmp_path}/{below}")
